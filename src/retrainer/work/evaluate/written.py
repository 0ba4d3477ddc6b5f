"""Answers as they are written down: columns of the file of predictions, and arrays that are read again as answers.

Each kind of answer has its form, here alone. Not here: asking a model (``scoring.py``, ``generation.py``), reading the
file (``gate/evidence.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from retrainer.gate.answers import Answers, Said, SetAnswers, TextAnswers
from retrainer.gate.evidence import SCORE_PREFIX
from retrainer.gate.tables import SetTable, Table, TextTable
from retrainer.records import canonical_json
from retrainer.work.evaluate.generation import scored
from retrainer.work.evaluate.held_out import HeldOutRows

Arrays = Mapping[str, Any]  # of NumPy


def write_predictions(path: Path, rows: HeldOutRows, answers: Said) -> None:
    """Write one model's answer to each row.

    :param answers: of labels that this snapshot does not have -1.
    """
    path.parent.mkdir(exist_ok=True)
    table = pa.table({"row_id": pa.array(rows.row_ids, pa.string()), **_columns(answers, rows), **rows.columns})
    pq.write_table(table, path, compression="zstd")


def table_of(answers: Said, rows: HeldOutRows) -> Table:
    """The same as the gate reads it, without what groups rows."""
    table: Table = _table(answers, np.array(rows.row_ids, dtype=np.str_), rows)
    return table


@singledispatch
def _columns(answers: Any, rows: HeldOutRows) -> dict[str, pa.Array]:
    """What is written of each row: here of :class:`Answers`."""
    return {
        "label": pa.array(rows.labels, pa.int64()),
        "prediction": pa.array(answers.predictions, pa.int64()),
        "scores": _lists(answers.probabilities),
    }


@singledispatch
def _table(answers: Any, row_ids: npt.NDArray[np.str_], rows: HeldOutRows) -> Table:
    return Table(row_ids, rows.labels, answers.predictions, answers.probabilities)


@singledispatch
def kept(answers: Any) -> Arrays:
    """What a model said, without what follows from it."""
    return {"predictions": answers.predictions, "probabilities": answers.probabilities}


# --- any number of labels --------------------------------------------------------------------------------


@_columns.register
def _(answers: SetAnswers, rows: HeldOutRows) -> dict[str, pa.Array]:
    given = (np.flatnonzero(row).tolist() for row in answers.applies)
    foreign = answers.foreign.tolist()
    return {
        "label": pa.array(rows.sets, pa.list_(pa.int64())),
        "prediction": pa.array(
            [[-1, *labels] if other else labels for labels, other in zip(given, foreign, strict=True)],
            pa.list_(pa.int64()),
        ),
        "scores": _lists(answers.probabilities),
    }


@_table.register
def _(answers: SetAnswers, row_ids: npt.NDArray[np.str_], rows: HeldOutRows) -> Table:
    return SetTable.of(row_ids, answers)


@kept.register
def _(answers: SetAnswers) -> Arrays:
    return {"applies": answers.applies, "foreign": answers.foreign, "probabilities": answers.probabilities}


# --- texts -----------------------------------------------------------------------------------------------


@_columns.register
def _(answers: TextAnswers, rows: HeldOutRows) -> dict[str, pa.Array]:
    return {
        "target": pa.array(rows.targets, pa.list_(pa.string())),
        "prediction": pa.array(answers.predictions, pa.string()),
        **{f"{SCORE_PREFIX}{name}": pa.array(values, pa.float64()) for name, values in answers.scores.items()},
    }


@_table.register
def _(answers: TextAnswers, row_ids: npt.NDArray[np.str_], rows: HeldOutRows) -> Table:
    scores = np.stack(list(answers.scores.values()), axis=1)
    metrics = tuple(answers.scores)
    return TextTable(row_ids, rows.labels, answers.predictions, scores, metrics=metrics, targets=rows.truth)


@kept.register
def _(answers: TextAnswers) -> Arrays:
    # Not as strings of fixed width, which lose a NUL at the end.
    return {"texts": np.frombuffer(canonical_json(answers.predictions.tolist()), dtype=np.uint8)}


def said_again(arrays: Arrays, rows: HeldOutRows) -> Said:
    """What :func:`kept` kept, of the same rows, whose true answers may have been corrected since."""
    if "texts" in arrays:
        return scored(json.loads(arrays["texts"].tobytes()), rows.targets)
    if "applies" in arrays:
        return SetAnswers(rows.members(arrays["applies"].shape[1]), **arrays)
    return Answers(arrays["predictions"], arrays["probabilities"])


def _lists(values: npt.NDArray[np.float64]) -> pa.Array:
    """A list of each row."""
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1), pa.float64()))
