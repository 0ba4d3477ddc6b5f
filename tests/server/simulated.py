"""A batcher, its clients and a model of any speed, in a time of its own: minutes pass in a moment, always alike."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from retrainer.errors import Busy
from retrainer.serve.predictions import Prediction, Response
from retrainer.server.batcher import Batcher, Bounds
from retrainer.server.turns import cost_of

SINGLE = "x" * 72  # 20 tokens
# What a run takes beside its tokens, in seconds, and by which share its time differs from one run to the next.
FIXED, NOISE = 0.002, 0.15


@dataclass
class Outcome:
    """What became of the single texts: the seconds of those that were answered, and how many were refused."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


class _Jumps(selectors.DefaultSelector):
    """Waits for nothing: time is put forward instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """Its clock stands while there is something to do. What would run in a thread takes as long as the model says."""

    def __init__(self, model: _Model) -> None:
        self._jumps = _Jumps()
        self._model = model
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()
        found = func(*args)
        self.call_later(self._model.seconds, future.set_result, found)
        return future


class _Model:
    """Takes the same time for each token, but for noise.

    :ivar seconds: of the last run.
    """

    def __init__(self, seconds_per_token: float, dice: random.Random) -> None:
        self._seconds_per_token = seconds_per_token
        self._dice = dice
        self.seconds = 0.0

    def pinned(self) -> _Model:
        return self

    def respond(self, texts: Sequence[Any], top_k: Any) -> Response:
        tokens = sum(cost_of(text, 512) for text in texts)
        self.seconds = (FIXED + tokens * self._seconds_per_token) * self._dice.uniform(1 - NOISE, 1 + NOISE)
        return Response("1", "fp32", tuple([Prediction(label="a", score=1.0)] for _ in texts))


def simulate(
    *,
    seconds_per_token: float,
    lanes: int,
    bulk: int,
    text: str,
    pause: float = 0.0,
    singles: int = 1,
    seconds: float = 60.0,
) -> tuple[Outcome, Outcome]:
    """What becomes of single texts, and of the many of bulk clients, each of which asks again when it is answered.

    :param text: of which the bulk clients ask for 256.
    :param pause: between an answer and the next single text, at most.
    """
    dice = random.Random(1)
    single, many = Outcome(), Outcome()

    async def client(batcher: Batcher, texts: list[str], outcome: Outcome, pause: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < seconds:
            await asyncio.sleep(dice.uniform(0, pause))
            began = loop.time()
            try:
                await batcher.ask(texts, top_k=1)
            except Busy as busy:
                outcome.refused += 1
                await asyncio.sleep(busy.retry_after)
            else:
                outcome.seconds.append(loop.time() - began)

    async def all_clients() -> None:
        batcher = Batcher(model, Bounds(lanes=lanes), clock=asyncio.get_running_loop().time)
        greedy = [asyncio.create_task(client(batcher, [text] * 256, many, 0.0)) for _ in range(bulk)]
        modest = [asyncio.create_task(client(batcher, [SINGLE], single, pause)) for _ in range(singles)]
        await asyncio.gather(*modest)
        await asyncio.gather(*greedy)
        await batcher.close()

    model = _Model(seconds_per_token, dice)
    with asyncio.Runner(loop_factory=lambda: _Loop(model)) as runner:
        runner.run(all_clients())
    return single, many
