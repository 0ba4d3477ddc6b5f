"""Every call to S3 of a publish failed in turn: readers see the old or the new version, and a second try converges."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retrainer.errors import StorageError
from retrainer.records import sha256_file
from retrainer.storage import S3Access, open_storage
from retrainer.storage.s3 import S3Storage
from retrainer.store import FileEntry, Keyring, Manifest, ModelStore, Published, Signer

if TYPE_CHECKING:
    from tests.store.conftest import Fault, Proxy

FORK = multiprocessing.get_context("fork")
MOVE = "/channels/production/*.json"
MakeBundle = Callable[[str], tuple[Path, Manifest]]


class Attempts:
    """Publications of small bundles, one after the other; one file is the same in all, so that it is copied."""

    def __init__(self, proxy: Proxy, endpoint: str, url: str, tmp_path: Path, bundle: MakeBundle) -> None:
        self.proxy = proxy
        self._url = url
        self._tmp_path = tmp_path
        self._bundle = bundle
        self._signer = Signer(Ed25519PrivateKey.generate())
        trusted = Keyring((self._signer.public,))
        self.storage = open_storage(url, access=S3Access(endpoint_url=endpoint))
        self.reader = ModelStore(self.storage, "news", trusted=trusted)
        self.second = ModelStore(self.storage, "news", signer=self._signer, trusted=trusted)
        self.faulty = self.through_proxy(timeout=60)
        self.live = self.publish(self.second, self.bundle(0), None)
        self.copy = tmp_path / "copy"

    def through_proxy(self, *, timeout: float) -> ModelStore:
        """A publisher that has two tries a call and does not wait long between them, nor for an answer."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("retrainer.storage.s3_client._ATTEMPTS", 2)
            storage = open_storage(self._url, access=S3Access(endpoint_url=self.proxy.url, timeout=timeout))
            assert isinstance(storage, S3Storage)
            assert storage._client  # made once: a process that is forked finds it, without an open connection
        return ModelStore(storage, "news", signer=self._signer)

    def bundle(self, number: int) -> tuple[Path, Manifest]:
        folder, manifest = self._bundle(f"{number:04d}")
        (folder / "README.md").write_text("the same in all")
        files = {"onnx/model.onnx": manifest.files["onnx/model.onnx"], "README.md": entry(folder / "README.md")}
        return folder, manifest.model_copy(update={"files": files})

    def publish(self, model: ModelStore, bundle: tuple[Path, Manifest], expected: str | None) -> Published:
        folder, manifest = bundle
        return model.publish(
            folder,
            manifest,
            channel="production",
            actor="ada",
            reason="a try",
            decision=None,
            expected=expected,
        )

    def judge(self, new: tuple[Path, Manifest]) -> None:
        """Look at the store as a reader does, then publish again."""
        before, version = self.live, new[1].version
        newest = self.reader.newest_move("production")
        assert newest is not None
        assert newest.to_version in {before.version, version}
        self.reader.fetch(newest.to_version, self.copy)  # whole, whichever it is
        again = self.publish(self.second, new, before.version)
        assert (again.version, again.previous, again.sequence) == (version, before.version, before.sequence + 1)
        assert again.moved == (newest.to_version == before.version)
        self.live = again

    def judge_all(self) -> None:
        """Log, signatures and files, from the last publication to the first."""
        newest = self.reader.verify_channel("production")
        assert newest is not None
        assert newest.sha256 == self.live.move
        moves = [move.sequence for move in self.reader.history("production")]
        assert moves == list(range(self.live.sequence, 0, -1))
        infos = self.reader.versions()
        assert len(infos) == self.live.sequence
        assert {info.problem for info in infos} == {None}
        self.reader.fetch(self.live.version, self.copy)


def entry(path: Path) -> FileEntry:
    return FileEntry(size=path.stat().st_size, sha256=sha256_file(path))


@pytest.fixture
def attempts(
    proxy: Proxy,
    s3_endpoint: str,
    s3_bucket: str,
    tmp_path: Path,
    bundle: MakeBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> Attempts:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    return Attempts(proxy, s3_endpoint, f"s3://{s3_bucket}/models", tmp_path, bundle)


CASES: dict[str, tuple[list[Fault], bool]] = {
    "an error": (["500"], False),
    "refused, or told to slow down": (["403", "503"], False),
    "no answer": (["timeout"], False),
    "no answer after it took effect": (["timeout after"], False),
    "connection cut": (["cut"], False),
    "connection cut after it took effect": (["cut after"], False),
    "connection cut after it took effect, once": (["cut after"], True),
}


# Of calls that fail, the worst: it took effect, and nobody said so. The others are as long, and end alike.
_SHORT = {"connection cut after it took effect"}


@pytest.mark.parametrize(
    ("faults", "once"),
    [pytest.param(*case, id=name, marks=() if name in _SHORT else pytest.mark.long) for name, case in CASES.items()],
)
def test_a_call_that_fails(attempts: Attempts, faults: list[Fault], once: bool) -> None:
    if faults[0].startswith("timeout"):
        attempts.faulty = attempts.through_proxy(timeout=0.5)
    for number in range(1, 99):
        fault = faults[number % len(faults)]
        new = attempts.bundle(number)
        attempts.proxy.strike(fault, number, once=once)
        try:
            attempts.publish(attempts.faulty, new, attempts.live.version)
        except StorageError as error:
            assert error.where  # noqa: PT017
            assert not once
            ended = False
        else:
            ended = attempts.proxy.unharmed
            # What failed for good is never taken for a success; but a copy that is refused is made up for by sending,
            # a next move that is denied counts as absent, and the move is made, whatever becomes of hint and summary.
            failed = "" if ended else attempts.proxy.calls[number - 1]
            denied = fault == "403" and failed.endswith(("/versions/*/README.md", "/channels/production/*.json"))
            made = [at for at, call in enumerate(attempts.proxy.calls, 1) if call.endswith(MOVE) and call[:3] == "PUT"]
            assert ended or once or denied or number > min(made, default=number)
        attempts.judge(new)
        if ended:
            break
    attempts.judge_all()
    # A summary that was not refreshed is made anew by the next one, with as many calls as that takes.
    asked = {call for call in attempts.proxy.calls if not call.endswith("/summary.json")}
    assert asked <= attempts.proxy.struck


@pytest.mark.parametrize("fault", [pytest.param("kill", marks=pytest.mark.long), "kill after"])
def test_a_publisher_that_is_killed(attempts: Attempts, fault: Fault) -> None:
    for number in range(1, 99):
        new = attempts.bundle(number)
        worker = FORK.Process(target=attempts.publish, args=(attempts.faulty, new, attempts.live.version))
        attempts.proxy.strike(fault, number)
        worker.start()
        attempts.proxy.victim = worker.pid
        worker.join()
        attempts.judge(new)
        if worker.exitcode == 0:
            assert attempts.proxy.unharmed
            break
        assert worker.exitcode == -signal.SIGKILL
    attempts.judge_all()
    assert attempts.proxy.struck == set(attempts.proxy.calls)


def test_a_call_of_a_large_file_that_fails(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrainer.storage.s3_transfers.PART", 5 << 20)  # the smallest that S3 takes

    def large(number: int) -> tuple[Path, Manifest]:
        folder, manifest = attempts.bundle(number)
        graph = folder / "onnx/model.onnx"
        graph.write_bytes(f"{number:016d}".encode() * (320 << 10) + b"one more byte than a part")
        return folder, manifest.model_copy(update={"files": manifest.files | {"onnx/model.onnx": entry(graph)}})

    new = large(1)
    attempts.proxy.strike(None)
    attempts.publish(attempts.faulty, new, attempts.live.version)
    calls = list(attempts.proxy.calls)
    attempts.live = attempts.publish(attempts.second, new, None)
    of_parts = [position for position, call in enumerate(calls, 1) if call.endswith("onnx/model.onnx")]
    assert [calls[position - 1].partition(" ")[0] for position in of_parts] == ["POST", "PUT", "PUT", "POST", "HEAD"]
    faults: list[Fault] = ["500", "kill after"]
    for number, (position, fault) in enumerate(product(of_parts, faults), 2):
        new = large(number)
        worker = FORK.Process(target=attempts.publish, args=(attempts.faulty, new, attempts.live.version))
        attempts.proxy.strike(fault, position)
        worker.start()
        attempts.proxy.victim = worker.pid
        worker.join()
        assert worker.exitcode != 0
        attempts.judge(new)
    attempts.judge_all()
    assert attempts.proxy.struck == {calls[position - 1] for position in of_parts}
