"""Answers as they are written down: columns of the file of predictions, and arrays that are read again as answers.

Of labels and of texts, here alone. Not here: asking a model (``scoring.py``, ``generation.py``), reading the file
(``gate/evidence.py``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrainer.gate.answers import Answers, Said, TextAnswers
from retrainer.gate.evidence import SCORE_PREFIX
from retrainer.gate.tables import Table, TextTable
from retrainer.records import canonical_json
from retrainer.work.evaluate.generation import scored
from retrainer.work.evaluate.held_out import HeldOutRows

Arrays = Mapping[str, Any]  # of NumPy


def write_predictions(path: Path, rows: HeldOutRows, answers: Said) -> None:
    """Write one model's answer to each row.

    :param answers: of labels that this snapshot does not have -1.
    """
    path.parent.mkdir(exist_ok=True)
    said = _of_texts(answers, rows) if isinstance(answers, TextAnswers) else _of_labels(_labels(answers), rows)
    table = pa.table({"row_id": pa.array(rows.row_ids, pa.string()), **said, **rows.columns})
    pq.write_table(table, path, compression="zstd")


def _of_labels(answers: Answers, rows: HeldOutRows) -> dict[str, pa.Array]:
    values = pa.array(answers.probabilities.reshape(-1), pa.float64())
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * answers.probabilities.shape[1])
    return {
        "label": pa.array(rows.labels, pa.int64()),
        "prediction": pa.array(answers.predictions, pa.int64()),
        "scores": pa.ListArray.from_arrays(offsets, values),
    }


def _of_texts(answers: TextAnswers, rows: HeldOutRows) -> dict[str, pa.Array]:
    return {
        "target": pa.array(rows.targets, pa.list_(pa.string())),
        "prediction": pa.array(answers.predictions, pa.string()),
        **{f"{SCORE_PREFIX}{name}": pa.array(values, pa.float64()) for name, values in answers.scores.items()},
    }


def table_of(answers: Said, rows: HeldOutRows) -> Table:
    """The same as the gate reads it, without what groups rows."""
    row_ids = np.array(rows.row_ids, dtype=np.str_)
    if isinstance(answers, TextAnswers):
        scores = np.stack(list(answers.scores.values()), axis=1)
        metrics = tuple(answers.scores)
        return TextTable(row_ids, rows.labels, answers.predictions, scores, metrics=metrics, targets=rows.truth)
    labels = _labels(answers)
    return Table(row_ids, rows.labels, labels.predictions, labels.probabilities)


def kept(answers: Said) -> Arrays:
    """What a model said, without what follows from it."""
    if isinstance(answers, TextAnswers):
        # Not as strings of fixed width, which lose a NUL at the end.
        return {"texts": np.frombuffer(canonical_json(answers.predictions.tolist()), dtype=np.uint8)}
    labels = _labels(answers)
    return {"predictions": labels.predictions, "probabilities": labels.probabilities}


def said_again(arrays: Arrays, rows: HeldOutRows) -> Said:
    """What :func:`kept` kept, of the same rows, whose true answers may have been corrected since."""
    if "texts" in arrays:
        return scored(json.loads(arrays["texts"].tobytes()), rows.targets)
    return Answers(arrays["predictions"], arrays["probabilities"])


def _labels(answers: Said) -> Answers:
    assert isinstance(answers, Answers), "there are no others"
    return answers
