"""Publishers on a folder that are killed at any step: readers see the old or the new version, whole."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from retrainer.storage import open_storage
from retrainer.store import Keyring, Manifest, Signer, Store
from tests.store.conftest import publish

MakeBundle = Callable[[str], tuple[Path, Manifest]]
FORK = multiprocessing.get_context("fork")
# What changes a file system, or tells two processes apart. Python names each before it happens.
STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "fcntl.flock"}


def die_at(fatal: int, folder: Path) -> None:
    """Kill this process before its step of that number below a folder, or right after it took a lock there.

    What is after a step is before the next one. The hook stays until the process ends.
    """
    steps = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal steps
        if event not in STEPS or (event != "fcntl.flock" and not str(arguments[0]).startswith(str(folder))):
            return
        steps += 1
        if steps == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def test_a_publisher_killed_at_any_step(bundle: MakeBundle, tmp_path: Path) -> None:
    url = tmp_path / "store"
    signer = Signer(Ed25519PrivateKey.generate())
    trusted = Keyring((signer.public,))
    model = Store.open(url, signer=signer, trusted=trusted).model("news")

    def attempt(fatal: int, new: tuple[Path, Manifest], expected: str) -> None:
        die_at(fatal, url)
        publish(model, new, expected)

    live = publish(model, bundle("0"), None)
    for fatal in range(1, 999):
        new = bundle(str(fatal))
        worker = FORK.Process(target=attempt, args=(fatal, new, live.version))
        worker.start()
        worker.join()
        champion = model.champion("production")
        assert champion is not None
        assert champion.version in {live.version, new[1].version}
        model.fetch(champion.version, tmp_path / "copy")  # whole, whichever it is
        moved = champion.version == new[1].version
        # The lock of whoever was killed holds nobody up.
        again = publish(model, new, live.version)
        assert (again.version, again.previous) == (new[1].version, live.version)
        assert (again.moved, again.sequence) == (not moved, live.sequence + 1)
        live = again
        if worker.exitcode == 0:
            assert moved
            break
        assert worker.exitcode == -signal.SIGKILL
    assert fatal > 45
    assert model.verify_channel("production") is not None
    assert [move.sequence for move in model.history("production")] == list(range(live.sequence, 0, -1))
    infos = model.versions()
    assert (len(infos), {info.problem for info in infos}) == (live.sequence, {None})
    for info in infos:
        model.fetch(info.version, tmp_path / "copies" / info.version)


def test_a_first_publisher_killed_before_its_manifest_leaves_no_version(tmp_path: Path, bundle: MakeBundle) -> None:
    url, one = tmp_path / "store", bundle("one")
    manifest = f"{one[1].version}/manifest.json"

    def attempt() -> None:
        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event == "os.rename" and str(arguments[1]).endswith(manifest):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        publish(Store.open(url).model("news"), one, None)

    worker = FORK.Process(target=attempt)
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    model = Store.open(url).model("news")
    assert Store.open(url).models() == []
    assert model.champion("production") is None
    assert model.versions() == []
    assert list(open_storage(url).list("news/versions/"))  # something was left
    assert publish(model, one, None).moved


@pytest.mark.parametrize("key", ["channels/production/0000000002.json", "intents/", "manifest.json"])
def test_a_publisher_killed_while_it_holds_the_lock(tmp_path: Path, bundle: MakeBundle, key: str) -> None:
    url, one, two = tmp_path / "store", bundle("one"), bundle("two")
    model = Store.open(url).model("news")
    before = publish(model, one, None).version

    def attempt() -> None:
        locked = False

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal locked
            locked = locked or event == "fcntl.flock"
            if event == "os.rename" and key in str(arguments[1]):
                os.kill(os.getpid(), signal.SIGKILL if locked else signal.SIGABRT)

        sys.addaudithook(hook)
        publish(model, two, before)

    worker = FORK.Process(target=attempt)
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    published = publish(model, two, before)
    assert (published.version, published.sequence, published.previous) == (two[1].version, 2, before)
    assert published.moved
    assert [move.sequence for move in model.history("production")] == [2, 1]
    assert model.verify_channel("production") is not None
