"""Single texts are answered in time beside clients that ask for as much as one request may have, again and again."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import uvicorn

from retrainer.serve import Classifier
from retrainer.serve.predictions import Prediction, Response
from retrainer.server.application import Application
from retrainer.server.batcher import Bounds
from retrainer.server.metrics import Metrics
from retrainer.server.models import Models, ServedModel
from retrainer.server.settings import Limits, ModelAddress
from retrainer.server.tokens import Tokens
from retrainer.server.turns import cost_of
from tests.server.process import ServerProcess, publish
from tests.server.simulated import SINGLE, simulate

GREEDY, MODEST, EACH = 4, 9, 3
# As docs/serving.md states it, for the default of --max-wait-ms.
BOUND = 0.75
TEXTS = {"5 tokens": "seven letters", "20 tokens": SINGLE, "52 tokens": "x" * 200}
WORDS = ("oil", "prices", "fall", "as", "supply", "grows", "while", "markets", "react", "slowly", "to", "rain")


def of_words(characters: int) -> str:
    """A long text that is cut at a space before it is tokenised."""
    return " ".join(random.Random(characters).choices(WORDS, k=characters // 4))[:characters]


@pytest.fixture
def server(bundle: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """With all its defaults: the bound is half a second to the first turn."""
    publish(tmp_path / "store", bundle, "trails")
    started = ServerProcess(tmp_path, tmp_path / "store", "trails", "--drain-seconds", 0)
    try:
        started.wait_until_ready()
        yield started
    finally:
        assert started.stop() == 0


@pytest.mark.parametrize(
    "texts",
    [
        [of_words(16_000)] * 256,  # as much as a body may have: 4 MiB
        [".,;:!" * 3200] * 256,  # without a space it is not cut, and each takes as long as it can
        ["seven letters"] * 256,
    ],
    ids=["words", "no words", "short"],
)
def test_greedy_clients_do_not_cost_others_their_answers(server: ServerProcess, texts: list[str]) -> None:
    stopped = threading.Event()
    statuses: list[int] = []

    def greedy() -> None:
        with httpx.Client(base_url=server.url, timeout=120) as client:
            while not stopped.is_set():
                client.post("/v1/models/trails:predict", json={"texts": texts})

    def modest() -> None:
        with httpx.Client(base_url=server.url, timeout=120) as client:
            for _ in range(EACH):
                statuses.append(
                    client.post("/v1/models/trails:predict", json={"text": "the trail is open"}).status_code
                )

    many = [threading.Thread(target=greedy) for _ in range(GREEDY)]
    few = [threading.Thread(target=modest) for _ in range(MODEST)]
    for thread in many:
        thread.start()
    server.wait_until("retrainer_batch_rows_count", "/metrics")
    for thread in few:
        thread.start()
    for thread in few:
        thread.join()
    stopped.set()
    for thread in many:
        thread.join()
    assert statuses == [200] * MODEST * EACH


def check(milliseconds: float, lanes: int, bulk: int, text: str, pause: float, seconds: float) -> None:
    single, many = simulate(
        seconds_per_token=milliseconds / 1000,
        lanes=lanes,
        bulk=bulk,
        text=TEXTS[text],
        pause=pause,
        seconds=seconds,
    )
    assert single.refused == 0
    assert single.p99 <= BOUND
    assert many.seconds  # they are not starved


@pytest.mark.parametrize("milliseconds", [0.3, 1.2, 4.0], ids="{} ms a token".format)
def test_single_texts_are_answered_in_time_by_models_of_any_speed(milliseconds: float) -> None:
    """Those of one client that asks again at once, or after a pause: so it comes at any moment of a run."""
    for lanes, bulk, text, pause in itertools.product((1, 2, 4), (1, 4), ("5 tokens", "52 tokens"), (0.0, 0.3)):
        check(milliseconds, lanes, bulk, text, pause, seconds=10)


@pytest.mark.long
def test_single_texts_are_answered_in_time_in_the_whole_table() -> None:
    speeds = (0.3, 0.6, 1.2, 2.0, 3.0, 4.0)
    for cell in itertools.product(speeds, range(1, 5), range(1, 5), TEXTS, (0.0, 0.3)):
        check(*cell, seconds=60)


def test_single_texts_do_not_starve_large_requests() -> None:
    """More of them than can be answered. A large request that would take 5 s alone has a turn in every second run."""
    single, many = simulate(seconds_per_token=0.004, lanes=1, bulk=1, text=TEXTS["5 tokens"], singles=30, seconds=60)
    assert single.refused > 100
    assert len(single.seconds) > 100
    assert max(many.seconds) < 50


class Sleepy:
    """Stands for a classifier of a large model: it takes 4 ms for each token."""

    answers_with = "label"
    task, labels, manifest, version, precision = "text-classification", ("a", "b"), None, "1", "fp32"

    def pinned(self) -> Sleepy:
        return self

    def respond(self, texts: list[Any], top_k: Any) -> Response:
        time.sleep(0.004 * sum(cost_of(text, 512) for text in texts))
        return Response("1", "fp32", tuple([Prediction(label="a", score=1.0)] for _ in texts))

    def watch(self, interval: float) -> None: ...

    def close(self) -> None: ...


def test_a_slow_model_behind_http() -> None:
    """One cell of the table, through the whole server."""

    async def test() -> list[int]:
        model = ServedModel(
            ModelAddress.parse("slow"), lambda _: cast(Classifier, Sleepy()), Bounds(), watch_interval=60
        )
        models = Models([model])
        model.start()
        while not models.ready:
            await asyncio.sleep(0.001)
        listener = socket.create_server(("127.0.0.1", 0))
        application = Application(models, Metrics(models), Tokens(), Limits())
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, ws="none"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/models/slow:predict"
        async with httpx.AsyncClient(timeout=60) as client:
            many = [asyncio.create_task(client.post(url, json={"texts": [SINGLE] * 256})) for _ in range(GREEDY)]
            while model.queue is not None and model.queue.queued_rows < 900:
                await asyncio.sleep(0.001)
            statuses = [(await client.post(url, json={"text": SINGLE})).status_code for _ in range(4)]
            for request in many:
                request.cancel()
            await asyncio.wait(many)
        server.should_exit = True
        await serving
        await model.close()
        return statuses

    assert asyncio.run(test()) == [200] * 4
