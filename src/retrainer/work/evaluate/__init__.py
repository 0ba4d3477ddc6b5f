"""The evaluate step: challenger and champion bundles on the same frozen rows, through the client's own predictor."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrainer.errors import DataError, NotFoundError, ResourceError, RetrainerError, StorageError
from retrainer.gate.metrics import METRICS
from retrainer.gate.records import (
    ChampionEvidence,
    ChampionState,
    EvaluationRecord,
    Latency,
    ModelEvidence,
    ParityEvidence,
    PredictionsFile,
)
from retrainer.parity import ParityReport
from retrainer.records import sha256_file
from retrainer.serve.predictor import Predictor
from retrainer.steps import StepRequest
from retrainer.store import Store
from retrainer.store.bundle import BundleInfo
from retrainer.training import TrainingRecord
from retrainer.work.evaluate import plots
from retrainer.work.evaluate.rows import HeldOutRows, read_test_rows, without_trained_on, write_predictions
from retrainer.work.evaluate.scoring import Answers, latencies, score
from retrainer.work.reporter import Reporter

CHAMPION = "champion"


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that is live, fetched and verified; or why it cannot be compared."""

    state: ChampionState
    error: str | None = None
    version: str = ""
    folder: Path | None = None
    info: BundleInfo | None = None


def run(request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter) -> dict[str, Any]:
    """Fill ``folder`` with ``evaluation.json``, ``predictions/`` and the plots."""
    bundle = inputs["export"] / "bundle"
    info = _read(BundleInfo, bundle / "bundle.json")
    rows, _ = without_trained_on(read_test_rows(inputs["ingest"] / "test.parquet"), bundle)
    with tempfile.TemporaryDirectory(prefix="retrainer-champion-") as scratch:
        champion = _fetch_champion(request, Path(scratch) / "bundle", info, reporter)
        excluded = 0
        if champion.folder is not None:
            rows, excluded = without_trained_on(rows, champion.folder)
            if excluded:
                reporter.log(f"{excluded:,} test rows left out: the champion was trained on them", level="warning")
        if not len(rows):
            raise DataError(
                "no test row is left that neither model was trained on",
                where=f"{request.pipeline.name}: dataset.test",
                hint="add fresh test rows",
            )
        answers = {
            precision: score(bundle, precision, rows, info.labels, reporter, name=f"challenger {precision}")
            for precision in info.precisions
        }
        models = {precision: (bundle, precision) for precision in info.precisions}
        champion_precision = "fp32"
        if champion.folder is not None:
            answers[CHAMPION] = score(
                champion.folder,
                champion_precision,
                rows,
                info.labels,
                reporter,
                name=f"champion {champion.version}",
            )
            models[CHAMPION] = (champion.folder, champion_precision)
        times = latencies(models, rows.texts)
        names = _metric_names(request)
        evidence = {
            name: _evidence(name, answers[name], rows, names, times[name], models[name], folder) for name in models
        }
    record = EvaluationRecord(
        model=request.pipeline.name,
        task=request.pipeline.task,
        labels=info.labels,
        digests={**request.inputs, "evaluate": request.digest},
        rows=len(rows),
        excluded_rows=excluded,
        challenger={name: item for name, item in evidence.items() if name != CHAMPION},
        champion_state=champion.state,
        champion=_champion_evidence(evidence.get(CHAMPION), champion, champion_precision),
        champion_error=champion.error,
        challenger_withdrawn=bool(request.identity["withdrawn"]),
        parity=_parity(inputs["export"] / "parity.json"),
    )
    (folder / "evaluation.json").write_text(record.to_pretty_json())
    _draw(answers["fp32"], rows, info.labels, _read(TrainingRecord, inputs["train"] / "training.json"), folder)
    return {
        "unchanged": False,
        "rows": len(rows),
        "metrics": evidence["fp32"].metrics,
        "champion_state": champion.state,
        "champion_version": champion.version or None,
        "champion_metrics": evidence[CHAMPION].metrics if CHAMPION in evidence else None,
        "latency_ms": evidence["fp32"].latency_ms.model_dump() if evidence["fp32"].latency_ms else None,
    }


def _read(kind: Any, path: Path) -> Any:
    return kind.from_json(path.read_bytes(), where=str(path))


def _metric_names(request: StepRequest) -> list[str]:
    """What the pipeline reports and what its gate needs, in that order."""
    return list(dict.fromkeys([*request.identity["metrics"], *request.identity["gate_metrics"]]))


def _fetch_champion(request: StepRequest, folder: Path, info: BundleInfo, reporter: Reporter) -> Champion:
    """The champion that the request was planned against, verified file by file.

    Any fault in it makes it "unreadable", which the gate refuses to promote over: a fault must never look like
    "there is no champion". That the store cannot be reached is an error of this step instead.
    """
    version = request.identity["champion"]
    state: ChampionState = request.identity["champion_state"]
    if version is None:
        return Champion(state=state, error=request.extra.get("champion_error") or None)
    model = Store.open(request.pipeline.publish.store).model(request.pipeline.name)
    try:
        folder.mkdir()
        manifest = model.manifest(version)
        wanted = [name for name in manifest.files if not name.startswith("checkpoint/")]
        model.fetch(version, folder, wanted)
        champion = Predictor(folder)
        if champion.info.task != info.task:
            return Champion(state="unreadable", error=f"it answers another task: {champion.info.task}", version=version)
    except NotFoundError as error:
        return Champion(state="unreadable", error=str(error), version=version)
    except (StorageError, ResourceError):
        raise
    except RetrainerError as error:
        reporter.log(f"the champion cannot be read: {error}", level="warning")
        return Champion(state="unreadable", error=str(error), version=version)
    return Champion(state="present", version=version, folder=folder, info=champion.info)


def _evidence(
    name: str,
    answers: Answers,
    rows: HeldOutRows,
    metrics: list[str],
    times: list[float],
    model: tuple[Path, str],
    folder: Path,
) -> ModelEvidence:
    path = folder / "predictions" / (f"{name}.parquet" if name == CHAMPION else f"challenger_{name}.parquet")
    write_predictions(path, rows, answers.predictions, answers.scores)
    p50, p95 = np.percentile(times, [50, 95])
    return ModelEvidence(
        metrics={metric: _metric(metric, rows, answers) for metric in metrics},
        latency_ms=Latency(p50=float(p50), p95=float(p95)),
        rows_per_second=answers.rows_per_second,
        size_mb=_size_mb(*model),
        predictions=PredictionsFile(file=path.relative_to(folder).as_posix(), sha256=sha256_file(path)),
    )


def _metric(name: str, rows: HeldOutRows, answers: Answers) -> float | None:
    value = float(METRICS[name].compute(rows.labels, answers.scores, answers.predictions))
    return value if np.isfinite(value) else None


def _size_mb(bundle: Path, precision: str) -> float:
    """What a client of that precision downloads: its graph and everything that is not a graph."""
    graph = _read(BundleInfo, bundle / "bundle.json").precisions[precision].file
    files = [path for path in bundle.rglob("*") if path.is_file()]
    needed = [p for p in files if p.parent.name != "onnx" or p.relative_to(bundle).as_posix().startswith(graph)]
    return sum(path.stat().st_size for path in needed) / 1e6


def _champion_evidence(evidence: ModelEvidence | None, champion: Champion, precision: str) -> ChampionEvidence | None:
    if evidence is None or champion.info is None:
        return None
    return ChampionEvidence(
        **evidence.model_dump(), version=champion.version, labels=champion.info.labels, precision=precision
    )


def _parity(path: Path) -> dict[str, ParityEvidence]:
    report: ParityReport = _read(ParityReport, path)
    return {
        precision: ParityEvidence(
            max_difference=difference,
            tolerance=report.tolerance if precision == "fp32" else None,
            rows=report.rows,
        )
        for precision, difference in report.max_difference.items()
    }


def _draw(answers: Answers, rows: HeldOutRows, labels: tuple[str, ...], training: TrainingRecord, folder: Path) -> None:
    size = len(labels)
    counts = np.bincount(rows.labels * size + answers.predictions, minlength=size * size).reshape(size, size)
    plots.confusion_matrix(counts, labels, folder / "confusion_matrix.png")
    plots.training_curve(training.curve, training.best_step, folder / "training_curve.png")
    plots.reliability(answers.scores.max(axis=1), answers.predictions == rows.labels, folder / "reliability.png")
