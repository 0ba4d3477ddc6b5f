"""How an address names a folder or a bucket."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrainer.errors import ResourceError, StorageError, UserError
from retrainer.storage import is_s3, join_url, open_storage


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///data/a%20b", "/data/a b"),
        ("file:///data/a b", "/data/a b"),
        ("file://localhost/data", "/data"),
        ("file:///data/100%/x?y#z", "/data/100%/x?y#z"),
        ("/data/a%20b/", "/data/a%20b"),
        (Path("/data/x"), "/data/x"),
    ],
)
def test_a_folder(url: str | Path, path: str) -> None:
    assert open_storage(url).local_path() == Path(path)
    assert not is_s3(url)


def test_a_relative_path_is_taken_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = open_storage("store")
    monkeypatch.chdir("/")
    assert storage.local_path() == tmp_path / "store"


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert open_storage("~/store").local_path() == Path("/home/somebody/store")


def test_a_home_folder_of_nobody() -> None:
    with pytest.raises(StorageError, match="home directory") as caught:
        open_storage("~nosuchuser/store")
    assert caught.value.where == "~nosuchuser/store"


def test_a_bucket_needs_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "retrainer.storage.s3", raising=False)
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)  # not installed
    with pytest.raises(ResourceError, match="not installed") as caught:
        open_storage("s3://bucket/models")
    assert caught.value.where == "s3://bucket/models"
    assert "pip install 'airflow-retrainer[serve]'" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("s3://bucket", "s3://bucket/x/y"),
        ("s3://bucket/", "s3://bucket/x/y"),
        ("s3://bucket/a b/c%20d/", "s3://bucket/a b/c%20d/x/y"),
    ],
)
def test_a_bucket(url: str, where: str) -> None:
    storage = open_storage(url)
    assert is_s3(url)
    assert storage.where("x/y") == where
    assert storage.url == url.rstrip("/")
    assert storage.local_path("x") is None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "empty"),
        ("s3://", "no bucket"),
        ("s3:///key", "no bucket"),
        ("s3://not a bucket/key", "cannot be a bucket's name"),
        ("file://host/folder", "another machine"),
        ("file://folder", "another machine"),
        ("gs://bucket/key", "cannot open gs:// addresses"),
    ],
)
def test_an_address_that_names_nothing(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        open_storage(url)
    assert caught.value.hint


@pytest.mark.parametrize("url", [None, 5, b"folder"])
def test_an_address_that_is_not_even_text(url: Any) -> None:
    with pytest.raises(UserError, match="the address must be text or a path; got"):
        open_storage(url)


@given(st.lists(st.text("ab %/?#é.", min_size=1), min_size=1, max_size=3))
def test_a_file_url_and_its_path_are_the_same_place(parts: list[str]) -> None:
    folder = Path("/root").joinpath(*(part.replace("/", "_").replace(".", "_") for part in parts))
    storage = open_storage(folder.as_uri())
    assert storage.local_path() == folder
    assert storage.url == folder.as_uri()
    below = open_storage(join_url(storage.url, "x %20", "y"))
    assert below.local_path() == folder / "x %20" / "y"


def test_joining() -> None:
    assert join_url("s3://bucket/", "a b", "c/d") == "s3://bucket/a b/c/d"
    assert join_url("/folder/", "/a b/") == "/folder/a b"
    assert join_url(Path("/folder"), "a") == "/folder/a"
    assert join_url("file:///folder", "a b") == "file:///folder/a%20b"
