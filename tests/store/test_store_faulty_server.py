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


def test_a_server_that_ignores_conditions_is_refused(proxy: Proxy, s3_bucket: str, bundle: MakeBundle) -> None:
    url = f"s3://{s3_bucket}/models"
    ignored = proxy.drop = {"if-none-match"}
    for _ in range(2):
        with pytest.raises(StorageError, match=r"ignores conditional writes \(If-None-Match") as caught:
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
    newest = model.newest_move("production")
    assert newest is not None
    assert newest.to_version == first.version


def test_no_more_is_asked_of_a_server_than_that(proxy: Proxy, s3_bucket: str, bundle: MakeBundle) -> None:
    url = f"s3://{s3_bucket}/models"
    proxy.drop = {"if-match"}  # of a copy that is taken back
    first = publish(url, bundle("one"))
    assert publish(url, bundle("two"), first.version).previous == first.version
    assert Store.open(url).model("news").rollback("production", actor="bob", reason="").version == first.version


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
