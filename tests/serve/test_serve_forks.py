"""A model that was loaded before a fork: gunicorn with a preloaded application, multiprocessing, a daemon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import PublishedStore

PROGRAM = """
import asyncio, os, sys, threading, time
from retrainer.serve import AsyncClassifier, Classifier
from retrainer.serve.predictor import Predictor
from retrainer.errors import UserError

mode, url, cache = sys.argv[1:]
classify = Classifier.from_store(url, "trails", cache_dir=cache, threads=2)
texts = ["the trail is open " * 3] * 64
expected = classify(texts)
predictor = classify._served.predictor
if mode == "watch":
    classify.watch(0.05)
if mode == "async":
    both = AsyncClassifier(classify)
    asyncio.run(both(texts))
pid = os.fork()
if pid == 0:
    if mode == "watch":
        assert classify.status.watching
        before = classify.status.checked_at
        while classify.status.checked_at in (None, before):
            time.sleep(0.01)
    if mode == "async":
        assert asyncio.run(both(texts)) == expected
    if mode == "predictor":
        try:
            predictor.logits(["open"])
        except UserError as error:
            print(error)
    if mode != "unused":
        assert classify(texts) == expected
    if mode == "again" and os.fork() == 0:
        assert classify(texts) == expected
        print("grandchild", flush=True)
    print("child", flush=True)
    sys.exit(7)
assert os.waitpid(pid, 0)[1] == 7 << 8
assert classify(texts) == expected
print("parent")
"""


@pytest.mark.parametrize("mode", ["unused", "used", "watch", "async", "predictor", "again"])
def test_a_forked_child_answers_and_ends(store: PublishedStore, cache: Path, mode: str) -> None:
    """Without its parent's threads; the time limit is what a child that waits for them would run into."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode, store.url, str(cache)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    said = result.stdout.splitlines()
    assert {"child", "parent"} <= set(said)
    if mode == "again":
        assert "grandchild" in said
    if mode == "predictor":
        assert "loaded before the process was forked" in said[0]


def test_no_reports_are_sent_anywhere() -> None:
    """onnxruntime starts threads for its telemetry unless it is told not to, before it is loaded."""
    program = (
        "import os\n"
        "import numpy\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "from retrainer.serve import Classifier\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "0"
