"""The select step: every exported bundle on the same validation rows, what each costs, and which one goes on.

Scored is the fp32 graph, the file that would be served, through the client's own predictor. The test rows are not
read here. Not here: the rule (``gate/selection.py``).
"""

from __future__ import annotations

from pathlib import Path

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.snapshot import SnapshotStatistics, split_file
from retrainer.chain import TRAIN, Selected, StepRequest
from retrainer.errors import DataError
from retrainer.gate.selection import Contender, select
from retrainer.precisions import REFERENCE
from retrainer.sources.base_models import short_names
from retrainer.tasks import trainable_task
from retrainer.work.evaluate.costs import measure_costs
from retrainer.work.evaluate.held_out import read_rows
from retrainer.work.evaluate.scoring import size_mb
from retrainer.work.evaluate.written import table_of, write_predictions
from retrainer.work.reporter import Reporter

PREDICTIONS = "predictions"


def run(request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter) -> Selected:
    """Fill ``folder`` with ``selection.json`` and one file of predictions for each candidate.

    :raises DataError: there is no validation row.
    :raises GateError: the metric has no value on the validation rows.
    """
    exports: dict[str, str] = request.identity["bundles"]
    names = short_names(tuple(exports))
    artifacts = Artifacts(request.root)
    bundles = {base: artifacts.fetch("export", digest) / "bundle" for base, digest in exports.items()}
    labels = SnapshotStatistics.load(inputs["ingest"]).labels
    rows = read_rows(split_file(inputs["ingest"], "validation"))
    if not len(rows):
        raise DataError(
            "there is no validation row to choose a base model by",
            where=f"{request.pipeline.name}: dataset.validation",
            hint="raise dataset.split.validation, name a file, or list one base model",
        )
    score = trainable_task(request.pipeline.task, where=request.pipeline.name).part("score")
    tables = {}
    for base, bundle in bundles.items():
        answers = score(bundle, REFERENCE, rows, labels, reporter, name=names[base])
        write_predictions(folder / PREDICTIONS / f"{names[base]}.parquet", rows, answers)
        tables[base] = table_of(answers, rows)
    costs = measure_costs(
        {base: (bundle, REFERENCE) for base, bundle in bundles.items()},
        rows.texts,
        threads=request.identity["threads"],
        on_progress=lambda done, total: reporter.progress("measuring speed", done=done, total=total, unit="call"),
    )
    selection = select(
        [
            Contender(
                base=base,
                export=digest,
                table=tables[base],
                parameters=_parameters(artifacts, digest),
                size_mb=size_mb(bundles[base], REFERENCE),
                latency=costs[base].latency,
                rows_per_second=costs[base].rows_per_second,
                peak_memory_mb=costs[base].peak_memory_mb,
                positive=request.pipeline.positive(labels),
            )
            for base, digest in exports.items()
        ],
        metric=request.identity["metric"],
        metrics=request.identity["metrics"],
        alpha=request.identity["alpha"],
    )
    selection.save(folder)
    reporter.log(selection.why)
    chosen = next(one for one in selection.candidates if one.base == selection.chosen)
    return Selected(selection=selection, export=chosen.export)


def _parameters(artifacts: Artifacts, export: str) -> int:
    """Of the trained model, as its training counted them."""
    training = artifacts.get(TRAIN.name, artifacts.get("export", export).inputs[TRAIN.name])
    return TRAIN.output_of(training).parameters
