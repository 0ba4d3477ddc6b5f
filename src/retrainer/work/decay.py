"""The check of the champion: on rows that were labelled since, is it still as good as when it was decided about?

Rows count as new that are in none of the three splits of the snapshot that the champion came from, by their text, and
that are not nearly one of its training rows. Not here: the statistics and the verdict (``gate/decay.py``).
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrainer.artifacts.decay import DecayCode, DecayRecord, DecayVerdict, LeftOut
from retrainer.artifacts.snapshot import split_file
from retrainer.chain import DECIDE, INGEST, DecayChecked
from retrainer.chain.model_store import model_of
from retrainer.chain.steps.decay import content_of, labelled_alone
from retrainer.errors import DataError, IntegrityError
from retrainer.gate.answers import Answers, Said
from retrainer.gate.decay import at_shares, drop_between, judge_drop, label_shares, rows_of_each
from retrainer.gate.metrics import METRICS, score
from retrainer.gate.receipt import Receipt
from retrainer.label_names import refuse_look_alikes
from retrainer.precisions import REFERENCE
from retrainer.report.decay import decay_lines, in_words
from retrainer.spec.known_metrics import OF_ONE_LABEL
from retrainer.store.summary import DecayNote, Figure, shortened
from retrainer.tasks import trainable_task
from retrainer.work.evaluate.champion import fetch_version
from retrainer.work.evaluate.held_out import HeldOutRows, nearly_trained_on, read_rows
from retrainer.work.evaluate.written import write_predictions
from retrainer.work.ingest import write_labelled
from retrainer.work.snapshot_texts import read_text_keys, trained_on

if TYPE_CHECKING:
    from retrainer.chain import StepRequest
    from retrainer.work.reporter import Reporter

RECEIPT = "receipt.json"
PREDICTIONS = "predictions.parquet"


def run(request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter) -> DecayChecked:
    """Fill ``folder`` with ``decay.json``, and where rows were scored with the champion's answers to them.

    :raises DataError: the data is not what the pipeline says it is, or changed meanwhile.
    :raises IntegrityError: the champion cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="retrainer-decay-") as scratch:
        record = _checked(request, inputs, folder, Path(scratch), reporter)
    record.save(folder)
    for line in decay_lines(record):
        reporter.log(line)
    if record.version is not None:
        model_of(request.pipeline).note_decay(record.channel, _note(record, request))
    return DecayChecked.of(record)


def _checked(
    request: StepRequest, inputs: dict[str, Path], folder: Path, scratch: Path, reporter: Reporter
) -> DecayRecord:
    pipeline, version = request.pipeline, request.identity["champion"]
    check = pipeline.decay_check
    metric = check.metric or ""
    found: dict[str, Any] = {
        "model": pipeline.name,
        "channel": pipeline.publish.channel,
        "version": version,
        "metric": metric,
        "max_drop": check.max_drop,
        "min_rows": check.min_rows,
    }
    if version is None:
        return _insufficient(found, DecayCode.NO_CHAMPION)
    bundle = scratch / "bundle"
    info = fetch_version(request, version, bundle, pipeline.task)
    if isinstance(info, str):
        raise IntegrityError(f"the champion cannot be read: {info}", where=f"{pipeline.name} version {version}")
    found["decision"] = model_of(pipeline).manifest(version).artifacts.get(DECIDE.name)
    receipt = _receipt(bundle)
    before = receipt.metrics.get(REFERENCE, {}).get(metric) if receipt is not None else None
    if receipt is None or before is None or before.low is None:
        return _insufficient(found, DecayCode.NOT_SCORED_BEFORE)
    found |= {"before": before, "before_rows": receipt.rows}
    if INGEST.name not in inputs:
        return _insufficient(found, DecayCode.ORIGIN_UNKNOWN)
    if request.identity["data"] is None:
        return _insufficient(found, DecayCode.TOO_FEW_ROWS)
    rows, labels = _read(request, scratch, info.labels, reporter)
    rows, left_out = _new(request, rows, labels, bundle, inputs[INGEST.name])
    found |= {"rows": len(rows), "left_out": left_out}
    if len(rows) < check.min_rows:
        return _insufficient(found, DecayCode.TOO_FEW_ROWS)
    task = trainable_task(pipeline.task, where=pipeline.name)
    said: Said = task.part("score")(bundle, REFERENCE, rows, labels, reporter, name=f"version {version}")
    if isinstance(said, Answers) and metric in OF_ONE_LABEL:
        said = replace(said, positive=pipeline.positive(labels))
    write_predictions(folder / PREDICTIONS, rows, said)
    alpha = receipt.policy.alpha
    now = score(metric, rows.labels, said, alpha)
    truth = rows_of_each(rows.labels, said, labels)
    comparable = len(labels) == len(info.labels) or not METRICS[metric].known.of_its_labels
    found |= {
        "now": now,
        "drop": drop_between(metric, before, now, alpha) if comparable else None,
        "shares": label_shares(receipt.label_counts, receipt.rows, truth, len(rows)) if truth else (),
        "at_old_shares": at_shares(metric, rows.labels, said, labels, receipt.label_counts),
        "unknown_labels": {name: count for name, count in truth.items() if name not in info.labels and count},
    }
    if found["drop"] is None:
        return _insufficient(found, DecayCode.METRIC_UNDEFINED)
    return _record(found, *judge_drop(found["drop"], check.max_drop))


def _insufficient(found: dict[str, Any], code: DecayCode) -> DecayRecord:
    return _record(found, "insufficient", code)


def _record(found: dict[str, Any], verdict: DecayVerdict, code: DecayCode) -> DecayRecord:
    record = DecayRecord(**found, verdict=verdict, code=code, text="")
    return record.model_copy(update={"text": in_words(record)})


def _receipt(bundle: Path) -> Receipt | None:
    """That of the version's decision; ``None`` where it was published without one."""
    path = bundle / RECEIPT
    return Receipt.from_json(path.read_bytes(), where=str(path)) if path.is_file() else None


def _read(
    request: StepRequest, scratch: Path, known: tuple[str, ...], reporter: Reporter
) -> tuple[HeldOutRows, tuple[str, ...]]:
    """All usable rows, and the labels that they index: the champion's, then those that it does not know."""
    place = scratch / "rows"
    place.mkdir()
    alone = labelled_alone(request.pipeline)
    file, own = write_labelled(alone, place, reporter)
    # The check is named by what the rows were when it was planned; others must not go by that name.
    if content_of(alone.dataset.train, alone.dataset.csv) != request.identity["data"]:
        raise DataError("the rows changed since this check was planned", hint="check again while nobody writes them")
    rows = read_rows(file)
    labels = tuple(dict.fromkeys([*known, *own]))
    # Another spelling of a label that the champion gives would count as wrong in each of its rows.
    counts = dict.fromkeys(labels, 0) | {name: int((rows.labels == at).sum()) for at, name in enumerate(own)}
    refuse_look_alikes(counts, lambda name: "the labels of the champion and those of decay.data")
    index = np.array([labels.index(name) for name in own], dtype=np.int64)
    if rows.sets is not None:
        rows = replace(rows, sets=tuple(tuple(sorted(index[list(of)].tolist())) for of in rows.sets))
    elif own:
        rows = replace(rows, labels=index[rows.labels])
    return rows, labels


def _new(
    request: StepRequest, rows: HeldOutRows, labels: tuple[str, ...], bundle: Path, snapshot: Path
) -> tuple[HeldOutRows, LeftOut]:
    """The rows that the champion has not seen in any part, and what the others are. Each counts once."""
    keys = np.array(rows.keys, dtype=np.str_)
    seen = np.zeros(len(rows), dtype=np.bool_)
    counts: dict[str, int] = {}
    in_split = {
        # In the bundle also those of a champion that was blended in, or trained on.
        "train": trained_on(rows.keys, bundle),
        "validation": np.isin(keys, read_text_keys(split_file(snapshot, "validation"))),
        "test": np.isin(keys, read_text_keys(split_file(snapshot, "test"))),
    }
    for name, among in in_split.items():
        counts[name] = int((among & ~seen).sum())
        seen |= among
    # Of what is left alone, which may be a small part.
    rest = rows.where(~seen)
    near, unknown = nearly_trained_on(request.pipeline, rest, labels, bundle)
    return rest.where(~near), LeftOut(**counts, near=int(near.sum()), near_unknown=unknown)


def _note(record: DecayRecord, request: StepRequest) -> DecayNote:
    assert record.version is not None
    drop = record.drop
    return DecayNote(
        version=record.version,
        check=request.digest,
        verdict=record.verdict,
        text=shortened(record.text),
        metric=record.metric,
        drop=Figure(value=drop.estimate, low=drop.low, high=drop.high) if drop is not None else None,
        rows=record.rows,
        at=datetime.now(UTC).isoformat(timespec="microseconds"),
    )
