"""What ``benchmarks.scale`` prints, in small: the parts run, and what is drawn keeps to its limits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import scale_versions
from benchmarks.read_only_s3 import Request, endpoint
from benchmarks.scale_night import GPUS, Limits, Night, Task, limits_of_airflow, simulate, tasks_of
from benchmarks.scale_watchers import LOOKS, Shelf, follow, origin_of, rates, requests_of_one
from tests.export.bundles import export_of_texts

TASKS = tuple(
    Task(name, "gpu_pool" if name == "train" else "default_pool", 1, 6 - number)
    for number, name in enumerate(("ingest", "train", "export", "evaluate", "gate", "publish"))
)
LIMITS = Limits(at_once=32, pools={"gpu_pool": GPUS, "default_pool": 128}, made=10, looked_at=20, queued=16)


def test_the_tasks_are_those_of_the_dag() -> None:
    tasks = tasks_of("downstream")
    assert [(task.name, task.pool, task.slots) for task in tasks] == [(one.name, one.pool, one.slots) for one in TASKS]
    assert [task.weight for task in tasks] == [6, 5, 4, 3, 2, 1]
    assert [task.weight for task in tasks_of("upstream")] == [1, 2, 3, 4, 5, 6]
    assert limits_of_airflow().pools["gpu_pool"] == GPUS


@settings(max_examples=20, deadline=None)
@given(
    pipelines=st.integers(1, 60),
    at_once=st.integers(1, 40),
    over=st.sampled_from([0.0, 3600.0]),
    unchanged=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 1000),
)
def test_a_night(pipelines: int, at_once: int, over: float, unchanged: float, seed: int) -> None:
    night = Night(pipelines, minutes=1.0, over=over, unchanged=unchanged)
    limits = replace(LIMITS, at_once=at_once)
    outcome = simulate(night, limits, TASKS, seed)
    assert len(outcome.waits) == len(outcome.ended)  # each that had something to do trained once, and was published
    assert len(outcome.ended) == pipelines or unchanged
    # No more GPUs than there are, nor than tasks at once.
    assert outcome.busy <= min(GPUS, at_once) * outcome.last_training
    assert min(outcome.waits, default=0.0) >= 0.0
    assert simulate(night, limits, TASKS, seed) == outcome


def test_runs_that_begin_apart_do_not_wait() -> None:
    together, apart = (simulate(Night(300, over=over), LIMITS, TASKS, 1) for over in (0.0, 6 * 3600.0))
    assert sum(apart.waits) < sum(together.waits) / 20


def test_hosts_follow_by_the_endpoint(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    shelf = Shelf(tmp_path, export_of_texts(tmp_path_factory).bundle)
    shelf.publish()
    with endpoint(tmp_path / "buckets") as s3:
        one = requests_of_one(s3, shelf, tmp_path)
        run = follow(s3, shelf, tmp_path, hosts=3, interval=0.5, intervals=2)
    assert one["a start from the cache"] == 3
    assert one[f"{LOOKS} looks, nothing new"] == LOOKS + 2 * (LOOKS // 64)  # one in 64 takes three
    # The move, the end of the log, the manifest, and what is new: graphs, labels and papers.
    assert one["a swap, with the look that finds it"] <= 12
    assert len(run.followed) == 3
    asked = Counter(request.host for request in run.requests)
    assert {f"host-{number}" for number in range(3)} <= set(asked)
    assert {request.status for request in run.requests} == {200, 404}


def test_what_a_cache_leaves_to_the_bucket() -> None:
    def request(at: float, key: str, status: int) -> Request:
        return Request(at, "host", key, status, 10)

    asked = [
        request(0, "a/versions/1/x", 200),
        request(1, "a/versions/1/x", 200),
        request(2, "a/channels/p/2.json", 404),
        request(3, "a/channels/p/2.json", 404),
        request(13, "a/channels/p/2.json", 200),
        request(14, "a/channels/p/latest.json", 200),
        request(15, "a/channels/p/latest.json", 200),
        request(99, "a/channels/p/2.json", 200),
        request(99, "a/channels/p/latest.json", 200),
    ]
    assert origin_of(asked, 10.0) == (5, 50)
    assert origin_of(asked, 0.0) == (7, 70)


def test_rates() -> None:
    assert rates([0.1, 0.2, 1.5, 7.0], 0.0, 2.0) == (1.5, 2)


@pytest.mark.long
def test_more_versions_take_no_more_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, requests = scale_versions.report(tmp_path, [20, 60])
    figures = requests.figures
    for name in ("start: read the newest move", "look: nothing new", "publish", scale_versions.FIRST_PAGE):
        assert figures[name][20] == figures[name][60], name
    assert figures["gc, each version that it deletes"][20] == figures["gc, each version that it deletes"][60]
    assert "Requests in a bucket" in capsys.readouterr().out
