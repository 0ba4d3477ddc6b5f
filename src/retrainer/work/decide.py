"""The decide step: judge an evaluation by the pipeline's gate, and write the receipt and the report.

Two pipelines may share a decision's inputs: nothing is written here of the store, the channel or the keys of one. The
model card, which says how the model is loaded, is made when it is published (``work/publish.py``).
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from retrainer.artifacts.evaluation import CHAMPION, LOOK_FIRST, SUSPECTS
from retrainer.artifacts.snapshot import SnapshotStatistics, split_file
from retrainer.artifacts.standing import Standing
from retrainer.chain import Decided
from retrainer.chain.accounts import close_account
from retrainer.chain.model_store import model_of
from retrainer.chain.summaries import judged_in
from retrainer.errors import IntegrityError
from retrainer.gate.decide import decide
from retrainer.gate.evidence import Evidence, load_evidence
from retrainer.gate.metrics import compared_by
from retrainer.gate.receipt import Receipt
from retrainer.gate.verify import receipt_bytes
from retrainer.precisions import REFERENCE
from retrainer.report.decision import confusions_part, explain
from retrainer.report.html import ReportFacts, report_html
from retrainer.report.model_card import CardFacts
from retrainer.spec.changes import Changes
from retrainer.store.entry import Verdict
from retrainer.work.card import card_facts
from retrainer.work.examples import examples_of
from retrainer.work.flips import flips_of

if TYPE_CHECKING:
    from retrainer.chain import StepRequest
    from retrainer.work.reporter import Reporter

RECEIPT = "receipt.json"
REPORT = "report.html"
# A text has no other limit than this.
LONGEST_FIELD = 2**31 - 1


def run(request: StepRequest, inputs: dict[str, Path], folder: Path, reporter: Reporter) -> Decided:
    """Fill ``folder`` with the receipt, the report, and where there is a champion the rows that flipped. A refusal is a
    result, not an error.

    :raises IntegrityError: the evaluation is about other artifacts than those of this run.
    :raises GateError: the policy cannot be applied.
    """
    standing = Standing.from_content(request.identity["standing"], where="request")
    asked = request.identity.get("changes")
    changes = Changes.from_content(asked, where="request") if asked is not None else None
    evidence = load_evidence(inputs["evaluate"], standing, changes)
    _check_origin(request, evidence)
    receipt = decide(request.pipeline.gate, evidence)
    (folder / RECEIPT).write_bytes(receipt_bytes(receipt))
    card = card_facts(request, inputs, evidence, receipt)
    plots = {path.name: path.read_bytes() for path in sorted(inputs["evaluate"].glob("*.png"))}
    facts = _report_facts(request, inputs, card, evidence, receipt)
    if facts.flips is not None:
        facts.flips.save(folder)
    report = report_html(receipt, facts, plots)
    (folder / REPORT).write_text(report, encoding="utf-8")
    for line in [*explain(receipt), *_confused_lines(card)]:
        reporter.log(line)
    _close(request, standing, receipt)
    return Decided.of(receipt)


def _close(request: StepRequest, standing: Standing, receipt: Receipt) -> None:
    """Write the verdict into the ledger, before anybody can act on it; then what pages show of it."""
    channel = request.pipeline.publish.channel

    def verdict(spent: int) -> Verdict:
        return Verdict(
            channel=channel,
            spent=spent,
            decision=request.digest,
            receipt=hashlib.sha256(receipt_bytes(receipt)).hexdigest(),
            verdict=receipt.verdict,
            reasons=receipt.codes,
        )

    model = model_of(request.pipeline)
    entries = close_account(model.ledger, standing, verdict, request.context)
    model.note_decision(entries, request.digest, judged_in(receipt))


def _check_origin(request: StepRequest, evidence: Evidence) -> None:
    """The evaluation must be of the very artifacts that publishing would take."""
    for step, digest in request.inputs.items():
        said = evidence.record.digests.get(step)
        if said != digest:
            raise IntegrityError(
                f"the evaluation is of {step} artifact {said}, this run has {digest}",
                where=f"evaluate artifact {request.inputs.get('evaluate')}",
                hint="run the evaluate step again",
            )
    if evidence.record.model != request.pipeline.name:
        raise IntegrityError(f"the evaluation is of model {evidence.record.model!r}", where=request.pipeline.name)


def _confused_lines(card: CardFacts) -> list[str]:
    confused = confusions_part(card.confusions)
    return [f"  {confused.title}", *(f"    {line}" for line in confused.lines())] if confused.said else []


def _report_facts(
    request: StepRequest, inputs: dict[str, Path], card: CardFacts, evidence: Evidence, receipt: Receipt
) -> ReportFacts:
    statistics = SnapshotStatistics.load(inputs["ingest"])
    quarantined = {f"quarantined, {reason.replace('_', ' ')}": rows for reason, rows in statistics.quarantined.items()}
    changed = statistics.corrections.relabelled if statistics.corrections else {}
    relabelled = {f"relabelled by corrections, {split}": rows for split, rows in changed.items() if rows}
    # As of the confusions: what contradicts itself was not judged, and is not shown.
    judged = {REFERENCE, CHAMPION} <= receipt.metrics.keys()
    texts = receipt.policy.report_texts
    test = split_file(inputs["ingest"], "test") if texts else None
    metric = compared_by(receipt.policy, evidence.record.family)
    return ReportFacts(
        card=card,
        decision=request.digest,
        label_counts={split: counted.label_counts for split, counted in statistics.splits.items()},
        dropped={"duplicates dropped": statistics.duplicates, **quarantined, **relabelled},
        suspects=evidence.record.suspects,
        suspects_error=evidence.record.suspects_error,
        suspicious=[row for row in _rows(inputs["evaluate"] / SUSPECTS, texts=texts) if row["split"] == "test"],
        look_first=_rows(inputs["evaluate"] / LOOK_FIRST, texts=texts),
        flips=flips_of(evidence, test) if judged else None,
        examples=examples_of(evidence, metric, test) if REFERENCE in receipt.metrics else None,
    )


def _rows(file: Path, *, texts: bool) -> list[dict[str, str]]:
    """The rows of a file for people; none where the evaluation wrote none.

    :param texts: show them; else the rows' ids in their place.
    """
    if not file.is_file():
        return []
    csv.field_size_limit(LONGEST_FIELD)
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return rows if texts else [{**row, "text": f"row {row['row_id']}", "text_pair": ""} for row in rows]
