"""A file about the rows a model was trained on, by which texts that are nearly one of them are found later.

It lies in the model's bundle. There is no text in it, nor any word: a sketch of 32 bytes for each row (64 for
pairs) from which similarity is estimated, and the word keys of all rows together, cut to 40 bits and in order, three
to five bytes each: one for the row, and one for each of its words if it has 5 to 32. 100,000 lines of twelve words are
7 MB. Like the hashes of rows that are in a bundle anyway, they tell who has a text whether the model was trained on it,
or on nearly the same.

Because no text is at hand, nothing is verified. A text counts when it is at most one standard error below the
threshold, so that few true ones are missed; the more rows come near it, the more it must be above, or in templated
data all texts would count. A text of 20 words matches one of 2.5 million word keys by accident with a chance of one in
10,000.

Layout, little-endian::

    magic 8s, version u16, parts u16 (2 for pairs), key_width u32, groups u64, rows u64, keys u64
    probe                what the functions say of a text that never changes: 8 + 32 bytes
    groups x (u64, u64)  hash of a label, its number of rows; ordered by hash
    rows x 32 x parts    sketches, group after group, in byte order
    keys x key_width     differences between word keys one after the other
    digest               BLAKE2b of all before it, 32 bytes
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from retrainer.errors import IntegrityError
from retrainer.work.near.features import Features, features, fewest_words
from retrainer.work.near.search import BATCH_ROWS
from retrainer.work.near.sketches import SKETCH_BYTES, U64, Bytes, SketchIndex, standard_error
from retrainer.work.snapshot_texts import Text, text_columns, texts_of

FORMAT_VERSION = 1
# Of rows that have no label, all alike.
NO_LABEL = ""
_MAGIC = b"NEARROWS"
_HEADER = struct.Struct("<8sHHIQQQ")
_GROUP = np.dtype([("label", "<u8"), ("rows", "<u8")])
_DIGEST_BYTES = 32
_KEY_BITS = np.uint64(40)
_DROPPED_BITS = np.uint64(64) - _KEY_BITS
_PROBE = "The quick brown fox jumps over 13 lazy dogs – déjà vu, naïve ＦＵＬＬ ﬁgures, ½ 漢字 🤘."

Progress = Callable[[int], None]


def write_index(
    train: Path, labels: Sequence[str], target: Path, progress: Progress | None = None, *, also: Path | None = None
) -> None:
    """Write the file about the rows of a snapshot's split. The same rows, in any order, give the same bytes.

    :param train: the split's parquet file.
    :param labels: the snapshot's label names, in the order of its indices; none where its rows have no label.
    :param progress: told how many rows are done.
    :param also: a file about other rows, such as those of a model that is part of the weights: what is in it and not
        in the split is added.
    :raises IntegrityError: that file cannot be used.
    """
    hashed = lru_cache(maxsize=None)(_label)
    rows_labels, sketches, keys = [], [], []
    done, parts = 0, 1
    for texts, names in _batches(train, labels):
        made = features(texts)
        hashes = np.array([hashed(name) for name in names], dtype=np.uint64)
        parts = made.sketches.shape[1] // SKETCH_BYTES
        sketches.append(made.sketches)
        rows_labels.append(hashes)
        keys.append(np.unique(made.to_store(hashes)[0] >> _DROPPED_BITS))
        done += len(texts)
        if progress:
            progress(done)
    of_row = np.concatenate(rows_labels) if rows_labels else np.zeros(0, np.uint64)
    sketch = np.concatenate(sketches) if sketches else np.zeros((0, SKETCH_BYTES), np.uint8)
    if also is not None:
        of_row, sketch, key_of_other = _with_others(of_row, sketch, _read(also), str(also))
        keys.append(key_of_other)
    order = np.lexsort([*sketch.T[::-1], of_row])
    found, counts = np.unique(of_row, return_counts=True)
    groups = np.zeros(len(found), dtype=_GROUP)
    groups["label"], groups["rows"] = found, counts
    key = np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.uint64)
    width, packed = _pack(key)
    header = _HEADER.pack(_MAGIC, FORMAT_VERSION, parts, width, len(groups), len(of_row), len(key))
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    with target.open("wb") as stream:
        for block in (header, _probe(), groups.tobytes(), sketch[order].tobytes(), packed):
            digest.update(block)
            stream.write(block)
        stream.write(digest.digest())


def _with_others(of_row: U64, sketch: Bytes, other: _Content, where: str) -> tuple[U64, Bytes, U64]:
    """Labels and sketches of the rows, then those of another file that are not among them; and its keys."""
    if other.parts * SKETCH_BYTES != sketch.shape[1]:
        raise IntegrityError("the index of training rows is about texts of another kind", where=where)
    known = set(zip(of_row.tolist(), map(bytes, sketch), strict=True))
    added = [
        (label, bytes(row)) for label, rows in other.groups.items() for row in rows if (label, bytes(row)) not in known
    ]
    if not added:
        return of_row, sketch, other.keys
    labels = np.array([label for label, _ in added], dtype=np.uint64)
    sketches = np.frombuffer(b"".join(row for _, row in added), dtype=np.uint8).reshape(len(added), -1)
    return np.concatenate([of_row, labels]), np.concatenate([sketch, sketches]), other.keys


def near_rows(
    index: Path, texts: Sequence[Text], labels: Sequence[str], similarity: float | None
) -> npt.NDArray[np.bool_]:
    """Which texts are nearly one that the index is about, with the same label.

    :param labels: the name of each text's label, or of its set of labels, see :func:`name_of_set`.
    :param similarity: from which on texts count as nearly the same; none do where it is ``None``.
    :return: bool [texts].
    :raises IntegrityError: the file is damaged, cut short, of another format, or about texts of another kind.
    :raises FileNotFoundError: there is no such file.
    """
    near = np.zeros(len(texts), dtype=np.bool_)
    if similarity is None or not len(texts):
        return near
    content = _read(index)
    parts = 1 if isinstance(texts[0], str) else 2
    if not content.rows:
        return near
    if parts != content.parts:
        about, asked_for = (("single texts", "pairs")[count - 1] for count in (content.parts, parts))
        raise IntegrityError(f"the index of training rows is about {about}, not {asked_for}", where=str(index))
    fewest = fewest_words(similarity)
    hashes = np.array([_label(name) for name in labels], dtype=np.uint64)
    groups = {label: SketchIndex(sketches, np.arange(len(sketches))) for label, sketches in content.groups.items()}
    for start in range(0, len(texts), BATCH_ROWS):
        asked = features(texts[start : start + BATCH_ROWS])
        label = hashes[start : start + BATCH_ROWS]
        keys, rows = asked.to_ask(label, fewest)
        here = near[start : start + BATCH_ROWS]
        here[rows[_stands_in(keys >> _DROPPED_BITS, content.keys)]] = True
        _by_sketches(asked, label, groups, similarity, here)
    return near


def _by_sketches(
    asked: Features, labels: U64, groups: dict[int, SketchIndex], similarity: float, near: npt.NDArray[np.bool_]
) -> None:
    error = standard_error(similarity)
    for label in np.unique(labels):
        group = groups.get(int(label))
        if group is None:
            continue
        rows = np.flatnonzero((labels == label) & ~near)
        for at, _, estimates in group.candidates(asked.sketches[rows], similarity - 2 * error):
            # Among many rows a little below the threshold, some seem to be above it: the largest of n normal errors
            # is about sqrt(2 ln n) standard deviations (Cramer 1946, section 28.6).
            allowance = np.sqrt(2 * np.log(len(estimates))) - 1
            near[rows[at]] |= estimates[0] >= similarity + allowance * error


@dataclass(frozen=True, slots=True)
class _Content:
    parts: int
    rows: int
    groups: dict[int, Bytes]
    keys: U64


def _read(path: Path) -> _Content:
    data = path.read_bytes()
    where = str(path)
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise IntegrityError("not an index of training rows", where=where)
    _, version, parts, width, groups, rows, keys = _HEADER.unpack_from(data)
    if version != FORMAT_VERSION:
        raise IntegrityError(
            f"format {version} of an index of training rows; this version reads {FORMAT_VERSION}",
            where=where,
            hint="it was written by another version of retrainer",
        )
    sizes = [_HEADER.size, len(_probe()), groups * _GROUP.itemsize, rows * SKETCH_BYTES * parts, keys * width]
    ends = [sum(sizes[: at + 1]) for at in range(len(sizes))]
    digest = hashlib.blake2b(data[: ends[-1]], digest_size=_DIGEST_BYTES).digest()
    if len(data) != ends[-1] + _DIGEST_BYTES or data[ends[-1] :] != digest:
        raise IntegrityError("the index of training rows is damaged or cut short", where=where)
    if data[ends[0] : ends[1]] != _probe():
        raise IntegrityError(
            "the index of training rows was made with other hash functions",
            where=where,
            hint="use the versions of retrainer and Python it was made with",
        )
    table = np.frombuffer(data[ends[1] : ends[2]], dtype=_GROUP)
    sketches = np.frombuffer(data[ends[2] : ends[3]], dtype=np.uint8).reshape(rows, SKETCH_BYTES * parts)
    borders = np.cumsum(table["rows"]).astype(np.int64)[:-1]
    return _Content(
        parts=parts,
        rows=rows,
        groups={int(label): part for label, part in zip(table["label"], np.split(sketches, borders), strict=True)}
        if len(table)
        else {},
        keys=_unpack(data[ends[3] : ends[4]], keys, width),
    )


def name_of_set(labels: Iterable[str]) -> str:
    """What stands for a set of labels where a row has any number of them: in whatever order, of whatever model."""
    return json.dumps(sorted(labels), ensure_ascii=False)


def _batches(train: Path, labels: Sequence[str]) -> Iterator[tuple[list[Text], list[str]]]:
    """Texts, and the name of each one's label, or of its set of labels."""
    of_set = lru_cache(maxsize=None)(lambda indices: name_of_set(labels[at] for at in indices))
    with pq.ParquetFile(train) as file:
        present = file.schema_arrow.names
        labelled = "label" in present
        columns = [*text_columns(present), *(["label"] if labelled else [])]
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            found = batch.column("label").to_pylist() if labelled else []
            names = [of_set(tuple(one)) if isinstance(one, list) else labels[one] for one in found]
            yield texts_of(batch), names or [NO_LABEL] * batch.num_rows


def _label(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


@lru_cache(maxsize=1)
def _probe() -> bytes:
    made = features([_PROBE])
    return made.whole.astype("<u8").tobytes() + made.sketches.tobytes()


def _pack(keys: U64) -> tuple[int, bytes]:
    """Ordered numbers as differences, all in the fewest bytes that hold the largest of them."""
    steps = np.diff(keys, prepend=np.uint64(0)).astype("<u8")
    width = max(1, (int(steps.max(initial=0)).bit_length() + 7) // 8)
    return width, steps.view(np.uint8).reshape(-1, 8)[:, :width].tobytes()


def _unpack(packed: bytes, keys: int, width: int) -> U64:
    steps = np.zeros((keys, 8), dtype=np.uint8)
    steps[:, :width] = np.frombuffer(packed, dtype=np.uint8).reshape(keys, width)
    return np.cumsum(steps.view("<u8").reshape(-1).astype(np.uint64))


def _stands_in(keys: U64, ordered: U64) -> npt.NDArray[np.bool_]:
    at = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
    result: npt.NDArray[np.bool_] = ordered[at] == keys
    return result
