"""Full disks, missing permissions, a store behind a server that is not there: through the command itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import Bench

# Root, but no longer above file modes: a user of another name could often not even start this interpreter.
POWERLESS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all")
NOBODY = 65534


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A file system of its own; skips where none may be mounted."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


# Size of the disk, and the steps whose artifacts lie there already.
SIZES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ingest": ("16k", ()),
    "train": ("4m", ("ingest",)),
    "export": ("7m", ("ingest", "train")),
}


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount")
@pytest.mark.parametrize("step", SIZES)
def test_a_full_disk(
    bench: Bench, one_clear_error: Callable[..., None], unharmed: Callable[..., None], step: str
) -> None:
    size, there = SIZES[step]
    disk = bench.folder / "disk"
    with small_disk(disk, size):
        for done in there:
            shutil.copytree(bench.root / done, disk / done)
        answer = bench.command("--artifacts", disk)
        one_clear_error(answer, str(disk), "the disk is full", "hint:  free some space")
        assert not list((disk / step).glob("*"))
        unharmed(bench, disk)


@pytest.mark.skipif(not shutil.which("mount"), reason="no mount")
def test_a_store_that_fills_up(
    bench: Bench, one_clear_error: Callable[..., None], unharmed: Callable[..., None]
) -> None:
    bench.change(publish={"store": "disk"})
    disk = bench.folder / "disk"
    with small_disk(disk, "2m"):
        one_clear_error(bench.command(), str(disk), "the disk is full")
        assert not list(disk.rglob("manifest.json"))
        assert not list(disk.rglob("channels/production/*.json"))
        unharmed(bench)


def give_away(place: Path) -> None:
    for path in (place, *place.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def foreign_artifacts(bench: Bench) -> None:
    give_away(bench.root)


def unreadable_data(bench: Bench) -> None:
    (bench.folder / "train.csv").chmod(0)


def unreadable_pipeline(bench: Bench) -> None:
    bench.pipeline.chmod(0)


def unreadable_base(bench: Bench) -> None:
    base = bench.folder / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    base.chmod(0)
    bench.change(model={"base": "./base"})


def unreadable_store(bench: Bench) -> None:
    bench.store.chmod(0)


def unwritable_store(bench: Bench) -> None:
    (bench.folder / "other").mkdir(mode=0o555)
    bench.change(publish={"store": "other"})


FORBIDDEN: dict[str, tuple[Callable[[Bench], None], str]] = {
    "artifacts of another user": (foreign_artifacts, ".retrainer/artifacts/"),
    "data": (unreadable_data, "train.csv: no permission to read it"),
    "pipeline file": (unreadable_pipeline, "pipeline.yaml: no permission to read it"),
    "base model": (unreadable_base, "cannot be read: Permission denied"),
    "store to read": (unreadable_store, "latest.json: no permission"),
    "store to write": (unwritable_store, "/other/"),
}


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root to give a file away")
@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_permission(
    bench: Bench, one_clear_error: Callable[..., None], unharmed: Callable[..., None], what: str
) -> None:
    forbid, said = FORBIDDEN[what]
    forbid(bench)
    answer = bench.command(prefix=POWERLESS)
    one_clear_error(answer, said, "ermission", *(["hint:"] if what != "pipeline" else []))
    unharmed(bench)


NO_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "",
    "AWS_SECRET_ACCESS_KEY": "",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
SERVERS: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "nobody there": ("s3://bucket/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, ["cannot reach", "AWS_ENDPOINT_URL"]),
    "no bucket": ("s3://absent-bucket/x", {}, ["s3://absent-bucket/x", "no such bucket"]),
    "no credentials": ("s3://bucket/x", NO_CREDENTIALS, ["s3://bucket/x", "no credentials"]),
    "no address": ("s3://bucket/x", {"AWS_ENDPOINT_URL": "nonsense"}, ["s3://bucket/x", "Invalid endpoint: nonsense"]),
    "no profile": ("s3://bucket/x", {"AWS_PROFILE": "absent"}, ["s3://bucket/x", "absent"]),
    "no name": ("s3://", {}, ["no bucket is named"]),
}


@pytest.mark.parametrize("fault", SERVERS)
def test_artifacts_on_a_server_that_does_not_serve(
    bench: Bench,
    s3_endpoint: str,
    one_clear_error: Callable[..., None],
    unharmed: Callable[..., None],
    fault: str,
) -> None:
    url, environment, said = SERVERS[fault]
    one_clear_error(bench.command("--artifacts", url, environment=environment), *said, "hint:")
    unharmed(bench)
