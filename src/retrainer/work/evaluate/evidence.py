"""What was measured of one model, as a record, and its answers as the file that the record names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from retrainer.gate.evidence import BASELINE, CHAMPION
from retrainer.gate.metrics import METRICS
from retrainer.gate.records import ChampionEvidence, ModelEvidence, PredictionsFile
from retrainer.records import sha256_file
from retrainer.serve.predictor import load_info
from retrainer.work.evaluate.champion import Champion
from retrainer.work.evaluate.costs import Costs
from retrainer.work.evaluate.rows import HeldOutRows, write_predictions
from retrainer.work.evaluate.scoring import Answers

# Whose predictions are not those of a precision of the challenger.
_OWN_NAME = frozenset({CHAMPION, BASELINE})


def model_evidence(
    name: str,
    answers: Answers,
    rows: HeldOutRows,
    metrics: list[str],
    folder: Path,
    *,
    model: tuple[Path, str] | None = None,
    costs: Costs | None = None,
) -> ModelEvidence:
    """Write ``predictions/<name>.parquet`` and sum it up.

    :param name: a precision of the challenger, ``champion`` or ``baseline``.
    :param folder: of the evaluate artifact.
    :param model: bundle and precision; none for a model that cannot be served.
    """
    path = folder / "predictions" / (f"{name}.parquet" if name in _OWN_NAME else f"challenger_{name}.parquet")
    write_predictions(path, rows, answers.predictions, answers.scores)
    return ModelEvidence(
        metrics={metric: _value(metric, rows, answers) for metric in metrics},
        latency_ms=costs.latency if costs else None,
        rows_per_second=costs.rows_per_second if costs else None,
        size_mb=size_mb(*model) if model else None,
        peak_memory_mb=costs.peak_memory_mb if costs else None,
        temperature=(load_info(model[0]).precisions[model[1]].temperature or 1.0) if model else 1.0,
        predictions=PredictionsFile(file=path.relative_to(folder).as_posix(), sha256=sha256_file(path)),
    )


def _value(name: str, rows: HeldOutRows, answers: Answers) -> float | None:
    value = float(METRICS[name].compute(rows.labels, answers.scores, answers.predictions))
    return value if np.isfinite(value) else None


def size_mb(bundle: Path, precision: str) -> float:
    """What a client of that precision downloads, in 10^6 bytes: its graph and everything that is not a graph."""
    graph = load_info(bundle).precisions[precision].file
    files = [path for path in bundle.rglob("*") if path.is_file()]
    needed = [p for p in files if p.parent.name != "onnx" or p.relative_to(bundle).as_posix().startswith(graph)]
    return sum(path.stat().st_size for path in needed) / 1e6


def champion_evidence(evidence: ModelEvidence | None, champion: Champion, precision: str) -> ChampionEvidence | None:
    """The same with what is known of a champion only."""
    if evidence is None or champion.info is None:
        return None
    return ChampionEvidence(
        **evidence.model_dump(), version=champion.version, labels=champion.info.labels, precision=precision
    )
