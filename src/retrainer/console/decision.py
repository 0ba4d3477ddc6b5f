"""The page of a decision: intervals, slices, budgets, the rows that flipped, and how to check all of it.

It shows what the receipt says, in the words of ``report.decision``; the figures are drawn here, so that nothing heavy
is loaded. Texts of rows are only in what a visitor gets who may read them (``may_read_texts``).
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from retrainer.artifacts.evaluation import EvaluationRecord
from retrainer.artifacts.measures import Interval
from retrainer.artifacts.repository import Artifacts
from retrainer.audit.locate import RECEIPT, FoundReceipt, decided_receipt
from retrainer.console.drawing import Estimate, Forest, Kind, forest
from retrainer.console.host import Shown
from retrainer.console.overview import published_by
from retrainer.console.stores import Problem, Stores
from retrainer.errors import ArtifactError, NotFoundError
from retrainer.gate.receipt import Receipt
from retrainer.records import Record
from retrainer.report.decision import models_of, parts
from retrainer.report.flips import Flips, flips_part, without_texts
from retrainer.report.presentation import Part, probability, scored, signed
from retrainer.spec.gate import Gate
from retrainer.spec.known_metrics import lower_is_better
from retrainer.storage import open_storage
from retrainer.store.entry import Answer, Entry
from retrainer.store.ledger import Ledger
from retrainer.store.summary import Summary

REPORT = "report.html"
DIGEST = re.compile(r"[0-9a-f]{64}")
# Of the slices that are drawn: those with the lowest difference. The table has all.
MOST_SLICES = 20
# Entries after a verdict that are searched for what a person said to it: one is asked soon, or not at all.
MOST_AFTER = 20


class Place(Record):
    """Where a decision stands in the ledger and in the channel.

    :ivar entry: number of the verdict in the ledger.
    :ivar live_as: the version that it made live, by the move of that number.
    """

    entry: int
    at: str
    actor: str
    run: str
    live_as: str | None = None
    move: int | None = None
    moved_by: str | None = None


class DecisionPage(Record):
    """The page.

    :ivar receipt_sha256: of the file, as the ledger has it.
    :ivar flips: ``None`` where nothing was compared, or where the decision is older than this file of its artifact.
    :ivar texts: whether texts are shown to this visitor; ``texts_because`` why, or why not.
    :ivar verify: the command that checks it.
    :ivar report: whether its report may be shown to this visitor.
    """

    model: str
    channel: str
    dag_id: str
    decision: str
    receipt: Receipt
    receipt_sha256: str
    measured: EvaluationRecord | None
    flips: Flips | None
    place: Place | None
    answer: Entry | None
    texts: bool
    texts_because: str
    verify: tuple[str, ...]
    report: bool
    problems: tuple[str, ...] = ()


def decision_page(
    one: Shown, channel: str, decision: str, root: str, stores: Stores, *, may_read_texts: bool
) -> DecisionPage:
    """Read a decision and what it rests on.

    :param decision: digest of its decide artifact.
    :param root: of the artifacts.
    :raises NotFoundError: there is no such decision of this model.
    """
    refuse_other_than_digest(decision)
    key, artifacts = (root, decision), Artifacts(root)
    summary_key = ("summary", one.store, one.name)
    answer_key = ("answer", one.store, one.name, channel, decision)
    asked = stores.ask_several(
        [
            (
                root,
                {
                    ("receipt", *key): partial(read_receipt, artifacts, decision),
                    ("flips", *key): partial(_read_flips, artifacts, decision),
                    ("measured", *key): partial(_read_measured, artifacts, decision),
                },
            ),
            (
                one.store,
                {
                    summary_key: partial(stores.summary, one.store, one.name),
                    answer_key: partial(_read_answer, stores, one, channel, decision),
                },
            ),
        ]
    )
    found = asked["receipt", *key]
    if isinstance(found, Problem):
        raise NotFoundError(f"the decision {decision[:12]} cannot be read: {found.text}", where=root)
    assert isinstance(found, FoundReceipt)
    receipt = Receipt.from_json(found.data, where=found.where)
    if receipt.model != one.name:
        raise NotFoundError(f"'{one.name}' has no decision {decision[:12]}", hint=f"it is one of '{receipt.model}'")
    flips, summary = asked["flips", *key], asked[summary_key]
    measured, answer = asked["measured", *key], asked[answer_key]
    texts, because = texts_for(receipt, may_read_texts=may_read_texts, dag_id=one.dag_id)
    if isinstance(flips, Flips) and not texts:
        flips = without_texts(flips)
    return DecisionPage(
        model=one.name,
        channel=channel,
        dag_id=one.dag_id,
        decision=decision,
        receipt=receipt,
        receipt_sha256=hashlib.sha256(found.data).hexdigest(),
        measured=measured if isinstance(measured, EvaluationRecord) else None,
        flips=flips if isinstance(flips, Flips) else None,
        place=_place(summary, channel, decision) if isinstance(summary, Summary) else None,
        answer=answer if isinstance(answer, Entry) else None,
        texts=texts,
        texts_because=because,
        verify=_commands(one, root, decision),
        report=texts or not receipt.policy.report_texts,
        problems=tuple(found.text for found in (measured, flips, summary, answer) if isinstance(found, Problem)),
    )


def refuse_other_than_digest(text: str) -> None:
    """Insist that what an address names can name an artifact, and leads nowhere else.

    :raises NotFoundError: it cannot.
    """
    if not DIGEST.fullmatch(text):
        raise NotFoundError("there is no such decision", hint="a decision is named by 64 hexadecimal digits")


def texts_for(receipt: Receipt, *, may_read_texts: bool, dag_id: str) -> tuple[bool, str]:
    """Whether texts of rows are shown, and why."""
    return texts_shown(receipt.policy, may_read_texts=may_read_texts, dag_id=dag_id)


def texts_shown(gate: Gate, *, may_read_texts: bool, dag_id: str) -> tuple[bool, str]:
    """The same, by the gate of a pipeline."""
    if not gate.report_texts:
        return False, "The pipeline shows no texts (gate.report_texts)."
    if not may_read_texts:
        return False, f"Texts of rows are for those who may read the task logs of {dag_id}."
    return True, f"You see texts of rows because you may read the task logs of {dag_id}."


def read_receipt(artifacts: Artifacts, decision: str) -> FoundReceipt:
    """The receipt of a decision.

    :raises NotFoundError: there is no such decision.
    """
    try:
        return decided_receipt(artifacts, decision)
    except ArtifactError as error:
        raise NotFoundError(error.message, where=error.where, hint="its artifact was removed") from None


def read_file(artifacts: Artifacts, decision: str, name: str) -> bytes:
    """Receipt or report of a decision, as it is.

    :raises NotFoundError: it is not there, or was altered.
    """
    refuse_other_than_digest(decision)
    assert name in {RECEIPT, REPORT}
    try:
        return artifacts.read("decide", decision, name)
    except ArtifactError as error:
        raise NotFoundError(error.message, where=error.where) from None


def _read_flips(artifacts: Artifacts, decision: str) -> Flips | None:
    manifest = artifacts.find("decide", decision)
    if manifest is None or Flips.file not in manifest.files:
        return None
    return Flips.from_json(artifacts.read("decide", decision, Flips.file), where=Flips.file)


def _read_answer(stores: Stores, one: Shown, channel: str, decision: str) -> Entry | None:
    """What a person said to a decision last; ``None`` where nobody did, or where the summary does not know it."""
    place = _place(stores.summary(one.store, one.name), channel, decision)
    if place is None:
        return None
    ledger, said = Ledger(open_storage(one.store), one.name), None
    with suppress(NotFoundError):  # the end of the ledger
        for sequence in range(place.entry + 1, place.entry + 1 + MOST_AFTER):
            entry = ledger.read(sequence)
            if isinstance(entry.event, Answer) and entry.event.decision == decision:
                said = entry
    return said


def _read_measured(artifacts: Artifacts, decision: str) -> EvaluationRecord | None:
    """The evaluation that a decision judged; ``None`` where its artifact was removed."""
    manifest = artifacts.find("decide", decision)
    evaluate = manifest.inputs.get("evaluate", "") if manifest is not None else ""
    if not evaluate or artifacts.find("evaluate", evaluate) is None:
        return None
    content = artifacts.read("evaluate", evaluate, EvaluationRecord.file)
    return EvaluationRecord.from_json(content, where=f"evaluate artifact {evaluate[:12]}")


def _place(summary: Summary, channel: str, decision: str) -> Place | None:
    found = summary.of(channel)
    one = next((one for one in found.decisions if one.decision == decision), None)
    if one is None:
        return None
    live = published_by(found, decision)
    return Place(
        entry=one.entry,
        at=one.at,
        actor=one.actor,
        run=one.run,
        live_as=live.to_version if live else None,
        move=live.sequence if live else None,
        moved_by=live.actor if live else None,
    )


def _commands(one: Shown, root: str, decision: str) -> tuple[str, ...]:
    """What checks the decision offline."""
    receipt = f"{root.rstrip('/')}/decide/{decision}"
    return (f"retrainer verify {shlex.quote(receipt)} --ledger {shlex.quote(one.store)}",)


# --- what is drawn -----------------------------------------------------------------------------------------


def parts_of(page: DecisionPage) -> dict[str, Part]:
    """The sentences and tables of the receipt, and of the flips."""
    made = parts(page.receipt, page.measured.models if page.measured is not None else None)
    return {**made, "flipped": flips_part(page.flips)}


# The sections of the page and the parts below each; the first that says anything gives the heading.
SECTIONS = (
    ("comparison", "anchor", "over_time"),
    ("scores", "floors"),
    ("slices",),
    ("flips", "flipped"),
    ("budgets", "costs"),
    ("baseline",),
    ("precisions", "calibration"),
    ("selection",),
    ("leakage", "drift"),
)


def sections_of(made: Mapping[str, Part]) -> list[tuple[Part, list[Part]]]:
    """The part that gives a section its heading, and all those of it that say anything."""
    said = [[made[name] for name in names if made[name].said] for names in SECTIONS]
    return [(below[0], below) for below in said if below]


def forests_of(receipt: Receipt) -> dict[str, list[Forest]]:
    """Name of a part to what is drawn above it."""
    drawn: dict[str, list[Forest | None]] = {
        "comparison": [_difference("challenger", "champion", receipt.comparison, receipt.threshold)],
        "baseline": [_difference("challenger", "baseline", receipt.baseline_comparison, None)],
        "scores": _scores(receipt),
        "slices": [_slices(receipt)],
    }
    if receipt.anchor is not None and not receipt.anchor.is_champion:
        drawn["anchor"] = [_difference("challenger", "anchor", receipt.anchor.comparison, -receipt.anchor.max_loss)]
    return {name: [one for one in made if one is not None] for name, made in drawn.items()}


def _difference(first: str, second: str, interval: Interval | None, threshold: float | None) -> Forest | None:
    if interval is None:
        return None
    met = threshold is None or interval.low > threshold
    figure = f"{signed(interval.estimate)} {interval.range}"
    asked = "" if threshold is None else f" The whole interval must be right of {threshold:+g}."
    row = Estimate(
        name=f"{first} minus {second}",
        figure=figure,
        value=interval.estimate,
        low=interval.low,
        high=interval.high,
        kind="plain" if threshold is None else "good" if met else "bad",
    )
    text = f"{first} minus {second}: {figure}. Right of 0 {first} is better.{asked}"
    return forest(f"Difference in {interval.metric}", text, [row], zero=True, least=threshold)


def _scores(receipt: Receipt) -> list[Forest | None]:
    models, floors = models_of(receipt), receipt.policy.floors
    metrics = dict.fromkeys(metric for scores in models.values() for metric in scores)
    made = []
    for metric in metrics:
        less = lower_is_better(metric)
        rows = [
            Estimate(
                name=name,
                figure=str(scored(score)),
                value=score.value,
                low=score.low,
                high=score.high,
                kind="plain" if name in {"champion", "anchor", "baseline"} else "promoted",
            )
            for name, scores in models.items()
            if (score := scores.get(metric)) is not None and score.value is not None
        ]
        title = f"{metric}, {'less' if less else 'more'} is better"
        text = "; ".join(f"{row.name} {row.figure}" for row in rows)
        made.append(forest(title, text, rows, least=floors.get(metric), at_most=less))
    return made


def _slices(receipt: Receipt) -> Forest | None:
    compared = [one for one in receipt.slices if one.difference is not None]
    worst = sorted(compared, key=lambda one: one.difference or 0.0)[:MOST_SLICES]
    marks = {"worse": "worse", "insufficient": "too few rows", "ok": ""}
    kinds: dict[str, Kind] = {"worse": "bad", "insufficient": "plain", "ok": "good"}
    rows = [
        Estimate(
            name=f"{one.by} = {one.value or '(empty)'}",
            figure=signed(one.difference),
            value=one.difference,
            kind=kinds[one.status],
            mark=marks[one.status],
            below=f"{one.rows:,} rows" + (f", p {probability(one.holm)} by Holm" if one.holm is not None else ""),
        )
        for one in worst
        if one.difference is not None
    ]
    policy = receipt.policy.slices
    text = f"{len(rows)} slices, the lowest difference first. The table below has all of them."
    metric = (receipt.slices[0].metric or "accuracy") if receipt.slices else ""
    least = -policy.max_drop if policy is not None and policy.max_drop is not None else None
    return forest(f"{metric} by slice, challenger minus champion", text, rows, zero=True, least=least)
