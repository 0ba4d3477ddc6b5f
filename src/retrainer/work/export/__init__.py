"""The export step: a checkpoint to the bundle that would be served, checked against the checkpoint.

Beside graphs, tokenizer and golden rows the bundle tells about the rows the model was trained on, without their texts:
so that it is never judged by them later, and that drift can be measured when they are gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from retrainer.artifacts.calibration import CalibrationReport, FittedThreshold
from retrainer.artifacts.parity import ParityReport
from retrainer.artifacts.snapshot import SnapshotStatistics, split_file
from retrainer.chain import Exported, StepRequest
from retrainer.errors import IntegrityError
from retrainer.store.bundle import BundleInfo
from retrainer.tasks import trainable_task
from retrainer.work.export.calibrate import calibrate
from retrainer.work.export.graph import graph_bytes, load_exporters
from retrainer.work.export.sample import Row, read_rows
from retrainer.work.near import NEAR_ROWS
from retrainer.work.near.index import write_index
from retrainer.work.profile import profile_of
from retrainer.work.reporter import Reporter
from retrainer.work.snapshot_texts import BLENDED_WITH, read_text_keys, row_ids_of

BUNDLE_FOLDER = "bundle"
load_rest = load_exporters


def run(request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter) -> Exported:
    """Fill ``folder`` with ``bundle/``, ``parity.json`` and, where a temperature is asked for, or labels have
    thresholds, ``calibration.json``.

    :raises ExportError: the graph does not compute what the checkpoint computes.
    """
    snapshot = inputs["ingest"]
    pipeline = request.pipeline
    labels = SnapshotStatistics.load(snapshot).labels
    validation = read_rows(split_file(snapshot, "validation"))
    train = split_file(snapshot, "train")
    trained_on = read_text_keys(train)
    blended_with = inputs["train"] / BLENDED_WITH
    if blended_with.is_dir():  # what the champion learnt is in these weights, too
        trained_on = sorted({*trained_on, *row_ids_of(blended_with)})
    bundle = folder / BUNDLE_FOLDER
    task = trainable_task(pipeline.task, where=pipeline.name)
    writes_text = task.writes == "text"
    calibrations: list[CalibrationReport] = []

    def fit() -> None:
        asked = pipeline.export.calibration == "temperature"
        calibrations.append(_calibrate(bundle, validation, folder, reporter, temperature=asked))

    answers: dict[str, Any] = {"labels": labels}
    if writes_text:
        answers = {"max_new_tokens": pipeline.model.max_new_tokens}
    elif pipeline.export.calibration == "temperature" or task.writes == "labels":
        answers["fit"] = fit
    report: ParityReport = task.part("export")(
        inputs["train"] / "checkpoint",
        # Without a validation split the rows it was trained on serve: it is the graph that is tested, not the model.
        validation or read_rows(train),
        bundle,
        task=pipeline.task,
        **answers,
        max_length=pipeline.model.max_length,
        precisions=pipeline.export.precisions,
        train_row_ids=trained_on,
        on_stage=reporter.log,
    )
    report.save(folder)
    agree = "all tokens" if writes_text else "labels"
    for precision, difference in report.max_difference.items():
        reporter.log(
            f"{precision}: logits within {difference:.1e} of the checkpoint on {report.rows} rows, "
            f"{agree} agree on {report.label_agreement[precision]:.2%}"
        )
    _describe_training_rows(train, labels, bundle, blended_with / NEAR_ROWS, reporter)
    precisions = sorted(report.max_difference)
    return Exported(
        precisions=tuple(precisions),
        max_difference=report.max_difference,
        label_agreement=report.label_agreement,
        rows=report.rows,
        longest_tokens=report.longest_tokens,
        exporter=report.exporter,
        size_mb={
            name: round(sum(graph_bytes(bundle / file) for file in entry.files) / 1e6, 2)
            for name, entry in BundleInfo.load(bundle).precisions.items()
        },
        temperatures={name: graph.temperature for report in calibrations for name, graph in report.graphs.items()},
    )


def _calibrate(
    bundle: Path, validation: list[Row], folder: Path, reporter: Reporter, *, temperature: bool
) -> CalibrationReport:
    """Fit what is to be fitted, say what it changed, and keep the report.

    :param temperature: whether it is asked for.
    """
    reporter.log(f"fitting {'temperatures' if temperature else 'thresholds'} on the validation rows")
    calibration = calibrate(bundle, validation, temperature=temperature)
    for precision, graph in calibration.graphs.items():
        for label, fitted in (graph.thresholds or {}).items():
            reporter.log(f"{precision}: {_threshold(label, fitted)}")
        if not temperature:
            continue
        if graph.why_not_fitted is not None:
            reporter.log(f"{precision}: no temperature, {graph.why_not_fitted}", level="warning")
        else:
            reporter.log(
                f"{precision}: temperature {graph.temperature:g}; on {calibration.rows} validation rows the expected "
                f"calibration error goes from {graph.ece:.4f} to {graph.ece_after:.4f}, "
                f"log loss from {graph.log_loss:.4f} to {graph.log_loss_after:.4f}"
            )
    calibration.save(folder)
    return calibration


def _threshold(label: str, fitted: FittedThreshold) -> str:
    where = f"'{label}' applies from {fitted.threshold:g} on"
    if fitted.why_not_fitted is not None:
        return f"{where}, {fitted.why_not_fitted}"
    return f"{where}, its F1 on the validation rows goes from {fitted.f1_at_half:.4f} to {fitted.f1:.4f}"


def _describe_training_rows(
    train: Path, labels: tuple[str, ...], bundle: Path, champions_index: Path, reporter: Reporter
) -> None:
    """What the next challenger is compared with: a profile for drift, and an index for near duplicates.

    :param champions_index: the same index of a champion that is part of the weights; need not be there.
    """
    profile_of(train, labels).save(bundle)
    rows = pq.read_metadata(train).num_rows

    def write(also: Path | None) -> None:
        write_index(
            train,
            labels,
            bundle / NEAR_ROWS,
            lambda done: reporter.progress("indexing the training rows", done=done, total=rows, unit="row"),
            also=also,
        )

    try:
        write(champions_index if champions_index.is_file() else None)
    except IntegrityError as error:
        reporter.log(f"what is nearly a training row of the champion will not be found: {error}", level="warning")
        write(None)
