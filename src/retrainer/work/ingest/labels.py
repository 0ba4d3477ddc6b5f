"""From what the label column holds to an index into the labels.

What a spelling means is settled once, for all splits, files and formats: by ``label_names``, and by the names
that the pipeline gives, or that a file brings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from retrainer.artifacts.snapshot import SplitName
from retrainer.errors import DataError
from retrainer.label_names import (
    BOOLEANS,
    VECTOR_HINT,
    begins_with_number,
    canonical,
    is_whole,
    look_alikes,
    members,
    ordered,
    refuse_look_alikes,
    settle,
    spelled,
)
from retrainer.spec.problems import listed, nearest
from retrainer.work.ingest.label_sets import LabelSets
from retrainer.work.ingest.rows import RawRows

NO_LABEL = -1

Pools = Mapping[SplitName, Sequence[RawRows]]


class Indexed(NamedTuple):
    """All labels.

    :ivar labels: in their order.
    :ivar indices: for each pool the index of each of its rows, -1 where its label is missing; the code of its set where
        rows have any number of labels.
    :ivar spellings: of labels that are not spelled in one way, and as they are called: each spelling, with its rows.
    :ivar sets: what the codes mean; ``None`` where a row has one label.
    """

    labels: tuple[str, ...]
    indices: dict[SplitName, npt.NDArray[np.int64]]
    spellings: dict[str, dict[str, int]]
    sets: LabelSets | None = None


@dataclass
class _File:
    """The labels of one file.

    :param spellings: each once.
    :param codes: for each row the position of its spelling, -1 for none.
    :param names: for each spelling the label that it means.
    """

    split: SplitName
    rows: RawRows
    spellings: list[str]
    codes: npt.NDArray[np.int64]
    names: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, split: SplitName, rows: RawRows) -> _File:
        """Before its spellings have a meaning."""
        encoded = rows.labels.dictionary_encode()
        codes = encoded.indices.fill_null(NO_LABEL).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(split, rows, encoded.dictionary.to_pylist(), codes)

    def counts(self) -> list[int]:
        """Rows of each spelling."""
        return [int(count) for count in np.bincount(self.codes + 1, minlength=len(self.spellings) + 1)[1:]]

    def place(self, at: int) -> str:
        """The first row of a spelling."""
        return f"{self.rows.where}, row {int(np.flatnonzero(self.codes == at)[0]) + 1}"

    def indices(self, known: Mapping[str, int], sets: LabelSets | None) -> npt.NDArray[np.int64]:
        """The index of the label of each row.

        :param known: label to index.
        :param sets: collects the sets of labels, where rows have these.
        """
        # The last is what -1, no label, points at.
        table = np.array([*(known[name] for name in self.names), NO_LABEL], dtype=np.int64)
        return table[self.codes]


@dataclass
class _SetFile(_File):
    """The same of a file whose rows have any number of labels.

    :param codes: for each row the position of what stands there, -1 where labels are missing.
    :param sets: for each of these the positions of its spellings.
    """

    sets: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, split: SplitName, rows: RawRows) -> _SetFile:
        """Before its spellings have a meaning."""
        whole = _File.of(split, rows)
        spellings: dict[str, int] = {}
        lists = [members(text, where=rows.where) for text in whole.spellings]
        # More of them would name a label twice. A file that names its labels counts into them.
        if rows.label_names is None and lists and all({*map(canonical, names)} == {"0", "1"} for names in lists):
            detail = "every list holds 0 and 1, each once, so these are no lists of labels"
            raise DataError(detail, where=rows.where, hint=VECTOR_HINT)
        sets = [[spellings.setdefault(name, len(spellings)) for name in names] for names in lists]
        return cls(split, rows, [*spellings], whole.codes, sets=sets)

    def counts(self) -> list[int]:
        """Rows that have each spelling."""
        counts = [0] * len(self.spellings)
        for found, rows in zip(self.sets, np.bincount(self.codes + 1, minlength=len(self.sets) + 1)[1:], strict=True):
            for at in {*found}:
                counts[at] += int(rows)
        return counts

    def place(self, at: int) -> str:
        """The first row that has a spelling."""
        having = [code for code, found in enumerate(self.sets) if at in found]
        return f"{self.rows.where}, row {int(np.flatnonzero(np.isin(self.codes, having))[0]) + 1}"

    def indices(self, known: Mapping[str, int], sets: LabelSets | None) -> npt.NDArray[np.int64]:
        assert sets is not None, "whoever reads sets collects them"
        codes = [sets.code(known[self.names[at]] for at in found) for found in self.sets]
        return np.array([*codes, NO_LABEL], dtype=np.int64)[self.codes]


def index_labels(
    pools: Pools,
    given: tuple[str, ...] | None,
    values: Mapping[str, str] | None = None,
    *,
    sets: bool = False,
    least: int = 2,
) -> Indexed:
    """The labels, and for each pool the index of each of its rows.

    Names that the pipeline gives, or that a dataset of the hub brings, keep their order. Otherwise the labels are
    those of train, sorted; by number where all are whole numbers. Numbers 0..n-1 count into given names, unless some of
    these begin with numbers themselves, or it is said what each value means.

    :param values: what the data holds, to a given name.
    :param sets: whether a row has any number of labels.
    :param least: labels that train has to have; one is enough where nothing is trained.
    :raises DataError: train has fewer labels; a row has a label that is not among them; two labels look alike.
    """
    kind = _SetFile if sets else _File
    files = [kind.of(split, rows) for split, pool in pools.items() for rows in pool]
    if given is not None:
        _name_by(given, values or {}, files)
        labels = given
    else:
        _name_by_themselves(files)
        _refuse_look_alikes(files)
        labels = _found([file for file in files if file.split == "train"], least)
    known = {label: at for at, label in enumerate(labels)}
    for file in files:
        _refuse_unknown(file, known, given is not None, bool(values))
    found = LabelSets(len(labels)) if sets else None
    indices = {
        split: np.concatenate([file.indices(known, found) for file in files if file.split == split]) for split in pools
    }
    return Indexed(labels, indices, _spellings(files), found)


def index_outputs(pools: Pools) -> Indexed:
    """The same of outputs, of which there are as many as there are rows: an index tells only which are equal."""
    codes: dict[str, int] = {}
    indices = {}
    for split, pool in pools.items():
        files = [_File.of(split, rows) for rows in pool]
        known = [[codes.setdefault(text, len(codes)) for text in file.spellings] for file in files]
        tables = [np.array([*own, NO_LABEL], dtype=np.int64) for own in known]
        indices[split] = np.concatenate([table[file.codes] for table, file in zip(tables, files, strict=True)])
    return Indexed((), indices, {})


def _name_by(given: tuple[str, ...], values: Mapping[str, str], files: Iterable[_File]) -> None:
    """By what the pipeline gives: as it is written, else in any spelling, else numbers that count."""
    exactly = {name: name for name in given} | dict(values)
    spelled_once = Counter(map(canonical, exactly))
    loosely = {canonical(name): label for name, label in exactly.items() if spelled_once[canonical(name)] == 1}
    if set(loosely) == BOOLEANS:
        loosely |= {"0": loosely["false"], "1": loosely["true"]}
    names_only = values or any(map(begins_with_number, given))
    numbers = {} if names_only else {str(at): name for at, name in enumerate(given)}
    for file in files:
        own = _own_names(file, given, values)
        names = [exactly.get(spelling) or loosely.get(canonical(spelling)) for spelling in own]
        # In one file all are names or all are numbers: a number among names is more likely a slip.
        counted = {} if any(names) else numbers
        file.names = [
            name or counted.get(canonical(spelling)) or canonical(spelling)
            for name, spelling in zip(names, own, strict=True)
        ]


def _name_by_themselves(files: Iterable[_File]) -> None:
    names = {id(file): [canonical(spelling) for spelling in _own_names(file, None, {})] for file in files}
    settled = settle({name for found in names.values() for name in found})
    for file in files:
        file.names = [settled[name] for name in names[id(file)]]


def _own_names(file: _File, given: tuple[str, ...] | None, values: Mapping[str, str]) -> list[str]:
    """A file's labels, its numbers replaced by the names that the file itself brings.

    Given names of the same number that are others rename them. Values that have a meaning, and are not these names,
    are the numbers.
    """
    own = file.rows.label_names
    if own is None or (given and values and not {*own} <= {*given, *values}):
        return file.spellings
    if given and not values and len(given) == len(own) and set(given) != set(own):
        own = given
    numbers = {str(at): name for at, name in enumerate(own)}
    for at, spelling in enumerate(file.spellings):
        if is_whole(spelling) and spelling not in numbers:
            raise DataError(
                f"label {spelling} is not among the {len(own)} that the file names",
                where=file.place(at),
                hint=f"0 to {len(own) - 1}: {listed(own[:20])}",
            )
    return [numbers.get(spelling, spelling) for spelling in file.spellings]


def _found(train: Sequence[_File], least: int) -> tuple[str, ...]:
    """The labels of train."""
    present = {name for file in train for name in file.names}
    where = train[0].rows.where + (f" and {len(train) - 1} more" if len(train) > 1 else "")
    if len(present) < least:
        raise DataError(
            f"only one label, '{next(iter(present))}'" if present else "no row has a label",
            where=where,
            hint="a classifier needs rows of at least two; a slice of a sorted dataset may hold only one",
        )
    own = next((tuple(map(canonical, file.rows.label_names)) for file in train if file.rows.label_names), ())
    if present <= set(own):
        return tuple(name for name in own if name in present)
    if own and any(map(is_whole, present - set(own))):
        raise DataError(
            f"labels are names in some files ({listed(own[:20])}) and numbers in others",
            where=where,
            hint="name them in dataset.labels, in the order in which the numbers count",
        )
    return ordered(present)


def _refuse_look_alikes(files: Sequence[_File]) -> None:
    rows: Counter[str] = Counter()
    first: dict[str, str] = {}
    for file in files:
        for at, (name, count) in enumerate(zip(file.names, file.counts(), strict=True)):
            rows[name] += count
            first.setdefault(name, file.place(at))
    refuse_look_alikes(rows, first.__getitem__)


def _refuse_unknown(file: _File, known: Mapping[str, int], given: bool, mapped: bool) -> None:
    counts = file.counts()
    bad = [at for at, name in enumerate(file.names) if name not in known]
    if not bad:
        return
    value = file.spellings[bad[0]]
    rows = counts[bad[0]]
    near = nearest(file.names[bad[0]], known) or next(
        (name for pair in look_alikes([*known, file.names[bad[0]]]) for name in pair if name in known), None
    )
    what = "dataset.labels" if given else "the labels of train"
    hint = f"did you mean {spelled(near)}?" if near else None
    if is_whole(canonical(value)) and given and not mapped:
        if not any(map(begins_with_number, known)):
            hint = (
                f"numbers from 0 to {len(known) - 1} count into dataset.labels, where a file holds no names beside them"
            )
        elif hint is None:
            hint = (
                "names in dataset.labels begin with numbers, so values do not count into them; say what each value "
                f"means, as in labels: {{{value}: {next(iter(known))}}}"
            )
    others = f"; {len(bad) - 1} other unknown label(s) too" if len(bad) > 1 else ""
    raise DataError(
        f"unknown label {spelled(value)} in {file.split} ({rows:,} row{'s' * (rows != 1)}){others}; "
        f"{what}: {listed(list(known)[:20])}",
        where=file.place(bad[0]),
        hint=hint,
    )


def _spellings(files: Iterable[_File]) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    for file in files:
        for name, spelling, count in zip(file.names, file.spellings, file.counts(), strict=True):
            found.setdefault(name, Counter())[spelling] += count
    return {name: dict(found[name].most_common()) for name in sorted(found) if set(found[name]) != {name}}
