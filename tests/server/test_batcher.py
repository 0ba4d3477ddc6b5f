"""The batcher: whatever arrives together, each request gets its own rows' answers, by one version, in time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.errors import Busy, DataError, RetrainerError
from retrainer.serve import Classifier
from retrainer.serve.predictions import Prediction, Response
from retrainer.server.batcher import Batcher, Bounds, Ended
from retrainer.server.turns import cost_of
from tests.export import tiny

PATIENT = Bounds(max_wait=60.0)
LABELS = 3
UNREADABLE = "unreadable"
ROW = "a" * 80


class Speller:
    """A model whose answers spell out which row, and which version, they are for.

    :param swap_every: calls after which another version answers; 0 for never.
    """

    def __init__(self, *, swap_every: int = 0) -> None:
        self.calls: list[list[str]] = []
        self.version = 1
        self._swap_every = swap_every
        self._pinned = Spelling(self, "1")
        self._lock = threading.Lock()

    def pinned(self) -> Spelling:
        if self._pinned.version != str(self.version):
            self._pinned = Spelling(self, str(self.version))
        return self._pinned

    def answer(self, texts: list[Any], version: str, top_k: Any) -> Response:
        with self._lock:
            self.calls.append(list(texts))
            if self._swap_every and len(self.calls) % self._swap_every == 0:
                self.version += 1
        if UNREADABLE in texts:
            raise DataError("not readable", where=f"texts[{texts.index(UNREADABLE)}]")
        return Response(version, "fp32", tuple(spelled(text, version)[:top_k] for text in texts))


@dataclass(frozen=True)
class Spelling:
    """One version of a model."""

    model: Speller
    version: str

    def respond(self, texts: Iterable[Any], top_k: Any) -> Response:
        return self.model.answer(list(texts), self.version, top_k)


class Held(Speller):
    """Answers only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Semaphore(0)
        self.let = threading.Semaphore(0)

    def answer(self, texts: list[Any], version: str, top_k: Any) -> Response:
        self.entered.release()
        assert self.let.acquire(timeout=20)
        return super().answer(texts, version, top_k)


def spelled(text: str, version: str) -> list[Prediction]:
    return [Prediction(label=f"{text}/{version}/{rank}", score=1 / (rank + 1)) for rank in range(LABELS)]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """In the loop that the server has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(test(), 30))


async def entered(model: Held) -> None:
    """Until the model was asked once more."""
    assert await asyncio.to_thread(model.entered.acquire, timeout=20)


rows_of = st.lists(st.text("abc", max_size=12), min_size=1, max_size=30)


@st.composite
def asked(draw: st.DrawFn) -> list[tuple[list[str], int | None, int, bool]]:
    """Requests: rows, top_k, turns of the loop before it is sent, whether its client goes away."""
    return draw(
        st.lists(
            st.tuples(
                st.one_of(rows_of, st.just([UNREADABLE])),
                st.one_of(st.none(), st.integers(1, 4)),
                st.integers(0, 12),
                st.sampled_from([False, False, False, True]),
            ),
            min_size=1,
            max_size=25,
        )
    )


@settings(max_examples=120, deadline=None)
@given(requests=asked(), lanes=st.integers(1, 3), run_tokens=st.integers(1, 200), swap_every=st.integers(0, 4))
def test_each_request_gets_the_answers_of_its_own_rows(
    requests: list[tuple[list[str], int | None, int, bool]], lanes: int, run_tokens: int, swap_every: int
) -> None:
    model = Speller(swap_every=swap_every)

    async def ask(batcher: Batcher, rows: list[str], top_k: int | None, pause: int, leaves: bool) -> None:
        for _ in range(pause):
            await asyncio.sleep(0)
        question = asyncio.ensure_future(batcher.ask(rows, top_k=top_k))
        if leaves:
            await asyncio.sleep(0)
            question.cancel()
            await asyncio.wait([question])
            return
        if rows == [UNREADABLE]:
            with pytest.raises(DataError, match="not readable"):
                await question
            return
        answer = await question
        assert list(answer.predictions) == [spelled(row, answer.version)[:top_k] for row in rows]

    async def test() -> None:
        batcher = Batcher(model, Bounds(max_wait=60.0, run_tokens=run_tokens, lanes=lanes))
        await asyncio.gather(*(ask(batcher, *request) for request in requests))
        while batcher.queued_rows:  # those who left are dropped with the next run, or when there is none
            await asyncio.sleep(0.001)
        await batcher.close()

    run(test)


def test_an_idle_model_is_asked_at_once() -> None:
    async def test() -> None:
        model = Held()
        batcher = Batcher(model, PATIENT)
        question = asyncio.ensure_future(batcher.ask(["alone"], top_k=1))
        await entered(model)
        assert not question.done()
        model.let.release()
        assert (await question).predictions == (spelled("alone", "1")[:1],)
        await batcher.close()

    run(test)


def test_what_arrives_meanwhile_goes_together() -> None:
    async def test() -> None:
        model = Held()
        runs: list[Ended] = []
        batcher = Batcher(model, PATIENT, ended=runs.append)
        first = asyncio.ensure_future(batcher.ask(["first"]))
        await entered(model)
        others = [asyncio.ensure_future(batcher.ask([f"row {number}"], top_k=number)) for number in range(1, 5)]
        await asyncio.sleep(0)
        assert batcher.queued_rows == 4
        model.let.release(2)
        answers = await asyncio.gather(first, *others)
        assert model.calls == [["first"], ["row 1", "row 2", "row 3", "row 4"]]
        assert [len(answer.predictions[0]) for answer in answers] == [LABELS, 1, 2, 3, 3]
        assert [(run.rows, run.requests) for run in runs] == [(1, 1), (4, 4)]
        await batcher.close()

    run(test)


async def learn(batcher: Batcher, model: Held) -> None:
    """Let the batcher see that the model is fast, so that its runs are large from now on."""
    model.let.release()
    await batcher.ask(["x" * 400])
    await entered(model)
    model.calls.clear()


async def two_busy_lanes() -> tuple[Held, Batcher, list[asyncio.Future[Response]]]:
    """A model with two lanes, each at work on four of these requests."""
    model = Held()
    batcher = Batcher(model, Bounds(max_wait=60.0, lanes=2))
    await learn(batcher, model)
    asked = [asyncio.ensure_future(batcher.ask([ROW], top_k=1)) for _ in range(8)]
    await entered(model)
    await entered(model)
    return model, batcher, asked


def test_lanes_share_what_there_is() -> None:
    """A lane that lands leaves the other its half of the queue, instead of taking all of it."""

    async def test() -> None:
        model, batcher, first = await two_busy_lanes()
        waiting = [asyncio.ensure_future(batcher.ask([ROW], top_k=1)) for _ in range(12)]
        await asyncio.sleep(0.05)
        model.let.release()  # one lane lands: 12 wait and 4 fly, 8 of them are its share
        await entered(model)
        assert batcher.queued_rows == 4
        for _ in range(20):
            model.let.release()
        await asyncio.gather(*first, *waiting)
        assert max(len(call) for call in model.calls) == 8
        await batcher.close()

    run(test)


def test_an_idle_lane_waits_a_moment_for_as_much_as_the_other_has() -> None:
    async def test() -> None:
        model, batcher, first = await two_busy_lanes()
        await asyncio.sleep(0.2)  # a run takes so long: worth a moment
        model.let.release()
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        again = []
        for _ in range(4):  # those who were answered ask again, one after the other
            again.append(asyncio.ensure_future(batcher.ask([ROW], top_k=1)))
            await asyncio.sleep(0)
        await entered(model)
        for _ in range(20):
            model.let.release()
        await asyncio.gather(*first, *again)
        assert [len(call) for call in model.calls] == [4, 4, 4]
        await batcher.close()

    run(test)


def test_a_turn_is_not_cut() -> None:
    """A quarter of a run goes into one run as a whole, so one wait and one run are all that it takes."""

    async def test() -> None:
        model = Held()
        batcher = Batcher(model, Bounds(max_wait=60.0, lanes=2, run_tokens=256))
        await learn(batcher, model)
        rows = ["a" * 40] * 5  # 60 tokens
        asked = [asyncio.ensure_future(batcher.ask(rows, top_k=1)) for _ in range(9)]
        for _ in range(20):
            model.let.release()
        await asyncio.gather(*asked)
        assert all(len(call) % 5 == 0 for call in model.calls)
        assert max(len(call) for call in model.calls) <= 20
        await batcher.close()

    run(test)


def test_a_large_request_lets_small_ones_pass() -> None:
    async def test() -> None:
        model = Held()
        batcher = Batcher(model, Bounds(max_wait=60.0, run_tokens=100))
        large = asyncio.ensure_future(batcher.ask(["many words " * 3] * 200))  # 10 tokens each: 20 runs
        await entered(model)
        small = asyncio.ensure_future(batcher.ask(["small"]))
        await asyncio.sleep(0)
        model.let.release(2)  # the run that is under way, and the next one
        assert (await small).predictions == (spelled("small", "1"),)
        assert not large.done()
        model.let.release(100)
        assert len((await large).predictions) == 200
        await batcher.close()

    run(test)


def test_a_request_is_answered_by_the_version_of_its_first_turn() -> None:
    async def test() -> None:
        model = Held()
        batcher = Batcher(model, Bounds(max_wait=60.0, run_tokens=64))
        rows = [f"{number:040}" for number in range(12)]  # 12 tokens each: 5 to a run
        old = asyncio.ensure_future(batcher.ask(rows))
        await entered(model)
        model.version = 2
        new = asyncio.ensure_future(batcher.ask(["new"]))
        model.let.release(100)
        assert await old == Response("1", "fp32", tuple(spelled(row, "1") for row in rows))
        assert (await new).predictions == (spelled("new", "2"),)
        assert sum(len(call) for call in model.calls) == 13  # nothing twice
        await batcher.close()

    run(test)


def test_endless_swaps_do_not_keep_requests_from_their_answers() -> None:
    async def test() -> None:
        batcher = Batcher(Speller(swap_every=1), Bounds(max_wait=60.0, run_tokens=64, lanes=2))
        rows = [f"{number:040}" for number in range(50)]
        for answer in await asyncio.gather(*(batcher.ask(rows) for _ in range(5))):
            assert answer.predictions == tuple(spelled(row, answer.version) for row in rows)
        await batcher.close()

    run(test)


def test_a_row_that_cannot_be_read_fails_its_own_request_only() -> None:
    async def test() -> None:
        model = Held()
        batcher = Batcher(model, PATIENT)
        first = asyncio.ensure_future(batcher.ask(["first"]))
        await entered(model)
        good = [asyncio.ensure_future(batcher.ask([f"row {number}", "x"])) for number in range(3)]
        bad = asyncio.ensure_future(batcher.ask(["fine", UNREADABLE]))
        await asyncio.sleep(0)
        model.let.release(100)
        await first
        with pytest.raises(DataError) as caught:
            await bad
        assert caught.value.where == "texts[1]"
        for number, question in enumerate(good):
            assert (await question).predictions == (spelled(f"row {number}", "1"), spelled("x", "1"))
        await batcher.close()

    run(test)


def test_a_fault_in_the_model_reaches_all_who_share_the_run() -> None:
    class Broken(Speller):
        def answer(self, texts: list[Any], version: str, top_k: Any) -> Response:
            raise ZeroDivisionError

    async def test() -> None:
        batcher = Batcher(Broken(), PATIENT)
        answers = await asyncio.gather(*(batcher.ask(["x"]) for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ZeroDivisionError] * 3
        await batcher.close()

    run(test)


def test_what_waits_too_long_is_refused_while_the_run_goes_on() -> None:
    async def test() -> None:
        model = Held()
        batcher = Batcher(model, Bounds(max_wait=0.05))
        first = asyncio.ensure_future(batcher.ask(["first"]))
        await entered(model)
        with pytest.raises(Busy, match="waited 50 ms") as caught:
            await batcher.ask(["late"])
        assert caught.value.retry_after >= 1
        model.let.release(2)
        assert (await first).predictions == (spelled("first", "1"),)
        assert (await batcher.ask(["again"])).predictions == (spelled("again", "1"),)
        assert model.calls == [["first"], ["again"]]
        await batcher.close()

    run(test)


def test_what_one_request_still_has_to_give_is_not_what_others_wait_for() -> None:
    """A client that asks for many texts at once, of a slow model: each single text gets its turn, and none is refused.

    The model takes 2 ms a token, so that the 256 texts take 2 s, four times the bound. Others wait for one turn only.
    """

    class Slow(Speller):
        def answer(self, texts: list[Any], version: str, top_k: Any) -> Response:
            time.sleep(0.002 * sum(cost_of(text, 512) for text in texts))
            return super().answer(texts, version, top_k)

    async def test() -> None:
        batcher = Batcher(Slow(), Bounds(max_wait=0.5))
        done = False

        async def greedy() -> None:
            while not done:
                await batcher.ask(["seven letters"] * 256)

        async def modest(number: int) -> None:
            for turn in range(3):
                answer = await batcher.ask([f"{number} {turn}"])
                assert answer.predictions == (spelled(f"{number} {turn}", "1"),)

        many = asyncio.create_task(greedy())
        await asyncio.sleep(0.1)
        await asyncio.gather(*(modest(number) for number in range(6)))
        done = True
        await many
        await batcher.close()

    run(test)


def test_small_runs_do_not_make_a_burst_look_slow() -> None:
    """A run has a cost of its own. As if each token of a burst had it, the burst would be refused."""

    async def test() -> None:
        model = Held()
        batcher = Batcher(model, Bounds(max_wait=0.5))
        small = asyncio.ensure_future(batcher.ask(["x"]))
        await entered(model)
        await asyncio.sleep(0.05)
        model.let.release(100)
        await small
        answers = await asyncio.gather(*(batcher.ask([f"row {number}"]) for number in range(50)))
        assert [answer.predictions for answer in answers] == [(spelled(f"row {number}", "1"),) for number in range(50)]
        await batcher.close()

    run(test)


def test_a_full_queue_is_refused() -> None:
    async def test() -> None:
        model = Held()
        batcher = Batcher(model, Bounds(max_wait=60.0, queue_rows=10))
        first = asyncio.ensure_future(batcher.ask(["first"]))
        await entered(model)
        waiting = asyncio.ensure_future(batcher.ask(["x"] * 8))
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="8 texts wait already"):
            await batcher.ask(["y"] * 3)
        model.let.release(100)
        await asyncio.gather(first, waiting)
        # A request alone is taken, however large: it is split.
        assert len((await batcher.ask(["z"] * 50)).predictions) == 50
        await batcher.close()

    run(test)


def test_those_who_went_away_are_not_computed_for() -> None:
    async def test() -> None:
        model = Held()
        batcher = Batcher(model, PATIENT)
        first = asyncio.ensure_future(batcher.ask(["first"]))
        await entered(model)
        cancelled = asyncio.ensure_future(batcher.ask(["cancelled"]))
        stays = asyncio.ensure_future(batcher.ask(["stays"]))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        assert batcher.queued_rows == 1  # it does not count as queue for others either
        model.let.release(100)
        await asyncio.wait([first, cancelled, stays])
        assert model.calls == [["first"], ["stays"]]
        assert batcher.queued_rows == 0
        await batcher.close()

    run(test)


def test_nothing_is_answered_with_nothing() -> None:
    async def test() -> None:
        batcher = Batcher(Speller(), PATIENT)
        assert await batcher.ask([]) == Response("1", "fp32", ())
        await batcher.close()

    run(test)


def test_the_end_answers_what_was_begun_and_refuses_the_rest() -> None:
    async def test() -> None:
        model = Held()
        batcher = Batcher(model, PATIENT)
        first = asyncio.ensure_future(batcher.ask(["first"]))
        await entered(model)
        second = asyncio.ensure_future(batcher.ask(["second"]))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        with pytest.raises(RetrainerError, match="stopping"):
            await second
        assert not closing.done()
        model.let.release()
        await closing
        assert (await first).predictions == (spelled("first", "1"),)

    run(test)


@pytest.fixture(scope="module")
def classify(bundle: Path) -> Classifier:
    return Classifier.from_folder(bundle, precision="fp32")


def test_a_real_model_answers_as_it_does_alone(classify: Classifier) -> None:
    texts = [str(row.text) for row in tiny.rows(60)]
    alone = classify.respond(texts, top_k=None).predictions

    async def test() -> None:
        batcher = Batcher(classify, Bounds(max_wait=60.0, run_tokens=64, lanes=2))
        answers = await asyncio.gather(*(batcher.ask([text]) for text in texts), batcher.ask(texts))
        found = [answer.predictions[0] for answer in answers[:-1]]
        for ranked, expected in zip([*found, *answers[-1].predictions], [*alone, *alone], strict=True):
            assert [item["label"] for item in ranked] == [item["label"] for item in expected]
            assert [item["score"] for item in ranked] == pytest.approx([item["score"] for item in expected], abs=1e-5)
        await batcher.close()

    run(test)
