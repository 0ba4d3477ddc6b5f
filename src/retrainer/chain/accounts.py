"""What a channel's decisions and its test rows have been through, by the ledger in the store; and how it is written.

A look is written when a challenger was scored, what a decision spends before it is taken, its verdict after it, and
what a person said to it in the end. Not here: at which level a decision is then taken (``gate/spending.py``), the
objects (``store/ledger.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Literal

from retrainer.artifacts.standing import Standing
from retrainer.chain.requests import RunContext
from retrainer.errors import IntegrityError, StorageError
from retrainer.gate.spending import in_period, spend
from retrainer.spec.gate import Gate, OverTime
from retrainer.store.entry import Answer, Entry, Event, Look, Spent, Verdict
from retrainer.store.ledger import Ledger, RowSet
from retrainer.store.names import check_words

# Each time somebody else wrote an entry in between. So many at once there are not.
_TRIES = 100
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Question:
    """What a decision is about. The same one asked again spends nothing more.

    :ivar look: the challenger and its rows, as they are looked at for this evaluation.
    :ivar champion: that it is compared with; ``None`` where there is no comparison.
    :ivar anchor: of the channel; ``anchor_error`` why it could not be asked.
    :ivar metric: by which they are compared, with the label that it scores where it scores one.
    """

    look: Look
    champion: str | None
    anchor: str | None
    anchor_error: str | None
    metric: str | None

    @property
    def key(self) -> tuple[str | None, ...]:
        """What makes it another question."""
        return (*_key(self.look), self.champion, self.anchor, self.metric)


class Books:
    """The ledger as it was read, and what follows from it.

    :param entries: all of them, or those before a decision that is looked at again.
    :param numbers: gives a set of rows by its hash, for whoever opens many books of one ledger; by default it is read.
    """

    def __init__(
        self, ledger: Ledger, entries: Sequence[Entry], *, numbers: Callable[[str], Sequence[int]] | None = None
    ) -> None:
        self._ledger = ledger
        self._entries = tuple(entries)
        self._numbers = numbers or (lambda rows: ledger.rows(rows).numbers())

    def look_at(self, challenger: str, rows: str) -> Entry | None:
        """The look at that challenger on those rows."""
        return next((entry for entry, look in self._looks if _key(look) == (challenger, rows)), None)

    def earlier(self, channel: str, question: Question) -> list[tuple[Entry, Spent]]:
        """Where that question was asked of the same evaluation on the channel before, the newest first."""
        return [
            (entry, spent)
            for entry, spent, asked in reversed(self._asked(channel))
            if asked == replace(question, look=question.look.model_copy(update={"channel": channel}))
        ]

    def question_of(self, spent: Entry) -> Question:
        """What a decision was about.

        :param spent: what it spent, the entry after all of these.
        :raises IntegrityError: it names a look that is none.
        """
        question = self._question(spent.event) if isinstance(spent.event, Spent) else None
        if question is None:
            raise IntegrityError(
                f"entry {spent.sequence} of the ledger names another one that is no look",
                where=self._ledger.where(spent.sequence),
                hint="run 'retrainer fsck'",
            )
        return question

    def standing(self, channel: str, question: Question, policy: OverTime) -> Standing:
        """What was counted, for a decision that comes after all these entries."""
        mine = question.look
        compared: dict[tuple[str | None, ...], list[int]] = {}
        others_asked: list[int] = []
        for entry, spent, asked in self._asked(channel):
            if asked.key != question.key:
                others_asked.append(entry.sequence)
                if spent.level is not None:
                    compared.setdefault(asked.key, []).append(entry.sequence)
        running = list(compared.values())[len(compared) - in_period(len(compared), policy) :]
        # Deciding one of several first makes the others no fewer: counted is from the decision before this look.
        scored = self.look_at(*_key(mine))
        before = [number for number in others_asked if scored is None or number < scored.sequence]
        last = max(before, default=0)
        others = [(entry, look) for entry, look in self._looks if _key(look) != _key(mine)]
        seen = [(entry.sequence, share) for entry, share in self._shares(mine, others) if share]
        decided_on = {spent.look for _, spent in self._spent if spent.level is not None}
        return Standing(
            ledger=self._entries[-1].sha256 if self._entries else None,
            decisions=len(compared),
            promotions=sum(not self._promoted.isdisjoint(numbers) for numbers in running),
            # For whichever channel: the best of several may have been chosen for this one.
            looks=1 + sum(entry.sequence > last for entry, _ in others),
            wear=round(sum(share for _, share in seen), 9),
            row_looks=len(seen),
            row_decisions=sum(number in decided_on for number, _ in seen),
            anchor=question.anchor,
            anchor_error=question.anchor_error,
            rows_per_day=self._rows_per_day(mine),
        )

    @cached_property
    def _looks(self) -> list[tuple[Entry, Look]]:
        return [(entry, entry.event) for entry in self._entries if isinstance(entry.event, Look)]

    @cached_property
    def _spent(self) -> list[tuple[Entry, Spent]]:
        return [(entry, entry.event) for entry in self._entries if isinstance(entry.event, Spent)]

    def _asked(self, channel: str) -> list[tuple[Entry, Spent, Question]]:
        """What was asked on a channel, the oldest first."""
        found = ((entry, spent, self._question(spent)) for entry, spent in self._spent if spent.channel == channel)
        return [(entry, spent, question) for entry, spent, question in found if question is not None]

    def _question(self, spent: Spent) -> Question | None:
        look = self._entries[spent.look - 1].event if spent.look <= len(self._entries) else None
        if not isinstance(look, Look):
            return None
        look = look.model_copy(update={"channel": spent.channel, "evaluation": spent.evaluation})
        return Question(look, spent.champion, spent.anchor, spent.anchor_error, spent.metric)

    @cached_property
    def _promoted(self) -> set[int]:
        """The numbers of what was spent for a promotion."""
        events = (entry.event for entry in self._entries)
        return {event.spent for event in events if isinstance(event, Verdict) and event.verdict == "promote"}

    def _shares(self, mine: Look, others: Sequence[tuple[Entry, Look]]) -> Iterator[tuple[Entry, float]]:
        """Which share of my rows each of the other looks saw. One set at a time is in memory, beside mine."""
        shares: dict[str, float] = {mine.rows: 1.0}
        rows: frozenset[int] | None = None
        for entry, look in others:
            if look.rows not in shares:
                rows = frozenset(self._numbers(mine.rows)) if rows is None else rows
                shares[look.rows] = sum(map(rows.__contains__, self._numbers(look.rows))) / len(rows)
            yield entry, shares[look.rows]

    def _rows_per_day(self, mine: Look) -> float | None:
        """How many more there are than at the first look, for each day since then."""
        if not self._looks:
            return None
        (first, oldest), (last, _) = self._looks[0], self._looks[-1]
        days = (datetime.fromisoformat(last.at) - datetime.fromisoformat(first.at)) / _DAY
        more = mine.row_count - oldest.row_count
        return round(more / days, 6) if days >= 1 and more > 0 else None


def write_look(ledger: Ledger, look: Look, rows: RowSet, context: RunContext) -> None:
    """Note that a challenger was scored; of the same one on the same rows, only once."""
    ledger.put_rows(rows)
    for entries in _tries(ledger):
        if Books(ledger, entries).look_at(*_key(look)) or _append(ledger, entries, look, context) is not None:
            return


def open_account(
    ledger: Ledger, channel: str, gate: Gate, question: Question, rows: Callable[[], RowSet], context: RunContext
) -> Standing:
    """Note what a decision spends, before it is taken.

    :param rows: the set of test rows, where the look was not written into this ledger yet.
    :return: what it stands on: the same as before, where the same question was asked before under the same terms.
    :raises IntegrityError: the ledger was altered.
    """
    for entries in _tries(ledger):
        books = Books(ledger, entries)
        look = books.look_at(*_key(question.look))
        if look is None:
            write_look(ledger, question.look, rows(), context)
            continue
        for entry, spent in books.earlier(channel, question):
            before = Books(ledger, entries[: entry.sequence - 1]).standing(channel, question, gate.over_time)
            if standing_sha256(before) == spent.standing and level_of(gate, question, before) == spent.level:
                return before
        standing = books.standing(channel, question, gate.over_time)
        spent = Spent(
            channel=channel,
            look=look.sequence,
            evaluation=question.look.evaluation,
            champion=question.champion,
            anchor=question.anchor,
            anchor_error=question.anchor_error,
            metric=question.metric,
            standing=standing_sha256(standing),
            level=level_of(gate, question, standing),
        )
        if _append(ledger, entries, spent, context) is not None:
            return standing
    raise AssertionError("the tries end with an error")


def close_account(
    ledger: Ledger, standing: Standing, verdict: Callable[[int], Verdict], context: RunContext
) -> list[Entry]:
    """Note the verdict; the same one only once.

    :param verdict: makes it, from the number of the entry with what the decision spent.
    :return: the ledger with it.
    :raises IntegrityError: the ledger does not hold what the decision spent: it was cut, or is another one.
    """
    for entries in _tries(ledger):
        spent = find_spent(entries, standing)
        if spent is None:
            raise IntegrityError(
                "the ledger does not hold what this decision spent: its end was cut off, or it is another one",
                where=ledger.where(),
                hint="find out by whom; run 'retrainer fsck'",
            )
        event = verdict(spent.sequence)
        if any(entry.event == event for entry in entries):
            return entries
        if (entry := _append(ledger, entries, event, context)) is not None:
            return [*entries, entry]
    raise AssertionError("the tries end with an error")


def write_answer(
    ledger: Ledger, decision: str, *, answer: Literal["approve", "reject"], reason: str, actor: str, run: str
) -> None:
    """Note what a person said to a decision.

    :param decision: digest of the decide artifact.
    :raises UserError: the reason is too long.
    :raises IntegrityError: the ledger does not hold that decision.
    """
    check_words(reason=reason)
    for entries in _tries(ledger):
        said = next((entry for entry in reversed(entries) if _is_verdict_of(entry, decision)), None)
        if said is None or not isinstance(said.event, Verdict):
            raise IntegrityError(
                "the ledger does not hold the decision that was answered: its end was cut off, or it is another one",
                where=ledger.where(),
                hint="find out by whom; run 'retrainer fsck'",
            )
        event = Answer(channel=said.event.channel, to=said.sequence, decision=decision, answer=answer, reason=reason)
        if ledger.append(entries, event, actor=actor, run=run) is not None:
            return


def answer_to(entries: Sequence[Entry], decision: str) -> Entry | None:
    """The newest entry with what a person said to a decision; ``None`` where nobody did."""
    found = (entry for entry in reversed(entries) if isinstance(entry.event, Answer))
    return next((entry for entry in found if getattr(entry.event, "decision", None) == decision), None)


def _is_verdict_of(entry: Entry, decision: str) -> bool:
    return isinstance(entry.event, Verdict) and entry.event.decision == decision


def find_spent(entries: Sequence[Entry], standing: Standing) -> Entry | None:
    """What a decision on that standing spent: the standing names the entry before it."""
    sha256 = standing_sha256(standing)
    spent = (entry for entry in entries if isinstance(entry.event, Spent) and entry.event.standing == sha256)
    return next((entry for entry in spent if entry.previous == standing.ledger), None)


def standing_sha256(standing: Standing) -> str:
    """What an entry names a standing by."""
    return hashlib.sha256(standing.to_json()).hexdigest()


def _key(look: Look) -> tuple[str, str]:
    return look.challenger, look.rows


def level_of(gate: Gate, question: Question, standing: Standing) -> float | None:
    """At which level the challenger is compared with the champion; ``None`` where it is not."""
    if question.champion is None or gate.against_champion is None:
        return None
    return spend(gate.over_time, gate.alpha, standing).level


def _append(ledger: Ledger, entries: Sequence[Entry], event: Event, context: RunContext) -> Entry | None:
    return ledger.append(entries, event, actor=context.actor, run=context.run_id)


def _tries(ledger: Ledger) -> Iterator[list[Entry]]:
    for _ in range(_TRIES):
        yield ledger.entries()
    raise StorageError(
        "the ledger of decisions could not be written: somebody else wrote it each time",
        where=ledger.where(),
        hint="try again when fewer runs of this model are under way",
    )
