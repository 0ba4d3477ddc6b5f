"""Single texts are answered in time beside clients that ask for as much as one request may have, again and again."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.process import ServerProcess, publish

GREEDY, MODEST, EACH = 4, 9, 3
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
