"""What a decision stands on, by the ledger: what is counted, what wears rows; the same question is asked once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.artifacts.standing import Standing
from retrainer.chain import RunContext
from retrainer.chain.accounts import (
    Books,
    Question,
    answer_to,
    close_account,
    find_spent,
    open_account,
    write_answer,
    write_look,
)
from retrainer.errors import IntegrityError, UserError
from retrainer.gate.spending import spend
from retrainer.spec.gate import Gate
from retrainer.store import Store
from retrainer.store.entry import Answer, Look, Spent, Verdict
from retrainer.store.ledger import Ledger, RowSet
from tests.chain.made import CONTEXT

GATE = Gate()
CHAMPION, OTHER = "c" * 16, "d" * 16


def row_set(first: int, count: int) -> RowSet:
    return RowSet(b"".join(number.to_bytes(8, "big") for number in range(first, first + count)))


ROWS = row_set(0, 100)


def look(number: int, rows: RowSet = ROWS, channel: str = "production") -> Look:
    digest = f"{number:064x}"
    return Look(channel=channel, challenger=digest, evaluation=digest, rows=rows.sha256, row_count=len(rows))


def question(
    number: int,
    rows: RowSet = ROWS,
    champion: str | None = CHAMPION,
    channel: str = "production",
    metric: str = "accuracy",
) -> Question:
    return Question(look(number, rows, channel), champion, champion, None, metric)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Store.open(tmp_path).model("news").ledger


Decide = Callable[..., Standing]


@pytest.fixture
def decide(ledger: Ledger) -> Decide:
    def decide(
        number: int,
        rows: RowSet = ROWS,
        champion: str | None = CHAMPION,
        channel: str = "production",
        verdict: str | None = "refuse",
        gate: Gate = GATE,
        metric: str = "accuracy",
    ) -> Standing:
        """One decision, from the look to the verdict."""
        asked = question(number, rows, champion, channel, metric)
        write_look(ledger, asked.look, rows, CONTEXT)
        standing = open_account(ledger, channel, gate, asked, lambda: rows, CONTEXT)
        if verdict:

            def said(spent: int) -> Verdict:
                return Verdict.model_validate(
                    {"channel": channel, "spent": spent, "decision": "1" * 64, "receipt": "2" * 64, "verdict": verdict}
                )

            close_account(ledger, standing, said, CONTEXT)
        return standing

    return decide


def test_decisions_and_wear_are_counted(decide: Decide) -> None:
    first = decide(1)
    assert (first.ledger is None, first.decisions, first.looks, first.wear) == (False, 0, 1, 0.0)
    second = decide(2, verdict="promote")
    assert (second.decisions, second.promotions, second.looks, second.wear) == (1, 0, 1, 1.0)
    third = decide(3, champion=OTHER)
    assert (third.decisions, third.promotions, third.wear, third.row_looks, third.row_decisions) == (2, 1, 2.0, 2, 2)


def test_the_same_question_is_asked_once(ledger: Ledger, decide: Decide) -> None:
    decide(1)
    first = decide(2)
    written = len(ledger.entries())
    assert decide(2) == first
    assert len(ledger.entries()) == written
    decide(3)
    assert decide(2) == first  # also when others came in between
    assert decide(4).decisions == 3


def test_other_terms_for_the_same_question_spend_anew_and_are_no_new_decision(ledger: Ledger, decide: Decide) -> None:
    first = decide(1)
    lax = Gate.model_validate({"over_time": {"control": "none"}})
    again = decide(1, gate=lax)
    assert again.decisions == first.decisions == 0
    levels = [entry.event.level for entry in ledger.entries() if isinstance(entry.event, Spent)]
    assert levels == [spend(GATE.over_time, GATE.alpha, first).level, 0.05]
    assert decide(2).decisions == 1


def test_a_first_release_spends_nothing_and_wears_the_rows(ledger: Ledger, decide: Decide) -> None:
    decide(1, champion=None, verdict="promote")
    (spent,) = (entry.event for entry in ledger.entries() if isinstance(entry.event, Spent))
    assert spent.level is None
    second = decide(2)
    assert (second.decisions, second.wear, second.row_looks, second.row_decisions) == (0, 1.0, 1, 0)


def test_the_best_of_five_is_the_fifth_look(ledger: Ledger, decide: Decide) -> None:
    decide(1)
    for number in range(2, 6):  # scored, and not decided
        write_look(ledger, look(number), ROWS, CONTEXT)
    standing = decide(6)
    assert (standing.looks, standing.wear) == (5, 5.0)
    assert decide(7).looks == 1


def test_asking_again_under_other_terms_forgets_no_look(ledger: Ledger, decide: Decide) -> None:
    for number in range(2, 6):
        write_look(ledger, look(number), ROWS, CONTEXT)
    assert decide(6).looks == 5
    assert decide(6, gate=Gate.model_validate({"over_time": {"alpha": 0.1}})).looks == 5


def test_a_look_for_another_channel_wears_the_rows_and_is_no_decision_of_this_one(decide: Decide) -> None:
    decide(1, channel="staging")
    standing = decide(2)
    assert (standing.decisions, standing.looks, standing.wear) == (0, 2, 1.0)


def test_a_bundle_that_goes_from_staging_to_production_is_one_look(decide: Decide) -> None:
    for number in range(1, 4):
        decide(number, channel="staging", verdict="promote")
        standing = decide(number)
        assert (standing.decisions, standing.looks, standing.wear) == (number - 1, 1, number - 1)


def test_the_best_of_five_of_another_channel_is_the_fifth_look(ledger: Ledger, decide: Decide) -> None:
    for number in range(1, 6):
        write_look(ledger, look(number, channel="dev"), ROWS, CONTEXT)
    assert decide(3).looks == 5


def test_deciding_a_loser_first_makes_the_others_no_fewer(ledger: Ledger, decide: Decide) -> None:
    for number in range(1, 6):
        write_look(ledger, look(number), ROWS, CONTEXT)
    assert decide(1).looks == 5
    assert decide(5).looks == 5
    assert decide(6).looks == 1


def test_another_metric_or_anchor_is_another_question(ledger: Ledger, decide: Decide) -> None:
    decide(1)
    again = decide(1, metric="f1")
    assert (again.decisions, again.wear) == (1, 0.0)
    other = Question(look(1), CHAMPION, OTHER, None, "accuracy")
    assert open_account(ledger, "production", GATE, other, lambda: ROWS, CONTEXT).decisions == 2
    assert decide(2).decisions == 3


def test_the_same_question_of_another_evaluation_is_no_new_decision(ledger: Ledger, decide: Decide) -> None:
    """As when the pipeline asks for one more metric in its report: its receipt is another one."""
    first = decide(1)
    other = question(1)
    evaluated = Question(other.look.model_copy(update={"evaluation": "e" * 64}), CHAMPION, CHAMPION, None, "accuracy")
    again = open_account(ledger, "production", GATE, evaluated, lambda: ROWS, CONTEXT)
    assert (again.decisions, again.looks, again.wear) == (first.decisions, first.looks, first.wear)
    spent = find_spent(ledger.entries(), again)
    assert spent is not None
    assert getattr(spent.event, "evaluation", None) == "e" * 64
    assert decide(2).decisions == 1


def test_without_a_comparison_nothing_is_counted(decide: Decide) -> None:
    decide(1, gate=Gate.model_validate({"against_champion": None}))
    assert decide(2).decisions == 0


def test_new_rows_ease_the_wear(decide: Decide) -> None:
    decide(1)
    decide(2)
    assert decide(3, row_set(0, 200)).wear == 1.0  # two looks, each at half of them
    assert decide(4, row_set(150, 100)).wear == 0.5  # only the third saw half of these
    assert decide(5, row_set(1000, 10)).wear == 0.0


def test_a_look_that_this_ledger_does_not_know_is_written_before_the_decision(ledger: Ledger) -> None:
    """As when the artifacts come from elsewhere, or the store was begun anew."""
    open_account(ledger, "production", GATE, question(1), lambda: ROWS, CONTEXT)
    assert [entry.event.kind for entry in ledger.entries()] == ["look", "spent"]
    assert ledger.rows(ROWS.sha256).numbers().tolist() == list(range(100))


def test_a_verdict_without_what_it_spent_is_refused(ledger: Ledger, decide: Decide) -> None:
    standing = decide(1)
    with pytest.raises(IntegrityError, match="does not hold what this decision spent"):
        close_account(ledger, standing.model_copy(update={"decisions": 7}), lambda _: pytest.fail("asked"), CONTEXT)


def test_a_verdict_is_written_once(ledger: Ledger, decide: Decide) -> None:
    decide(1)
    written = ledger.entries()
    decide(1)
    assert ledger.entries() == written


@settings(max_examples=25)
@given(
    nights=st.lists(
        st.tuples(
            st.integers(1, 6),  # challenger
            st.integers(0, 3),  # which rows
            st.sampled_from([CHAMPION, OTHER, None]),
            st.sampled_from(["production", "staging"]),
            st.booleans(),  # decided, or only looked at
        ),
        max_size=12,
    )
)
def test_standings_are_what_counting_by_hand_gives(
    tmp_path_factory: pytest.TempPathFactory, nights: list[tuple[int, int, str | None, str, bool]]
) -> None:
    """And each can be had again from the entries before it, however many came later."""
    ledger = Store.open(tmp_path_factory.mktemp("store")).model("news").ledger
    known: dict[tuple[int, int], set[int]] = {}
    decided: dict[str, list[tuple[int, int, str | None]]] = {"production": [], "staging": []}
    standings = []
    for number, which, champion, channel, decides in nights:
        rows = row_set(which * 50, 100)
        asked = question(number, rows, champion, channel)
        write_look(ledger, asked.look, rows, CONTEXT)
        key = (number, which, champion)
        if decides:
            standing = open_account(ledger, channel, GATE, asked, lambda rows=rows: rows, CONTEXT)  # type: ignore[misc]
            if key not in decided[channel]:
                seen = [other for name, other in known.items() if name != (number, which)]
                wear = sum(len(other & {*rows.numbers()}) / 100 for other in seen)
                assert standing.wear == pytest.approx(wear)
                assert standing.row_looks == sum(bool(other & {*rows.numbers()}) for other in seen)
                assert standing.decisions == sum(champion is not None for *_, champion in decided[channel])
                decided[channel].append(key)
            standings.append((standing, asked, channel))
        known[number, which] = set(rows.numbers())
    entries = ledger.entries()
    for standing, asked, channel in standings:
        spent = find_spent(entries, standing)
        assert spent is not None
        before = Books(ledger, entries[: spent.sequence - 1])
        assert before.question_of(spent).champion == asked.champion
        assert before.question_of(spent).look.channel == channel  # not the one that it was first scored for
        assert before.standing(channel, before.question_of(spent), GATE.over_time) == standing


def test_runs_at_once_each_have_their_own_number(tmp_path: Path) -> None:
    def run(number: int) -> int:
        ledger = Store.open(tmp_path).model("news").ledger
        context: RunContext = CONTEXT.model_copy(update={"run_id": str(number)})
        standing = open_account(ledger, "production", GATE, question(number), lambda: ROWS, context)
        return standing.decisions

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(run, range(6))) == list(range(6))


def test_the_newest_answer_to_a_decision_counts_and_is_held_by_the_ledger(ledger: Ledger, decide: Decide) -> None:
    decide(1, verdict="promote")
    decision = "1" * 64
    assert answer_to(ledger.entries(), decision) is None
    for answer, by, reason in (("reject", "ada", "too eager"), ("approve", "bob", "")):
        write_answer(ledger, decision, answer=answer, reason=reason, actor=by, run="one")  # type: ignore[arg-type]
        said = answer_to(ledger.entries(), decision)
        assert said is not None
        assert isinstance(said.event, Answer)
        assert (said.event.answer, said.actor, said.event.reason) == (answer, by, reason)
    assert answer_to(ledger.entries(), "f" * 64) is None
    # What people say spends nothing: the same question is still the same.
    before = decide(2)
    write_answer(ledger, decision, answer="reject", reason="", actor="ada", run="two")
    assert decide(2) == before


def test_a_decision_that_the_ledger_does_not_hold_cannot_be_answered(ledger: Ledger, decide: Decide) -> None:
    decide(1)
    with pytest.raises(IntegrityError, match="does not hold the decision that was answered"):
        write_answer(ledger, "f" * 64, answer="reject", reason="", actor="ada", run="one")
    with pytest.raises(UserError, match="the reason has"):
        write_answer(ledger, "1" * 64, answer="reject", reason="x" * 10_000, actor="ada", run="one")
