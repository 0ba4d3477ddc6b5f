"""A receipt against the ledger of decisions: whether it stood on what it says it stood on, and whether it is the one.

Not here: whether the ledger itself is whole in the eyes of the channels (``store/fsck``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from retrainer.chain.accounts import Books, find_spent, level_of
from retrainer.errors import IntegrityError
from retrainer.gate.receipt import Receipt
from retrainer.store.entry import Entry, Verdict
from retrainer.store.ledger import Ledger


def ledger_problems(data: bytes, receipt: Receipt, decision: str, ledger: Ledger) -> list[str]:
    """Why the ledger does not bear a receipt out, one sentence each; nothing where it does.

    :param data: the bytes of the receipt; ``decision`` the digest of its artifact.
    """
    if receipt.standing is None:
        return ["no ledger: the receipt says nothing of earlier decisions, which every decision of a run does"]
    try:
        entries = ledger.entries()
        return list(_problems(data, receipt, decision, ledger, entries))
    except IntegrityError as error:
        return [f"ledger altered: {error}"]


def _problems(data: bytes, receipt: Receipt, decision: str, ledger: Ledger, entries: Sequence[Entry]) -> Iterator[str]:
    assert receipt.standing is not None
    spent = find_spent(entries, receipt.standing)
    if spent is None:
        yield (
            "decision not in the ledger: its end was cut off, an older state put back, or what the receipt says of "
            "earlier decisions edited; or this is another store than the one that it was decided for"
        )
        return
    before = Books(ledger, entries[: spent.sequence - 1])
    question = before.question_of(spent)
    counted = before.standing(question.look.channel, question, receipt.policy.over_time)
    for name, value in counted.model_dump(mode="json").items():
        said = getattr(receipt.standing, name)
        if said != value:
            yield f"counts edited: standing.{name} is {said!r} in the receipt, the ledger gives {value!r}"
    yield from _compared(
        f"entry {spent.sequence}",
        {
            "challenger": (question.look.challenger, receipt.digests.get("export")),
            "evaluation": (question.look.evaluation, receipt.digests.get("evaluate")),
            "champion": (question.champion, receipt.champion_version if receipt.champion_state == "present" else None),
            "level": (getattr(spent.event, "level", None), level_of(receipt.policy, question, receipt.standing)),
        },
    )
    verdicts = [entry for entry in entries if isinstance(entry.event, Verdict) and entry.event.spent == spent.sequence]
    sha256 = hashlib.sha256(data).hexdigest()
    if not verdicts:
        yield "verdict not in the ledger: its end was cut off, or the step was stopped before it wrote it"
    elif not any(isinstance(entry.event, Verdict) and entry.event.receipt == sha256 for entry in verdicts):
        yield f"receipt exchanged: entry {verdicts[0].sequence} of the ledger has another one of this decision"
    for entry in verdicts:
        if isinstance(entry.event, Verdict) and entry.event.receipt == sha256:
            yield from _compared(
                f"entry {entry.sequence}",
                {
                    "verdict": (entry.event.verdict, receipt.verdict),
                    "reasons": (entry.event.reasons, receipt.codes),
                    "decision": (entry.event.decision, decision),
                    "channel": (entry.event.channel, question.look.channel),
                },
            )


def _compared(entry: str, pairs: dict[str, tuple[object, object]]) -> Iterator[str]:
    for name, (there, here) in pairs.items():
        if there != here:
            yield f"ledger altered: {name} is {there!r} in {entry}, and {here!r} in the receipt"
