"""A history decided again from stored answers, without a model: by its own policies, or by another one.

By its own, each receipt must come out as it is recorded, byte for byte. By another, the ledger is written as that
policy would have: its promotions are counted, its champion and anchor are asked. Where another model would have been
live than was, its answers come from wherever it was asked the same rows (``answers.py``); where nobody asked it, the
replay stops.

People's moves happen in both histories, but a rollback only where what it rolled back from is live. A challenger that
the record refused goes live with its verdict: nobody could be asked to approve it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from retrainer.artifacts.measures import Interval
from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.standing import Standing
from retrainer.audit.answers import Found, Lacking, StoredAnswers
from retrainer.audit.history import Decision, History, RowNumbers
from retrainer.audit.replayed import Night, Replay, Stop
from retrainer.audit.stand_in import Stand, with_anchor, with_metrics, with_models, without_what_needs_the_champion
from retrainer.audit.taken_again import is_recorded, recorded_policy, taken_again, verdict_problems
from retrainer.chain.accounts import Books, Question, level_of
from retrainer.gate.answers import Said
from retrainer.gate.decide import decide
from retrainer.gate.evidence import Evidence
from retrainer.gate.metrics import METRICS, compare, compared_by
from retrainer.gate.paired import tidy
from retrainer.gate.receipt import Receipt
from retrainer.spec.gate import Gate
from retrainer.spec.known_metrics import OF_ONE_LABEL, Family
from retrainer.store import Move
from retrainer.store.entry import Entry, Event, Spent
from retrainer.store.move import STAYS


@dataclass(slots=True)
class _Live:
    """Export artifacts of champion and anchor; ``None`` while there is none."""

    champion: str | None = None
    anchor: str | None = None

    def go(self, champion: str, *, anchor: bool) -> None:
        self.champion = champion
        if anchor or self.anchor is None:
            self.anchor = champion


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """What is decided in one night of another history."""

    question: Question
    evidence: Evidence
    policy: Gate
    left_out: tuple[str, ...] = ()


def replay(history: History, decisions: Sequence[Decision], artifacts: Artifacts, policy: Gate | None) -> Replay:
    """Decide again.

    :param decisions: the last ones of the history, at least one. What was before them is as it was recorded.
    :param policy: ``None`` for the one that each decision was taken with.
    :raises NotFoundError: an artifact is missing, or a file of one.
    :raises ArtifactError: a decision was taken by another version of the gate.
    :raises GateError: the policy cannot be applied.
    """
    return _Replayer(history, decisions, artifacts, policy).run()


class _Replayer:
    def __init__(
        self, history: History, decisions: Sequence[Decision], artifacts: Artifacts, policy: Gate | None
    ) -> None:
        self._history = history
        self._artifacts = artifacts
        self._policy = policy
        self._numbers = RowNumbers(history.model.ledger)
        self._answers = StoredAnswers(history, artifacts, self._numbers)
        # The ledger as the replayed history would have written it.
        self._entries = list(history.entries)
        self._rewritten = False
        self._recorded, self._replayed = _Live(), _Live()
        self._decisions: dict[int, list[Decision]] = {}
        for decision in decisions:
            self._decisions.setdefault(decision.entry.sequence, []).append(decision)
        self._said = {decision.said.sequence: decision for decision in decisions}
        self._named = {decision.verdict.decision: decision for decision in decisions}
        self._receipts: dict[int, Receipt | None] = {}
        self._asked: dict[tuple[str | None, ...], Standing] = {}
        self._nights: list[Night] = []
        self._open: list[Night] = []
        self._notes: list[str] = []
        self._stop: Stop | None = None
        self._last: tuple[Night, Found, Found] | None = None
        self._family: Family = "classification"

    def run(self) -> Replay:
        for move in self._history.moves.get(0, ()):
            self._move(move)
        for entry in self._history.entries:
            if entry.sequence in self._decisions:
                self._close()
                if not self._night(entry):
                    break
            if entry.sequence in self._said:
                self._verdict(entry, self._said[entry.sequence])
            for move in self._history.moves.get(entry.sequence, ()):
                self._move(move)
        self._close()
        night, comparison = self._compared()
        return Replay(tuple(self._nights), self._stop, self._metric, comparison, night)

    # One night

    def _night(self, entry: Entry) -> bool:
        """Take what was decided on one spending again; false where the replay stops."""
        decisions = self._decisions[entry.sequence]
        if self._policy is None:
            self._open = [self._as_recorded(decision) for decision in decisions]
            return True
        first = decisions[0]
        evidence = self._answers.evidence(first.evaluation)
        if isinstance(evidence, str):
            self._open = [Night(decision, None, False, (evidence,)) for decision in decisions]
            self._stop = Stop(first, first.challenger, "challenger", Lacking(first.question.look.row_count, evidence))
            return False
        if first.challenger == self._replayed.champion != self._recorded.champion:
            self._rewrite(
                entry, self._spent(first).model_copy(update={"champion": None, "anchor": None, "level": None})
            )
            self._receipts[entry.sequence] = None
            self._open = [Night(decision, None, notes=("it would have been live already",)) for decision in decisions]
            return True
        self._family = evidence.record.family or self._family
        case = self._case(first, evidence, self._policy)
        if isinstance(case, Stop):
            self._stop = case
            return False
        standing, again = self._stands_on(first, case)
        receipt = decide(case.policy, replace(case.evidence, standing=standing))
        as_it_was = not self._rewritten and not again and case.question == first.question
        self._receipts[entry.sequence] = receipt
        self._spend(first, case, standing)
        notes = self._taken_notes()
        if case.left_out:
            notes.append(
                f"not judged, since it was measured against the recorded champion only: {', '.join(case.left_out)}"
            )
        for decision in decisions:
            night = self._beside_record(decision, receipt, as_it_was=as_it_was)
            self._open.append(replace(night, notes=tuple(notes)))
        return True

    def _as_recorded(self, decision: Decision) -> Night:
        """A decision by its own policy."""
        evidence = self._answers.evidence(decision.evaluation)

        def standing(policy: Gate) -> Standing:
            return self._standing(decision.entry, decision.question, policy)

        return taken_again(decision, evidence, self._artifacts, standing)

    def _beside_record(self, decision: Decision, receipt: Receipt, *, as_it_was: bool) -> Night:
        """A receipt of the replay, held against the recorded one where that must be the same.

        :param as_it_was: the history up to here is the recorded one, and so is the question.
        """
        if is_recorded(decision, receipt):
            problems = tuple(verdict_problems(decision, receipt))
            return Night(decision, receipt, not problems, problems)
        if as_it_was and recorded_policy(decision, self._artifacts) == receipt.policy:
            return self._as_recorded(decision)
        return Night(decision, receipt)

    def _case(self, decision: Decision, evidence: Evidence, policy: Gate) -> _Case | Stop:
        """The question of a night as it would have been asked, and its evidence."""
        evidence = with_metrics(policy, evidence)
        recorded = replace(decision.question, metric=_metric(policy, decision.question.metric, evidence))
        same = self._replayed.champion == self._recorded.champion
        anchor = self._replayed.anchor if policy.max_loss is not None else None
        if same and anchor is None:
            return _Case(replace(recorded, anchor=None, anchor_error=None), evidence, policy)
        was_asked = recorded.anchor is not None or recorded.anchor_error is not None
        if same and (recorded.champion is None or (was_asked and anchor == self._recorded.anchor)):
            return _Case(recorded, evidence, policy)
        if same:
            stands = self._stand(decision, anchor, "anchor", recorded.champion)
            if isinstance(stands, Stop):
                return stands
            name = stands.name if stands is not None else recorded.champion
            return _Case(replace(recorded, anchor=name, anchor_error=None), with_anchor(evidence, stands), policy)
        return self._other_case(decision, recorded, evidence, policy, anchor)

    def _other_case(
        self, decision: Decision, recorded: Question, evidence: Evidence, policy: Gate, anchor: str | None
    ) -> _Case | Stop:
        """The same against another champion."""
        export = self._replayed.champion
        if export is None:
            nobody = replace(recorded, champion=None, anchor=None, anchor_error=None)
            return _Case(nobody, with_models(evidence, None, None), policy)
        found = self._answers.of(export, decision)
        if isinstance(found, Lacking):
            return Stop(decision, export, "champion", found)
        champion = Stand(self._history.name(export), found)
        stands = self._stand(decision, anchor, "anchor", champion.name)
        if isinstance(stands, Stop):
            return stands
        against = with_metrics(policy, with_models(evidence, champion, stands))
        applied, left_out = without_what_needs_the_champion(policy, against)
        name = None if anchor is None else stands.name if stands is not None else champion.name
        question = replace(recorded, champion=champion.name, anchor=name, anchor_error=None)
        return _Case(question, against, applied, tuple(left_out))

    def _stand(self, decision: Decision, export: str | None, role: str, champion: str | None) -> Stand | Stop | None:
        """A model other than the champion with its answers of tonight; ``None`` where it is the champion, or none."""
        if export is None or export == self._replayed.champion or self._history.name(export) == champion:
            return None
        found = self._answers.of(export, decision)
        if isinstance(found, Lacking):
            return Stop(decision, export, role, found)
        return Stand(self._history.name(export), found)

    def _stands_on(self, decision: Decision, case: _Case) -> tuple[Standing, bool]:
        """What was counted before it, and whether the same question was asked before, which spends nothing more."""
        key = (*case.question.key, case.question.anchor_error)
        if key in self._asked:
            return self._asked[key], True
        self._asked[key] = self._standing(decision.entry, case.question, case.policy)
        return self._asked[key], False

    def _spend(self, decision: Decision, case: _Case, standing: Standing) -> None:
        """Write what that spends where it is not what is written: whom it asked, by what, and whether it compared."""
        spent, question = self._spent(decision), case.question
        level = level_of(case.policy, question, standing)
        asked = {name: getattr(question, name) for name in ("champion", "anchor", "anchor_error", "metric")}
        same = all(getattr(spent, name) == value for name, value in asked.items())
        if not same or (level is None) is not (spent.level is None):
            self._rewrite(decision.entry, spent.model_copy(update={**asked, "level": level}))

    def _standing(self, entry: Entry, question: Question, policy: Gate) -> Standing:
        before = self._entries[: entry.sequence - 1]
        books = Books(self._history.model.ledger, before, numbers=self._numbers)
        return books.standing(self._history.channel, question, policy.over_time)

    @staticmethod
    def _spent(decision: Decision) -> Spent:
        assert isinstance(decision.entry.event, Spent)
        return decision.entry.event

    def _rewrite(self, entry: Entry, event: Event) -> None:
        self._entries[entry.sequence - 1] = entry.model_copy(update={"event": event})
        self._rewritten = True

    # What becomes of it

    def _verdict(self, entry: Entry, decision: Decision) -> None:
        if self._policy is None:
            return
        receipt = self._receipts.get(decision.entry.sequence)
        promoted = receipt is not None and receipt.promoted
        verdict = decision.verdict
        if promoted is not (verdict.verdict == "promote"):
            self._rewrite(entry, verdict.model_copy(update={"verdict": "promote" if promoted else "refuse"}))
        if receipt is not None and promoted and verdict.verdict == "refuse":
            self._replayed.go(decision.challenger, anchor=receipt.anchor_moves)

    def _move(self, move: Move) -> None:
        """One move of the channel, in the record and in the replay."""
        decision = self._named.get(move.decision or "")
        before = self._recorded.champion
        export_of = self._history.export_of
        self._recorded.champion, self._recorded.anchor = export_of(move.to_version), export_of(move.anchor)
        if self._policy is None or not self._began:
            self._replayed = _Live(self._recorded.champion, self._recorded.anchor)
        elif decision is not None and move.action == "publish":
            receipt = self._receipts.get(decision.entry.sequence)
            if receipt is not None and receipt.promoted:
                self._replayed.go(decision.challenger, anchor=receipt.anchor_moves)
        elif move.action == "anchor":
            self._replayed.anchor = self._recorded.anchor
        elif move.action == "rollback" and self._replayed.champion != before:
            self._notes.append(f"move {move.sequence} rolled back from a model that would not have been live: left out")
        elif move.action not in STAYS:
            self._replayed.champion = self._recorded.champion
            if move.action == "rollback" or self._replayed.anchor is None:
                self._replayed.anchor = self._recorded.anchor

    @property
    def _began(self) -> bool:
        return bool(self._receipts)

    def _taken_notes(self) -> list[str]:
        notes, self._notes = self._notes, []
        return notes

    # What is live after a night

    @property
    def _metric(self) -> str:
        """By what models are compared: by one that their task has, also where the policy names another."""
        return compared_by(self._policy or Gate(), self._family)

    def _close(self) -> None:
        """The night is over: what is live now stays until the next decision."""
        recorded, replayed = self._recorded.champion, self._replayed.champion
        for night in self._open:
            closed = replace(night, live_recorded=recorded, live_replayed=replayed)
            self._nights.append(replace(closed, difference=self._difference(closed)))
        self._open = []

    def _difference(self, night: Night) -> float | None:
        recorded, replayed = night.live_recorded, night.live_replayed
        if self._policy is None or recorded is None or replayed is None:
            return None
        if recorded == replayed:
            return 0.0
        ours, theirs = (self._answers.of(export, night.decision) for export in (replayed, recorded))
        if isinstance(ours, Lacking) or isinstance(theirs, Lacking):
            return None
        self._last = (night, ours, theirs)
        first, second = self._as_answers(night, ours), self._as_answers(night, theirs)
        try:
            return tidy(METRICS[self._metric].difference(ours.table.labels, first, second))
        except ValueError:  # the metric has no value on these rows
            return None

    def _as_answers(self, night: Night, found: Found) -> Said:
        evidence = self._answers.evidence(night.decision.evaluation)
        assert isinstance(evidence, Evidence)
        return found.table.said(evidence.record.positive)

    def _compared(self) -> tuple[Night | None, Interval | None]:
        if self._last is None or self._policy is None:
            return None, None
        night, ours, theirs = self._last
        first, second = self._as_answers(night, ours), self._as_answers(night, theirs)
        try:
            return night, compare(self._metric, ours.table.labels, first, second, self._policy.alpha)
        except ValueError:
            return None, None


def _metric(policy: Gate, recorded: str | None, evidence: Evidence) -> str | None:
    """By what a policy compares, as the ledger writes it.

    :param recorded: the same of the record.
    """
    against = policy.against_champion
    if against is None:
        return None
    if recorded is not None and recorded.partition(" of ")[0] == against.metric:
        return recorded
    return f"{against.metric} of {evidence.record.positive_label}" if against.metric in OF_ONE_LABEL else against.metric
