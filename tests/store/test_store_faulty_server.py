"""S3 servers that ignore conditions, answer late conflicts, or cut the connection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrainer.errors import PreconditionFailed, StorageError
from retrainer.storage import open_storage
from retrainer.store import Manifest, Published, Store

if TYPE_CHECKING:
    from tests.store.conftest import Proxy

MakeBundle = Callable[[str], tuple[Path, Manifest]]


def publish(url: str, bundle: tuple[Path, Manifest], expected: str | None = None) -> Published:
    folder, manifest = bundle
    return (
        Store.open(url)
        .model("news")
        .publish(
            folder,
            manifest,
            channel="production",
            actor="ada",
            reason="",
            decision=None,
            expected=expected,
        )
    )


@pytest.mark.parametrize(
    ("ignored", "header"),
    [({"if-none-match", "if-match"}, "If-None-Match"), ({"if-match"}, "If-Match"), ({"if-none-match"}, "If-None")],
)
def test_a_server_that_ignores_conditions_is_refused(
    proxy: Proxy, s3_bucket: str, bundle: MakeBundle, ignored: set[str], header: str
) -> None:
    url = f"s3://{s3_bucket}/models"
    proxy.drop = ignored
    for _ in range(2):
        with pytest.raises(StorageError, match=f"ignores conditional writes \\({header}") as caught:
            publish(url, bundle("one"))
        assert caught.value.hint
    assert Store.open(url).models() == []
    proxy.drop = set()
    first = publish(url, bundle("one"))
    proxy.drop = ignored
    model = Store.open(url).model("news")
    folder, manifest = bundle("two")
    model.put_version(folder, manifest)
    moves: list[Callable[[], object]] = [
        lambda: publish(url, bundle("two"), first.version),
        lambda: model.rollback("production", to=manifest.version, actor="bob", reason=""),
        lambda: model.promote("production", version=manifest.version, actor="bob", reason=""),
    ]
    for move in moves:
        with pytest.raises(StorageError, match="ignores conditional writes"):
            move()
    pointer = model.pointer("production")
    assert pointer is not None
    assert pointer.version == first.version


def test_a_server_without_conditions_says_so(proxy: Proxy, s3_bucket: str, bundle: MakeBundle) -> None:
    proxy.answers = [(501, "NotImplemented")] * 8
    with pytest.raises(StorageError, match="does not implement") as caught:
        publish(f"s3://{s3_bucket}", bundle("one"))
    assert "conditional writes" in str(caught.value.hint)


def test_a_conflict_is_tried_again(proxy: Proxy, s3_bucket: str) -> None:
    storage = open_storage(f"s3://{s3_bucket}")
    proxy.answers = [(409, "ConditionalRequestConflict")] * 2
    storage.write("x", b"one", if_absent=True)
    assert proxy.puts == 3
    proxy.answers = [(409, "ConditionalRequestConflict")]
    with pytest.raises(PreconditionFailed):
        storage.write("x", b"two", if_absent=True)
    assert storage.read("x") == b"one"


@pytest.mark.parametrize("take_effect", [False, True], ids=["lost request", "lost answer"])
def test_a_cut_connection_at_any_change(
    proxy: Proxy, s3_bucket: str, bundle: MakeBundle, tmp_path: Path, take_effect: bool
) -> None:
    url = f"s3://{s3_bucket}/models"
    model = Store.open(url).model("news")
    before = publish(url, bundle("0"))
    for number in range(1, 20):
        proxy.puts, proxy.cut, proxy.cut_before = 0, set(), set()
        (proxy.cut if take_effect else proxy.cut_before).add(number)
        # boto3 repeats the request: a write that took effect loses against itself, and must know itself.
        now = publish(url, bundle(str(number)), before.version)
        assert (now.moved, now.previous, now.sequence) == (True, before.version, number + 1)
        champion = model.champion("production")
        assert champion is not None
        assert champion.version == now.version
        before = now
        if proxy.puts < number:
            break
    else:
        raise AssertionError("not every change was cut")
    assert number >= 8
    model.fetch(before.version, tmp_path / "copy")
    assert len(model.history("production")) == number + 1
