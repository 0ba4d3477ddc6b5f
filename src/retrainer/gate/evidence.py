"""What the gate judges: the record of an evaluation together with what each model said on each row.

``load_evidence`` reads the folder of an evaluate artifact. A file of predictions that is missing, changed or
unreadable is not an error here but a problem in the evidence: the gate refuses because of it, and says so.

The predictions of a model are a parquet file, one row for each test row::

    row_id      string        names the row
    label       int64         true label, index into the labels
    prediction  int64         predicted label; -1 for a champion's label that the challenger does not have
    scores      list<double>  probability of each of the challenger's labels
    characters  int64         length of the text or texts (optional; needed for slices by length)
    slice_NAME  string        value of that column of the data (one for each extra column the gate slices by)
    pattern_N   bool          whether the N-th of the record's patterns is found in the text

Where a row has any number of labels, ``label`` and ``prediction`` are lists of indices, ascending, and ``scores`` are
of each label by itself; one -1 in a champion's ``prediction`` stands for all labels that the challenger does not have.

Where the task writes text, ``label``, ``prediction`` and ``scores`` give way to::

    target      list<string>  the right texts; several where the data has several for one input
    prediction  string        what the model wrote
    score_NAME  double        of each metric: the row's score
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retrainer.artifacts.evaluation import EvaluationRecord, ModelEvidence
from retrainer.artifacts.standing import Standing
from retrainer.errors import first_line
from retrainer.gate.answers import SetAnswers
from retrainer.gate.receipt import Reason, ReasonCode
from retrainer.gate.tables import SetTable, Table, TextTable
from retrainer.spec.changes import Changes
from retrainer.spec.known_metrics import names_of
from retrainer.tasks import Writes

SLICE_PREFIX = "slice_"
PATTERN_PREFIX = "pattern_"
SCORE_PREFIX = "score_"
# Four bytes a character for every row, whatever its own length.
LONGEST_FIXED_WIDTH = 64


# Row ids that were read before: as they are in the file, and as an array.
_Known = list[tuple[pa.Array, NDArray[Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """All that a decision is taken from.

    :param tables: precision of the challenger, ``champion``, ``anchor`` or ``baseline``, to its answers. One that
        could not be read is absent.
    :param problems: why a table is absent, under its name.
    :param standing: what was counted of earlier decisions; ``None`` where nothing was, so that the decision is judged
        as the only one.
    :param changes: what the run was asked to do otherwise than its pipeline file says. It decides nothing, and is in
        the receipt.
    """

    record: EvaluationRecord
    tables: Mapping[str, Table]
    problems: Mapping[str, Reason] = field(default_factory=dict)
    standing: Standing | None = None
    changes: Changes | None = None


def load_evidence(folder: Path, standing: Standing | None = None, changes: Changes | None = None) -> Evidence:
    """Read an evaluate artifact.

    :param standing: of the decision, which is no part of the artifact: the same evaluation can be judged again later.
        So are its ``changes``.
    :raises ArtifactError: it has no ``evaluation.json``.
    :raises IntegrityError: that is not a valid record.
    """
    record = EvaluationRecord.load(folder)
    tables: dict[str, Table] = {}
    problems: dict[str, Reason] = {}
    known: _Known = []
    for name, model in record.models.items():
        table = _read(folder, name, model, known, _PARSERS[record.writes])
        if isinstance(table, Reason):
            problems[name] = table
        else:
            tables[name] = table
    return Evidence(record, tables, problems, standing, changes)


def _read(
    folder: Path, name: str, model: ModelEvidence, known: _Known, parse: Callable[[pa.Table, str, _Known], Table]
) -> Table | Reason:
    file = model.predictions.file
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        return Reason(code=ReasonCode.PREDICTIONS_MISSING, detail=f"{name}: there is no file {file}")
    # Hashed and parsed from the same bytes: nobody can change the file in between.
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != model.predictions.sha256:
        return Reason(
            code=ReasonCode.PREDICTIONS_CHANGED,
            detail=f"{name}: {file} has sha256 {sha256[:12]}..., the evaluation wrote "
            f"{model.predictions.sha256[:12]}...",
        )
    try:
        # Not read_table, which looks for a data set of many files, and takes twice as long for a small one.
        return parse(pq.ParquetFile(pa.BufferReader(data)).read(), sha256, known)
    except (pa.ArrowException, OSError, LookupError, ValueError, TypeError, OverflowError) as error:
        return Reason(code=ReasonCode.PREDICTIONS_UNREADABLE, detail=f"{name}: {file}: {first_line(error)}")


def _parse(parquet: pa.Table, sha256: str, known: _Known) -> Table:
    return Table(
        row_ids=_row_ids(parquet, known),
        labels=_integers(parquet, "label"),
        predictions=_integers(parquet, "prediction"),
        scores=_scores(parquet, parquet.num_rows),
        sha256=sha256,
        **_groups(parquet),
    )


def _parse_sets(parquet: pa.Table, sha256: str, known: _Known) -> SetTable:
    scores = _scores(parquet, parquet.num_rows)
    truth, also_true, bad = _members(parquet, "label", scores.shape[1])
    applies, foreign, also_bad = _members(parquet, "prediction", scores.shape[1])
    return SetTable.of(
        _row_ids(parquet, known),
        SetAnswers(truth, applies, scores, foreign),
        malformed=int((bad | also_bad | also_true).sum()),
        sha256=sha256,
        **_groups(parquet),
    )


def _members(parquet: pa.Table, name: str, n_labels: int) -> tuple[NDArray[np.bool_], ...]:
    """Which labels each row has ``[n, labels]``, where there is a -1 ``[n]``, and rows that are not sets ``[n]``."""
    column = _column(parquet, name)
    if not pa.types.is_list(column.type) or not pa.types.is_integer(column.type.value_type):
        raise TypeError(f"{name} is {column.type}, not a list of int64")
    lengths = pc.list_value_length(column)
    flat = column.flatten()
    if column.null_count or flat.null_count:
        raise ValueError(f"{name} lacks values")
    rows = np.repeat(np.arange(len(column)), lengths.to_numpy())
    indices = flat.to_numpy()
    inside = (indices >= 0) & (indices < n_labels)
    counts = np.zeros((len(column), n_labels), dtype=np.int64)
    np.add.at(counts, (rows[inside], indices[inside]), 1)
    foreign = np.bincount(rows[indices == -1], minlength=len(column))
    malformed = (counts > 1).any(axis=1) | (foreign > 1)
    malformed[rows[~inside & (indices != -1)]] = True
    return counts > 0, foreign > 0, malformed


def _parse_texts(parquet: pa.Table, sha256: str, known: _Known) -> TextTable:
    n = parquet.num_rows
    metrics = tuple(name for name in names_of("generation") if f"{SCORE_PREFIX}{name}" in parquet.column_names)
    predictions, targets = _column(parquet, "prediction").cast(pa.string()), _column(parquet, "target")
    if predictions.null_count or targets.null_count:
        raise ValueError("a prediction or a target is missing")
    found = np.empty(n, dtype=np.object_)
    found[:] = [tuple(texts) for texts in targets.cast(pa.list_(pa.string())).to_pylist()]
    return TextTable(
        row_ids=_row_ids(parquet, known),
        labels=np.zeros(n, dtype=np.int64),
        predictions=predictions.to_numpy(zero_copy_only=False),
        # A missing score becomes NaN, which the gate refuses.
        scores=np.array([_floats(parquet, f"{SCORE_PREFIX}{name}") for name in metrics]).reshape(len(metrics), n).T,
        sha256=sha256,
        metrics=metrics,
        targets=found,
        **_groups(parquet),
    )


_PARSERS: Mapping[Writes, Callable[[pa.Table, str, _Known], Table]] = {
    "label": _parse,
    "labels": _parse_sets,
    "text": _parse_texts,
}


def _groups(parquet: pa.Table) -> dict[str, Any]:
    """What groups rows into slices."""
    return {
        "characters": _integers(parquet, "characters") if "characters" in parquet.column_names else None,
        "slices": {
            column.removeprefix(SLICE_PREFIX): _categories(parquet, column)
            for column in parquet.column_names
            if column.startswith(SLICE_PREFIX)
        },
        "patterns": _patterns(parquet, parquet.num_rows),
    }


def _patterns(parquet: pa.Table, n: int) -> NDArray[np.bool_]:
    names = [name for name in parquet.column_names if name.startswith(PATTERN_PREFIX)]
    found = np.zeros((n, len(names)), dtype=np.bool_)
    for name in names:
        position = int(name.removeprefix(PATTERN_PREFIX))
        found[:, position] = _column(parquet, name).to_numpy(zero_copy_only=False)
    return found


def _column(parquet: pa.Table, name: str) -> Any:
    if name not in parquet.column_names:
        raise KeyError(f"there is no column {name}")
    column = parquet.column(name)
    # Combining copies even a single chunk.
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _integers(parquet: pa.Table, name: str) -> NDArray[np.int64]:
    column = _column(parquet, name)
    if not pa.types.is_integer(column.type):
        raise TypeError(f"{name} is {column.type}, not int64")
    if column.null_count:
        raise ValueError(f"{name} lacks {column.null_count} values")
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)


def _floats(parquet: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(_column(parquet, name).cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def _row_ids(parquet: pa.Table, known: _Known) -> NDArray[Any]:
    """Models that were scored on the same rows in the same order share one array: a million ids take 64 MB."""
    column = _column(parquet, "row_id").cast(pa.string())
    if column.null_count:
        raise ValueError(f"row_id lacks {column.null_count} values")
    for other, row_ids in known:
        if column.equals(other):
            return row_ids
    known.append((column, _array(column)))
    return known[-1][1]


def _categories(parquet: pa.Table, name: str) -> NDArray[Any]:
    """Values of a slice, of which there are few: each is made a str once. Missing ones are empty."""
    column = _column(parquet, name).cast(pa.string()).fill_null("").dictionary_encode()
    values: NDArray[Any] = _array(column.dictionary)[column.indices.to_numpy(zero_copy_only=False)]
    return values


def _array(column: pa.Array) -> NDArray[Any]:
    """As fixed-width strings; as references to str where one is so long that all others would take as much room."""
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    longest = pc.max(pc.utf8_length(column)).as_py() or 0
    return values.astype(np.str_) if longest <= LONGEST_FIXED_WIDTH else values


def _scores(parquet: pa.Table, n: int) -> NDArray[np.float64]:
    column = _column(parquet, "scores")
    if column.null_count:
        raise ValueError(f"scores lack {column.null_count} rows")
    lengths = pc.list_value_length(column)
    width = pc.min(lengths).as_py() or 0
    if pc.max(lengths).as_py() not in (None, width):
        raise ValueError(f"scores have rows of {sorted(pc.unique(lengths).to_pylist())} values")
    # A missing score becomes NaN here, which the gate refuses.
    flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float64)
    return flat.reshape(n, width)
