"""A server that does not answer, drips, cuts, lies or floods, at each call of each operation, and pages in its place.

Nobody gets a stack trace, nothing hangs, memory stays, and nothing is believed to be written that is not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from retrainer.storage import S3Access, open_storage
from retrainer.store import Manifest, ModelStore
from tests.store.conftest import INJURIES, PAGES, Fault
from tests.store.sick_client import SIGNER, TRUSTED

if TYPE_CHECKING:
    from tests.store.conftest import Proxy

MakeBundle = Callable[[str], tuple[Path, Manifest]]
OPERATIONS = ("load", "watch", "publish", "promote", "fsck")
# Errors and cut connections: test_store_failed_calls.py.
FAULTS = ["timeout", *[fault for fault in get_args(Fault) if fault in PAGES or fault in INJURIES]]
ROOT = Path(__file__).parents[2]


class Sick:
    """A store of two versions behind a proxy, and a client in a process of its own."""

    def __init__(self, proxy: Proxy, endpoint: str, url: str, bundles: Path, bundle: MakeBundle) -> None:
        self.proxy = proxy
        self._bundles = bundles
        self._bundle = bundle
        self._number = 0
        storage = open_storage(url, access=S3Access(endpoint_url=endpoint))
        self.reader = ModelStore(storage, "news", trusted=TRUSTED)
        self._publisher = ModelStore(storage, "news", signer=SIGNER, trusted=TRUSTED)
        for _ in range(2):
            self._publish_next()
        environment = os.environ | {"AWS_ENDPOINT_URL": proxy.url, "RETRAINER_S3_TIMEOUT": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.sick_client", url, str(bundles)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        for operation in OPERATIONS:  # what is normal
            self.normal = self.run(operation)["peak"]

    def _next(self) -> int:
        self._number += 1
        folder, manifest = self._bundle(f"{self._number:04d}")
        (folder / "manifest").write_text(manifest.to_pretty_json())
        return self._number

    def _publish_next(self) -> None:
        folder, manifest = self._bundle(f"{self._next():04d}")
        live = self.reader.newest_move("production")
        self._publisher.publish(
            folder,
            manifest,
            channel="production",
            actor="ada",
            reason="",
            decision=None,
            expected=live.to_version if live else None,
        )

    def run(self, operation: str, fault: Fault | None = None, at: int = 0) -> dict[str, Any]:
        """Do that once, with a fault at one call, and judge how it ended and what it left."""
        # So that no hint is behind, which would take one more call each time, and there is something to promote.
        if operation in {"publish", "promote"}:
            self._publish_next()
        if operation == "promote":
            self._publisher.promote("staging", from_channel="production", actor="ada", reason="")
            self._publish_next()
        number = f" {self._next()}" if operation == "publish" else ""
        self.proxy.strike(fault, at)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{operation}{number}\n")
        self.process.stdin.flush()
        ended: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.unharmed = self.proxy.unharmed
        self.proxy.strike(None)
        case = (operation, fault, at, ended)
        assert not ended["error"].startswith("BROKEN"), case
        assert ended["seconds"] < 30, case
        assert fault is None or ended["peak"] < self.normal + 100, case
        channel = {"publish": "production", "promote": "staging"}.get(operation)
        if channel and ended["said"]:
            newest = self.reader.verify_channel(channel)
            assert newest is not None
            assert newest.to_version == ended["said"], case
        return ended

    def run_all(self, operation: str, fault: Fault) -> list[dict[str, Any]]:
        """One run for each call that the operation makes."""
        ends = []
        for at in range(1, 99):
            ends.append(self.run(operation, fault, at))
            if self.unharmed:
                return ends
        raise AssertionError("it makes calls without end")


@pytest.fixture
def sick(proxy: Proxy, s3_endpoint: str, s3_bucket: str, tmp_path: Path, bundle: MakeBundle) -> Iterator[Sick]:
    store = Sick(proxy, s3_endpoint, f"s3://{s3_bucket}/models", tmp_path / "bundles", bundle)
    yield store
    assert store.process.stdin is not None
    store.process.stdin.close()
    assert store.process.wait(60) == 0


SAMPLE: list[tuple[str, Fault, int]] = [
    ("load", "timeout", 1),
    ("load", "drip body", 2),
    ("load", "large", 6),
    ("watch", "page", 1),
    ("watch", "not found page", 2),
    ("publish", "page", 9),
    ("publish", "no etag", 12),
    ("promote", "endless", 3),
    ("promote", "drip", 11),
    ("fsck", "garbage", 1),
    ("fsck", "half", 2),
    ("fsck", "strange headers", 7),
]


def test_some_calls_that_are_answered_by_a_sick_server(sick: Sick) -> None:
    for operation, fault, at in SAMPLE:
        sick.run(operation, fault, at)
    sick.reader.verify_channel("production")


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_that_is_answered_by_a_sick_server(sick: Sick, fault: Fault) -> None:
    slowest, peak = 0.0, sick.normal
    for operation in OPERATIONS:
        for ended in sick.run_all(operation, fault):
            slowest, peak = max(slowest, ended["seconds"]), max(peak, ended["peak"])
        sick.reader.verify_channel("production")
    print(f"\n{fault}: slowest {slowest:.1f} s; memory {peak} MB, normal {sick.normal} MB")  # noqa: T201
