"""The evaluate step: challenger, champion and baseline on the same frozen rows, the bundles through the client's own
predictor.

``champion.py`` fetches the model that is live, ``held_out.py`` chooses the rows, ``scoring.py`` asks for labels,
``generation.py`` for texts, ``written.py`` writes the answers, ``costs.py`` measures time and memory. Of labels alone,
``baseline.py`` fits the simple model, and of one label a row ``suspects.py`` finds those that may be wrong.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from retrainer.artifacts.evaluation import (
    ANCHOR,
    BASELINE,
    CHAMPION,
    LOOK_FIRST,
    SUSPECTS,
    DriftMeasure,
    EvaluationRecord,
    ModelEvidence,
    ParityEvidence,
    Suspects,
)
from retrainer.artifacts.parity import ParityReport
from retrainer.artifacts.profile import TrainingProfile
from retrainer.artifacts.selection import Selection
from retrainer.artifacts.training import TrainingRecord
from retrainer.chain import Evaluated, StepRequest
from retrainer.chain.accounts import write_look
from retrainer.chain.model_store import model_of
from retrainer.chain.steps.evaluate import TEST_ROWS
from retrainer.errors import RetrainerError
from retrainer.gate.answers import Answers, Said, SetAnswers
from retrainer.gate.confusion import confusion_matrix
from retrainer.gate.drift import measure_drift
from retrainer.gate.label_sets import scores_of_each
from retrainer.gate.overturn import look_first
from retrainer.precisions import PRECISIONS, REFERENCE
from retrainer.report import charts
from retrainer.report.labels import counted
from retrainer.serve.predictor import NO_THRESHOLD
from retrainer.spec.known_metrics import SHARE_RIGHT, Family
from retrainer.store.bundle import BundleInfo
from retrainer.store.entry import Look
from retrainer.store.ledger import RowSet
from retrainer.tasks import trainable_task
from retrainer.work.evaluate.anchor import FetchedAnchor, anchor_answers, fetch_anchor
from retrainer.work.evaluate.baseline import fit_baseline
from retrainer.work.evaluate.champion import Champion, fetch_champion
from retrainer.work.evaluate.costs import starting
from retrainer.work.evaluate.held_out import HeldOutRows, held_out_rows
from retrainer.work.evaluate.scoring import model_evidence, own_thresholds, published_evidence, with_costs
from retrainer.work.evaluate.suspects import Doubts, doubt_labels
from retrainer.work.profile import profile_of, shared_rows
from retrainer.work.reporter import Reporter
from retrainer.work.snapshot_texts import pack_row_ids

# In every receipt, whether or not the pipeline asks: accuracy says nothing of whether scores can be believed, and by
# what is exactly right flips are counted.
ALWAYS_MEASURED: Mapping[Family | None, tuple[str, ...]] = {
    "classification": ("ece",),
    "multi_label": (SHARE_RIGHT["multi_label"], "ece"),
    "generation": (SHARE_RIGHT["generation"],),
}
# Confident learning needs one label a row.
NO_SUSPECTS = "labels that may be wrong are not looked for where a row has any number of them"


def run(request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter) -> Evaluated:
    """Fill ``folder`` with ``evaluation.json``, ``predictions/`` and the plots."""
    bundle = inputs["export"] / "bundle"
    info = BundleInfo.load(bundle)
    with tempfile.TemporaryDirectory(prefix="retrainer-champion-") as scratch:
        champion = fetch_champion(request, Path(scratch) / "bundle", info, reporter)
        anchor = fetch_anchor(request, Path(scratch) / "anchor", info, reporter)
        rows, leakage = held_out_rows(
            request, inputs["ingest"], bundle, champion.folder, reporter, anchor=anchor.folder
        )
        models = {precision: (bundle, precision) for precision in info.precisions}
        if champion.folder is not None:
            models[CHAMPION] = (champion.folder, REFERENCE)
        positive = request.pipeline.positive(info.labels)
        task = trainable_task(request.pipeline.task, where=request.pipeline.name)
        score = task.part("score")
        answers: dict[str, Said] = {}
        for name, model in models.items():
            shown = f"champion {champion.version}" if name == CHAMPION else f"challenger {name}"
            scored = score(*model, rows, info.labels, reporter, name=shown)
            answers[name] = _of_label(scored, positive)
        of_anchor = anchor_answers(request, anchor, rows, info.labels, score, reporter)
        # What the pipeline reports, what its gate needs, and what is always measured, in that order.
        asked = [*request.identity["metrics"], *request.identity["gate_metrics"], *ALWAYS_MEASURED[task.metrics]]
        names = list(dict.fromkeys(asked))
        training = TrainingRecord.load(inputs["train"])
        threads = request.pipeline.gate.budgets.threads
        # The processes in which costs are measured load beside what takes one core; when they are asked, nothing else
        # is done.
        with starting(models, rows.texts, threads=threads) as measure:
            evidence = {
                name: model_evidence(
                    name, answers[name], rows, names, folder, model=model, thresholds=own_thresholds(*model)
                )
                for name, model in models.items()
            }
            if of_anchor is not None:
                answers[ANCHOR] = _of_label(of_anchor, positive)
                assert anchor.folder is not None, "it was asked"
                limits = own_thresholds(anchor.folder, REFERENCE)
                evidence[ANCHOR] = model_evidence(ANCHOR, answers[ANCHOR], rows, names, folder, thresholds=limits)
            # Text has neither a baseline nor a model that could doubt it.
            baseline, baseline_error, suspects, suspects_error = None, None, None, None
            if info.labels:
                baseline, baseline_error = _baseline(
                    inputs["ingest"], rows, info.labels, positive, names, folder, reporter
                )
                suspects, suspects_error = _suspects(
                    request, inputs["ingest"], rows, answers, info.labels, folder, reporter
                )
            drift, drift_error = _drift(inputs["ingest"] / "train.parquet", bundle, champion, info.labels)
            drawn = {"training_curve": charts.training_curve(training.curve, training.best_step)}
            drawn |= _drawn(answers[REFERENCE], evidence[REFERENCE], rows, info.labels)
            for name, png in drawn.items():
                (folder / f"{name}.png").write_bytes(png)
            costs = measure(
                lambda done, total: reporter.progress("measuring costs", done=done, total=total, unit="text")
            )
        evidence |= {name: with_costs(evidence[name], found) for name, found in costs.items()}
    record = EvaluationRecord(
        model=request.pipeline.name,
        task=request.pipeline.task,
        labels=info.labels,
        digests={**request.inputs, "evaluate": request.digest},
        rows=len(rows),
        excluded_rows=leakage.rows,
        challenger={name: item for name, item in evidence.items() if name not in {CHAMPION, ANCHOR}},
        champion_state=champion.state,
        champion=published_evidence(evidence.get(CHAMPION), champion.version, champion.info, REFERENCE),
        champion_error=champion.error,
        anchor=published_evidence(evidence.get(ANCHOR), anchor.version, anchor.info, REFERENCE),
        anchor_error=anchor.error,
        challenger_withdrawn=bool(request.identity["withdrawn"]),
        parity=_parity(inputs["export"]),
        threads=threads,
        leakage=leakage,
        patterns=request.pipeline.gate.slices.patterns if request.pipeline.gate.slices else (),
        positive_label=info.labels[positive] if request.pipeline.of_one_label else None,
        baseline=baseline,
        baseline_error=baseline_error,
        drift=drift,
        drift_error=drift_error,
        suspects=suspects,
        suspects_error=suspects_error,
        selection=Selection.load(inputs["select"]) if "select" in inputs else None,
    )
    record.save(folder)
    seen = RowSet(pack_row_ids(rows.row_ids))
    (folder / TEST_ROWS).write_bytes(seen.data)
    # From here on somebody may know how the challenger did on these rows.
    look = Look(
        channel=request.pipeline.publish.channel,
        challenger=request.inputs["export"],
        evaluation=request.digest,
        rows=seen.sha256,
        row_count=len(seen),
    )
    write_look(model_of(request.pipeline).ledger, look, seen, request.context)
    return _handed_on(record, seen, anchor)


def _of_label(answers: Said, positive: int) -> Said:
    """The same, for metrics of one label to score this one."""
    return replace(answers, positive=positive) if isinstance(answers, Answers) else answers


def _baseline(
    snapshot: Path,
    rows: HeldOutRows,
    labels: tuple[str, ...],
    positive: int,
    metrics: list[str],
    folder: Path,
    reporter: Reporter,
) -> tuple[ModelEvidence | None, str | None]:
    """The simple model on the same rows, or why it could not be fitted: the gate says whether that matters."""
    try:
        fitted = fit_baseline(snapshot / "train.parquet", labels)
        if rows.sets is None:
            answers: Said = Answers(*fitted.answers(rows.texts), positive)
            limits = None
        else:
            limits = np.full(len(labels), NO_THRESHOLD)
            answers = SetAnswers.of(rows.members(len(labels)), fitted.probabilities(rows.texts), limits)
    except RetrainerError as error:
        reporter.log(f"no baseline: {error}", level="warning")
        return None, str(error)
    return model_evidence(BASELINE, answers, rows, metrics, folder, thresholds=limits), None


def _suspects(
    request: StepRequest,
    snapshot: Path,
    rows: HeldOutRows,
    said_by: Mapping[str, Said],
    labels: tuple[str, ...],
    folder: Path,
    reporter: Reporter,
) -> tuple[Suspects | None, str | None]:
    """Labels that may be wrong, in files for people; or why nobody looked. Nothing is judged by them."""
    if not (most := request.identity["suspect_rows"]):
        return None, None
    answers = {name: said for name, said in said_by.items() if isinstance(said, Answers)}
    if not answers:
        reporter.log(NO_SUSPECTS)
        return None, NO_SUSPECTS
    judges = [answers[name].probabilities for name in (REFERENCE, CHAMPION) if name in answers]
    said = np.mean(judges, axis=0)
    # A label of the champion's that is not among these leaves its share to the others.
    said /= np.maximum(said.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    try:
        doubts = doubt_labels(snapshot, labels, most, dict(zip(rows.row_ids, said, strict=True)))
    except RetrainerError as error:
        reporter.log(f"no label was looked at: {error}", level="warning")
        return None, str(error)
    doubts.write(folder / SUSPECTS, doubts.suspects)
    if CHAMPION in answers:
        _write_look_first(doubts, rows, answers, folder)
    found = doubts.summary()
    reporter.log(f"{counted(found)}: see {SUSPECTS} in the evaluate artifact")
    return found, None


def _write_look_first(doubts: Doubts, rows: HeldOutRows, answers: Mapping[str, Answers], folder: Path) -> None:
    """The rows on which challenger and champion differ, those first whose label is likely to move the comparison."""
    known = {row_id: at for at, row_id in enumerate(doubts.row_ids) if doubts.splits[at] == "test"}
    shared = [at for at, row_id in enumerate(rows.row_ids) if row_id in known]
    doubted = np.array([known[rows.row_ids[at]] for at in shared], dtype=np.int64)
    ours, theirs = (answers[name].predictions[shared] for name in (REFERENCE, CHAMPION))
    order, expected = look_first(rows.labels[shared], ours, theirs, doubts.probabilities[doubted], doubts.noise)
    names = (*doubts.names, "another")  # the last is what -1 points at
    more = {
        "challenger": [names[at] for at in ours[order]],
        "champion": [names[at] for at in theirs[order]],
        "expected": [f"{moves:.2f}" for moves in expected],
    }
    doubts.write(folder / LOOK_FIRST, doubted[order], more)


def _drift(
    train: Path, bundle: Path, champion: Champion, labels: tuple[str, ...]
) -> tuple[tuple[DriftMeasure, ...] | None, str | None]:
    """How far the training rows moved from the champion's, by the profiles in both bundles; or why that is unknown."""
    if champion.folder is None:
        return None, None
    if not (champion.folder / TrainingProfile.file).is_file():
        return None, "the champion was published without a profile of its training rows"
    # Rows in both make the two alike, which a test must know.
    shared = shared_rows(train, champion.folder)
    return (
        measure_drift(
            TrainingProfile.load(champion.folder),
            TrainingProfile.load(bundle),
            profile_of(train, labels, shared) if shared else None,
        ),
        None,
    )


def _parity(export: Path) -> dict[str, ParityEvidence]:
    report = ParityReport.load(export)
    return {
        precision: ParityEvidence(
            max_difference=difference,
            tolerance=report.tolerance if PRECISIONS[precision].exact else None,
            rows=report.rows,
        )
        for precision, difference in report.max_difference.items()
    }


def _drawn(answers: Said, measured: ModelEvidence, rows: HeldOutRows, labels: tuple[str, ...]) -> dict[str, bytes]:
    """Charts of the challenger's answers; none of texts."""
    temperature = measured.temperature
    if isinstance(answers, SetAnswers):
        said = answers.probabilities.ravel()
        earlier = None if temperature == 1.0 else charts.uncalibrated_alone(said, temperature)
        return {
            "labels": charts.label_scores(scores_of_each(answers, labels, measured.thresholds or ())),
            "reliability": charts.reliability(said, answers.truth.ravel(), before=earlier, decisions=True),
        }
    if not isinstance(answers, Answers):
        return {}
    counts = confusion_matrix(rows.labels, answers.predictions, len(labels))
    confidence = answers.probabilities.max(axis=1)
    before = None if temperature == 1.0 else charts.uncalibrated(answers.probabilities, temperature).max(axis=1)
    return {
        # Of the challenger no label is foreign, so the last column is empty.
        "confusion_matrix": charts.confusion_matrix(counts[:, :-1], labels),
        "reliability": charts.reliability(confidence, answers.predictions == rows.labels, before=before),
    }


def _handed_on(record: EvaluationRecord, seen: RowSet, anchor: FetchedAnchor) -> Evaluated:
    challenger, champion = record.challenger[REFERENCE], record.champion
    return Evaluated(
        rows=record.rows,
        metrics=challenger.metrics,
        champion_state=record.champion_state,
        champion_version=champion.version if champion else None,
        champion_metrics=champion.metrics if champion else None,
        baseline_metrics=record.baseline.metrics if record.baseline else None,
        latency_ms=challenger.latency_ms,
        rows_per_second=challenger.rows_per_second,
        peak_memory_mb=challenger.peak_memory_mb,
        test_rows=seen.sha256,
        anchor_version=anchor.version,
        anchor_error=anchor.error,
    )
