"""Choosing one of several base models: the tie rule, its error rate, and what it refuses to choose from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.artifacts.measures import Latency
from retrainer.errors import GateError, IntegrityError
from retrainer.gate.metrics import METRICS
from retrainer.gate.selection import SAME_SIZE, SAME_SPEED, Contender, select
from retrainer.gate.tables import Table
from retrainer.report.selection_table import selection_part

ROWS = 400


def contender(
    base: str,
    *,
    wrong: range | list[int] = range(0),
    size: float = 100.0,
    p50: float | None = 10.0,
    rows: int = ROWS,
    confidence: float = 0.9,
) -> Contender:
    """A candidate that answers some rows wrongly, the same rows and labels for all."""
    labels = np.arange(rows, dtype=np.int64) % 2
    predictions = labels.copy()
    predictions[list(wrong)] = 1 - predictions[list(wrong)]
    scores = np.full((rows, 2), 1 - confidence)
    scores[np.arange(rows), predictions] = confidence
    return Contender(
        base=base,
        export=f"export of {base}",
        table=Table(np.array([f"{row:016x}" for row in range(rows)]), labels, predictions, scores),
        parameters=1_000_000,
        size_mb=size,
        latency=Latency(p50=p50, p95=p50),
        rows_per_second=100.0,
        peak_memory_mb=300.0,
    )


def chosen(*contenders: Contender, metric: str = "accuracy") -> str:
    return select(contenders, metric=metric, alpha=0.05).chosen


BIG, SMALL = 440.0, 90.0


def test_the_best_wins_where_it_is_better_beyond_chance() -> None:
    good, bad = contender("big", size=BIG), contender("small", wrong=range(60), size=SMALL)
    selection = select([good, bad], metric="accuracy", alpha=0.05)
    assert selection.chosen == "big"
    assert [one.distinguishable for one in selection.candidates] == [False, True]
    assert "beyond chance" in selection.why


def test_a_smaller_one_wins_where_chance_explains_the_difference() -> None:
    good, cheap = contender("big", size=BIG, wrong=range(10)), contender("small", wrong=range(10, 22), size=SMALL)
    selection = select([good, cheap], metric="accuracy", alpha=0.05)
    assert selection.chosen == "small"
    best, other = selection.candidates
    assert (best.base, best.difference) == ("big", None)
    assert other.difference is not None
    assert other.difference.estimate == pytest.approx(2 / ROWS)
    assert other.difference.low < 0 < other.difference.high
    assert "90.0 MB against 440.0 MB" in selection.why


def test_the_reason_shows_a_difference_however_small_the_models_are() -> None:
    good = contender("good", size=0.5, p50=0.004, wrong=range(10))
    smaller = contender("other", size=0.46, p50=0.004, wrong=range(10, 22))
    faster = contender("other", size=0.5, p50=0.0031, wrong=range(10, 22))
    assert select([good, smaller], metric="accuracy", alpha=0.05).why.endswith("smaller: 0.46 MB against 0.50 MB")
    assert select([good, faster], metric="accuracy", alpha=0.05).why.endswith("0.003 ms against 0.004 ms")


def test_of_one_size_the_faster_wins_and_of_one_speed_the_better() -> None:
    first = contender("first", wrong=range(10))
    assert chosen(first, contender("second", wrong=range(12), p50=10 / (1 + 2 * SAME_SPEED))) == "second"
    assert chosen(first, contender("second", wrong=range(12), p50=10 / (1 + SAME_SPEED / 2))) == "first"
    assert chosen(first, contender("second", wrong=range(12), size=100 / (1 + SAME_SIZE / 2))) == "first"
    # Smaller comes before faster.
    assert chosen(first, contender("second", wrong=range(12), size=90.0, p50=50.0)) == "second"


def test_a_cheap_candidate_that_is_worse_does_not_win_the_tie_of_others() -> None:
    three = [
        contender("large", size=1400.0),
        contender("base", size=BIG, wrong=range(2)),
        contender("tiny", size=17.0, wrong=range(80)),
    ]
    assert chosen(*three) == "base"


def test_each_difference_is_corrected_for_the_number_of_candidates() -> None:
    best, near = contender("best", size=BIG), contender("near", wrong=range(4), size=SMALL)
    far = [contender(f"far{number}", wrong=range(100), size=BIG) for number in range(4)]
    alone = select([best, near], metric="accuracy", alpha=0.05)
    among = select([best, near, *far], metric="accuracy", alpha=0.05)
    assert alone.candidates[1].difference is not None
    assert among.candidates[1].difference is not None
    assert alone.candidates[1].difference.confidence == pytest.approx(0.9)
    assert among.candidates[1].difference.confidence == pytest.approx(1 - 2 * 0.05 / 5)
    # Four rows of 400 convince at 5 %, and not at 1 %.
    assert (alone.chosen, among.chosen) == ("best", "near")


def test_metrics_of_which_less_is_better() -> None:
    sure, unsure = contender("sure", confidence=0.95, size=BIG), contender("unsure", confidence=0.6, size=SMALL)
    selection = select([unsure, sure], metric="log_loss", alpha=0.05)
    assert [one.base for one in selection.candidates] == ["sure", "unsure"]
    assert selection.chosen == "sure"


def test_one_candidate_is_chosen() -> None:
    assert chosen(contender("only", wrong=range(100))) == "only"


@st.composite
def fields(draw: st.DrawFn) -> list[Contender]:
    count = draw(st.integers(1, 5))
    errors = st.lists(st.integers(0, 59), max_size=40, unique=True)
    return [
        contender(
            f"model{number}",
            wrong=draw(errors),
            rows=60,
            size=draw(st.sampled_from([50.0, 50.2, 90.0, 440.0])),
            p50=draw(st.sampled_from([1.0, 1.02, 5.0])),
        )
        for number in range(count)
    ]


@settings(max_examples=60, deadline=None)
@given(field=fields(), data=st.data())
def test_invariants(field: list[Contender], data: st.DataObject) -> None:
    selection = select(field, metric="accuracy", metrics=["f1"], alpha=0.05)

    # The order in which the candidates come does not matter, for nothing that is written down.
    assert select(data.draw(st.permutations(field)), metric="accuracy", metrics=["f1"], alpha=0.05) == selection

    # The chosen one ties with the best, and no other that ties is clearly smaller, or as small and clearly faster.
    by_base = {one.base: one for one in field}
    winner = by_base[selection.chosen]
    tied = [by_base[one.base] for one in selection.candidates if not one.distinguishable]
    assert winner in tied
    for other in tied:
        assert winner.size_mb <= other.size_mb * (1 + SAME_SIZE)
        if other.size_mb <= min(one.size_mb for one in tied) * (1 + SAME_SIZE):
            assert winner.latency.p50 <= other.latency.p50 * (1 + SAME_SPEED)  # type: ignore[operator]

    # The best stands first, and what sets a candidate aside is the interval that is shown.
    values = [one.metrics["accuracy"].value for one in selection.candidates]
    assert all(above >= below for above, below in pairwise(values))  # type: ignore[operator]
    assert selection.candidates[0].difference is None
    for one in selection.candidates[1:]:
        assert one.difference is not None
        assert one.distinguishable == (one.difference.low > 0)

    # Agreement is a symmetric matrix with ones on its diagonal, and is what was counted.
    for first in field:
        for second in field:
            share = selection.agreement[first.base][second.base]
            assert share == selection.agreement[second.base][first.base]
            assert share == (first.table.predictions == second.table.predictions).mean()


@pytest.mark.parametrize("count", [2, 4])
def test_a_candidate_as_good_as_all_others_is_seldom_set_aside(count: int) -> None:
    """The promise of the correction, for the smallest of equally good candidates: at most alpha, by simulation."""
    rng = np.random.default_rng(7)
    runs, rows, alpha = 400, 300, 0.05
    small_lost = 0
    for _ in range(runs):
        errors = rng.random((count, rows)) < 0.15
        field = [
            contender(f"m{number}", wrong=list(np.flatnonzero(wrong)), rows=rows, size=100.0 - 10 * number)
            for number, wrong in enumerate(errors)
        ]
        small_lost += select(field, metric="accuracy", alpha=alpha).chosen != f"m{count - 1}"
    # Three standard errors above alpha.
    assert small_lost / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


def with_table(one: Contender, **changes: object) -> Contender:
    return replace(one, table=replace(one.table, **changes))  # type: ignore[arg-type]


def broken_scores(value: float) -> Callable[[Contender], Contender]:
    def change(one: Contender) -> Contender:
        scores = one.table.scores.copy()
        scores[3, 0] = value
        return with_table(one, scores=scores)

    return change


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda one: with_table(one, row_ids=one.table.row_ids[::-1]), IntegrityError, "same rows"),
        (lambda one: with_table(one, labels=1 - one.table.labels), IntegrityError, "same rows"),
        (lambda one: contender(one.base, rows=ROWS - 1), IntegrityError, "same rows"),
        (lambda one: with_table(one, predictions=one.table.predictions[1:]), IntegrityError, "missing"),
        (lambda one: with_table(one, scores=one.table.scores[1:]), IntegrityError, "missing"),
        (lambda one: with_table(one, scores=one.table.scores[:, :1]), IntegrityError, "same labels"),
        (lambda one: with_table(one, predictions=one.table.predictions - 1), IntegrityError, "not one of the labels"),
        (broken_scores(math.nan), IntegrityError, "NaN or infinite"),
        (broken_scores(math.inf), IntegrityError, "NaN or infinite"),
        (lambda one: replace(one, latency=Latency(p50=None, p95=None)), GateError, "not measured"),
        (lambda one: replace(one, size_mb=math.nan), GateError, "not measured"),
        (lambda one: replace(one, rows_per_second=0.0), GateError, "not measured"),
        (lambda one: replace(one, base="whole"), GateError, "one name"),
    ],
)
def test_it_does_not_choose_from_what_cannot_be_compared(
    change: Callable[[Contender], Contender], error: type[Exception], words: str
) -> None:
    whole = contender("whole")
    broken = change(contender("broken"))
    for field in ([whole, broken], [broken, whole]):
        with pytest.raises(error, match=words):
            chosen(*field)


def test_it_does_not_choose_from_nothing() -> None:
    with pytest.raises(GateError, match="no candidate"):
        chosen()
    with pytest.raises(GateError, match="no validation row"):
        chosen(contender("a", rows=0), contender("b", rows=0))


def test_a_metric_without_a_value_is_no_reason_to_choose() -> None:
    """All rows of one label: there is no area under a curve."""
    one, two = (contender(name) for name in "ab")
    alike = np.zeros(ROWS, dtype=np.int64)
    field = [with_table(each, labels=alike) for each in (one, two)]
    assert math.isnan(METRICS["auroc"].compute(alike, one.table.scores, one.table.predictions))
    with pytest.raises(GateError, match="auroc has no value"):
        chosen(*field, metric="auroc")
    # Reported beside the metric that chooses, it is only left out.
    reported = select(field, metric="accuracy", metrics=["auroc"], alpha=0.05)
    assert reported.candidates[0].metrics["auroc"].value is None


def test_the_tables_say_it_all() -> None:
    selection = select(
        [contender("org/big", size=BIG), contender("org/small", wrong=range(60), size=SMALL)],
        metric="accuracy",
        alpha=0.05,
    )
    part = selection_part(selection)
    candidates, agreement = part.tables
    (_, head), (first, cells), (second, worse) = candidates.facts()
    assert (first, second) == ("big", "small")
    assert head.split()[:3] == ["accuracy", "params", "p50"]
    for words in ("1.0000 [", "440 MB", "1.0 M", "10 ms", "100 ", "300 MB", "chosen, best"):
        assert words in cells
    assert worse.endswith("worse")
    assert "| base model | accuracy | params | p50 |" in part.markdown()
    assert agreement.facts()[1:] == (("big", "100.0%  85.0%"), ("small", "85.0%   100.0%"))
    chosen, why, line = part.sentences
    assert chosen.startswith("big is chosen by accuracy on ")
    assert why == f"{selection.why}."
    assert line.startswith("big minus small: accuracy +0.1500, 90 % interval [")
