"""From what the label column holds to an index into the labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retrainer.artifacts.snapshot import SplitName
from retrainer.errors import DataError
from retrainer.spec.problems import listed, nearest
from retrainer.work.ingest.rows import RawRows

_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?")
NO_LABEL = -1

Pools = Mapping[SplitName, Sequence[RawRows]]


def index_labels(
    pools: Pools, given: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[SplitName, npt.NDArray[np.int64]]]:
    """The labels, and for each pool the index of each of its rows, -1 where a row has no label.

    Names that the pipeline gives, or that a dataset of the hub brings, keep their order. Otherwise the labels are
    those of train, sorted; by number where all are whole numbers. Numbers 0..n-1 count into given names.

    :raises DataError: train has fewer than two labels; a row has a label that is not among them.
    """
    values = {split: [_named(rows, given) for rows in pool] for split, pool in pools.items()}
    names = {split: _names(columns, given) for split, columns in values.items()}
    labels = given or _found(pools["train"], values["train"], names["train"])
    if given is None and len(labels) < 2:
        raise DataError(
            f"only one label, '{labels[0]}'" if labels else "no row has a label",
            where=_where(pools["train"]),
            hint="a classifier needs rows of at least two; a slice of a sorted dataset may hold only one",
        )
    indexed = {
        split: np.concatenate(
            [
                _indices(rows, column, names[split], labels, given is not None, split)
                for rows, column in zip(pool, values[split], strict=True)
            ]
        )
        for split, pool in pools.items()
    }
    return labels, indexed


def _where(pool: Sequence[RawRows]) -> str:
    return pool[0].where + (f" and {len(pool) - 1} more" if len(pool) > 1 else "")


def _named(rows: RawRows, given: tuple[str, ...] | None) -> pa.Array:
    """A file's labels, its numbers replaced by the names that the file itself brings.

    Given names of the same number that are others rename them: the numbers then stay, and count into those.
    """
    own = rows.label_names
    if own is None or (given is not None and len(given) == len(own) and set(given) != set(own)):
        return rows.labels
    numbers = {str(at): name for at, name in enumerate(own)}
    return pa.array([numbers.get(value, value) for value in rows.labels.to_pylist()], pa.large_string())


def _names(columns: Sequence[pa.Array], given: tuple[str, ...] | None) -> dict[str, str]:
    """Each value of a pool to the name it means."""
    values = {value for column in columns for value in pc.unique(column).to_pylist() if value is not None}
    wholes = {value: match[1] for value in values if (match := _WHOLE.fullmatch(value))}
    if given is not None and values <= set(given):
        return {value: value for value in values}
    if len(wholes) < len(values):
        return {value: value for value in values}
    # All are whole numbers, and 1.0 is what 1 becomes in a column that also has gaps.
    if given is not None and not set(wholes.values()) <= set(given):
        numbered = {str(at): name for at, name in enumerate(given)}
        # Only all together: were some numbers indices and others names, labels would be swapped in silence.
        if set(wholes.values()) <= set(numbered):
            return {value: numbered[whole] for value, whole in wholes.items()}
    return wholes


def _found(pool: Sequence[RawRows], columns: Sequence[pa.Array], names: Mapping[str, str]) -> tuple[str, ...]:
    present = {names[value] for column in columns for value in pc.unique(column).to_pylist() if value is not None}
    own = pool[0].label_names
    if own is not None and present <= set(own):
        return tuple(name for name in own if name in present)
    if all(_WHOLE.fullmatch(name) for name in present):
        return tuple(sorted(present, key=int))
    return tuple(sorted(present))


def _indices(
    rows: RawRows,
    column: pa.Array,
    names: Mapping[str, str],
    labels: tuple[str, ...],
    given: bool,
    split: SplitName,
) -> npt.NDArray[np.int64]:
    position = {label: at for at, label in enumerate(labels)}
    encoded = column.dictionary_encode()
    unknown = len(labels)
    table = np.array(
        [position.get(names[value], unknown) for value in encoded.dictionary.to_pylist()] or [NO_LABEL],
        dtype=np.int64,
    )
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    indices: npt.NDArray[np.int64] = np.where(codes < 0, NO_LABEL, table[codes])
    if (indices == unknown).any():
        raise _unknown(rows, column, indices == unknown, labels, given, split)
    return indices


def _unknown(
    rows: RawRows,
    column: pa.Array,
    bad: npt.NDArray[np.bool_],
    labels: tuple[str, ...],
    given: bool,
    split: SplitName,
) -> DataError:
    first = int(np.flatnonzero(bad)[0])
    value = column[first].as_py()
    counts = Counter(column.filter(pa.array(bad)).to_pylist())
    near = nearest(value, labels)
    what = "dataset.labels" if given else "the labels of train"
    counted = f"numbers from 0 to {len(labels) - 1} count into dataset.labels" if given else None
    hint = f"did you mean '{near}'?" if near else counted if _WHOLE.fullmatch(value) else None
    others = f"; {len(counts) - 1} other unknown label(s) too" if len(counts) > 1 else ""
    return DataError(
        f"unknown label '{value}' in {split} ({counts[value]:,} row{'s' * (counts[value] != 1)}){others}; "
        f"{what}: {listed(labels[:20])}",
        where=f"{rows.where}, row {first + 1}",
        hint=hint,
    )
