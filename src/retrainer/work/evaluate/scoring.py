"""Which labels each model answers with, and the record of what was measured of a model, whatever it answers with.

Uses the client's own predictor: what is judged is what will be served. Not here: the file of its answers
(``written.py``), texts (``generation.py``), how long it takes (``costs.py``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrainer.artifacts.evaluation import ANCHOR, BASELINE, CHAMPION, ChampionEvidence, ModelEvidence, PredictionsFile
from retrainer.gate.answers import Answers, Said, SetAnswers
from retrainer.gate.metrics import METRICS
from retrainer.records import sha256_file
from retrainer.serve.predictor import BUNDLE, Predictor, load_info, thresholds_of
from retrainer.store.bundle import BundleInfo
from retrainer.work.evaluate.costs import Costs
from retrainer.work.evaluate.held_out import HeldOutRows
from retrainer.work.evaluate.written import write_predictions
from retrainer.work.reporter import Reporter

CHUNK_ROWS = 512
# Whose predictions are not those of a precision of the challenger.
_OWN_NAME = frozenset({CHAMPION, ANCHOR, BASELINE})


def score(
    bundle: Path, precision: str, rows: HeldOutRows, labels: tuple[str, ...], reporter: Reporter, *, name: str
) -> Answers | SetAnswers:
    """Score a bundle on all rows, its labels matched to the snapshot's by name."""
    predictor = Predictor(bundle, precision=precision)
    probabilities = []
    for start in range(0, len(rows), CHUNK_ROWS):
        probabilities.append(predictor.probabilities(rows.texts[start : start + CHUNK_ROWS]))
        done = min(start + CHUNK_ROWS, len(rows))
        reporter.progress(f"scoring {name}", done=done, total=len(rows), unit="row")
    own = np.concatenate(probabilities)
    index = {label: position for position, label in enumerate(labels)}
    mapped = np.array([index.get(label, -1) for label in predictor.info.labels], dtype=np.int64)
    known = mapped >= 0
    scores = np.zeros((len(rows), len(labels)))
    scores[:, mapped[known]] = own[:, known]
    if predictor.thresholds is None:
        return Answers(mapped[own.argmax(axis=1)], scores)
    given = own >= predictor.thresholds
    applies = np.zeros(scores.shape, dtype=np.bool_)
    applies[:, mapped[known]] = given[:, known]
    foreign = np.logical_or.reduce(given[:, ~known], axis=1)
    return SetAnswers(rows.members(len(labels)), applies, scores, foreign)


def model_evidence(
    name: str,
    answers: Said,
    rows: HeldOutRows,
    metrics: list[str],
    folder: Path,
    *,
    model: tuple[Path, str] | None = None,
    thresholds: npt.NDArray[np.float64] | None = None,
) -> ModelEvidence:
    """Write ``predictions/<name>.parquet`` and sum it up.

    :param name: a precision of the challenger, ``champion``, ``anchor`` or ``baseline``.
    :param folder: of the evaluate artifact.
    :param model: bundle and precision; none for a model that cannot be served.
    :param thresholds: of its own labels, where it gives any number of them.
    """
    path = folder / "predictions" / (f"{name}.parquet" if name in _OWN_NAME else f"challenger_{name}.parquet")
    write_predictions(path, rows, answers)
    return ModelEvidence(
        metrics={metric: _value(metric, rows, answers) for metric in metrics},
        size_mb=size_mb(*model) if model else None,
        temperature=(load_info(model[0]).precisions[model[1]].temperature or 1.0) if model else 1.0,
        thresholds=tuple(thresholds.tolist()) if thresholds is not None else None,
        predictions=PredictionsFile(file=path.relative_to(folder).as_posix(), sha256=sha256_file(path)),
    )


def with_costs(evidence: ModelEvidence, costs: Costs) -> ModelEvidence:
    """The same with what serving the model costs."""
    return evidence.model_copy(
        update={
            "latency_ms": costs.latency,
            "rows_per_second": costs.rows_per_second,
            "peak_memory_mb": costs.peak_memory_mb,
        }
    )


def own_thresholds(bundle: Path, precision: str) -> npt.NDArray[np.float64] | None:
    """From which probability on each label of a bundle applies; ``None`` where it does not give several."""
    info = load_info(bundle)
    return thresholds_of(info, info.precisions[precision], where=bundle / BUNDLE)


def _value(name: str, rows: HeldOutRows, answers: Said) -> float | None:
    value = float(METRICS[name].value(rows.labels, answers))
    return value if np.isfinite(value) else None


def size_mb(bundle: Path, precision: str) -> float:
    """What a client of that precision downloads, in 10^6 bytes: its graphs and everything that is not a graph."""
    graphs = load_info(bundle).precisions[precision].files
    files = [path for path in bundle.rglob("*") if path.is_file()]
    needed = [p for p in files if p.parent.name != "onnx" or p.relative_to(bundle).as_posix().startswith(graphs)]
    return sum(path.stat().st_size for path in needed) / 1e6


def published_evidence(
    evidence: ModelEvidence | None, version: str | None, info: BundleInfo | None, precision: str
) -> ChampionEvidence | None:
    """The same with what is known of a published version only."""
    if evidence is None or version is None or info is None:
        return None
    return ChampionEvidence(**evidence.model_dump(), version=version, labels=info.labels, precision=precision)
