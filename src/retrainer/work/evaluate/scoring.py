"""What a bundle answers, in the order of the snapshot's labels, and how long it takes.

Uses the client's own predictor: what is measured is what will be served.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrainer.serve.predictor import Predictor
from retrainer.work.evaluate.rows import HeldOutRows
from retrainer.work.reporter import Reporter

CHUNK_ROWS = 512
# Rounds of the latency measurement: each model answers each text once a round, one text at a time.
LATENCY_ROWS = 64
LATENCY_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers.

    :param predictions: index of each row's label among the snapshot's; -1 when it is none of them.
    :param scores: probabilities, ``[rows, labels of the snapshot]``. A label the model does not know has 0.
    :param rows_per_second: in bulk, as the client batches.
    """

    predictions: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    rows_per_second: float


def score(
    bundle: Path, precision: str, rows: HeldOutRows, labels: tuple[str, ...], reporter: Reporter, *, name: str
) -> Answers:
    """Score a bundle on all rows, its labels matched to the snapshot's by name."""
    predictor = Predictor(bundle, precision=precision)
    probabilities = []
    started = time.perf_counter()
    for start in range(0, len(rows), CHUNK_ROWS):
        probabilities.append(predictor.probabilities(rows.texts[start : start + CHUNK_ROWS]))
        done = min(start + CHUNK_ROWS, len(rows))
        reporter.progress(f"scoring {name}", done=done, total=len(rows), unit="row")
    seconds = time.perf_counter() - started
    own = np.concatenate(probabilities)
    index = {label: position for position, label in enumerate(labels)}
    mapped = np.array([index.get(label, -1) for label in predictor.info.labels], dtype=np.int64)
    scores = np.zeros((len(rows), len(labels)))
    scores[:, mapped[mapped >= 0]] = own[:, mapped >= 0]
    return Answers(mapped[own.argmax(axis=1)], scores, len(rows) / seconds)


def latencies(bundles: dict[str, tuple[Path, str]], texts: Sequence[str | tuple[str, str]]) -> dict[str, list[float]]:
    """Milliseconds for each single text and model, the models taking turns so that noise hits all alike.

    :param bundles: model name to bundle folder and precision.
    :return: model name to one time for each text: the median over the rounds.
    """
    predictors = {name: Predictor(folder, precision=precision) for name, (folder, precision) in bundles.items()}
    sample = _spread(texts, LATENCY_ROWS)
    for predictor in predictors.values():
        predictor.logits(sample[:4])
    times: dict[str, list[list[float]]] = {name: [[] for _ in sample] for name in predictors}
    for _ in range(LATENCY_ROUNDS):
        for position, text in enumerate(sample):
            for name, predictor in predictors.items():
                started = time.perf_counter()
                predictor.logits([text])
                times[name][position].append((time.perf_counter() - started) * 1000)
    return {name: [float(np.median(of_text)) for of_text in rounds] for name, rounds in times.items()}


def _spread(texts: Sequence[str | tuple[str, str]], count: int) -> list[str | tuple[str, str]]:
    """``count`` texts from shortest to longest, so that every length is measured."""
    ordered = sorted(texts, key=lambda text: len(text) if isinstance(text, str) else len(text[0]) + len(text[1]))
    positions = np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).astype(int))
    return [ordered[position] for position in positions]
