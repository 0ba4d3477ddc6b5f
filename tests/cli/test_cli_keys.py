"""``keygen`` and ``sign``, readers with pinned keys, and a private key that shows up nowhere."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from retrainer.spec.publish import Publish
from retrainer.store import PublicKey
from retrainer.store.signing_keys import KeyPair, make_key_pair

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Published, Workbench

MODEL = "tiny-status"
TEXT = "the north trail 5 is dry today"


def secrets_of(pair: KeyPair) -> tuple[str, ...]:
    """A private key in the forms in which it could show up: body of the PEM, raw, in base64 and in hex."""
    body = "".join(line for line in pair.private.read_text().splitlines() if "-----" not in line)
    seed = base64.b64decode(body)[-32:]
    return (body, body[-20:], base64.b64encode(seed).decode(), base64.urlsafe_b64encode(seed).decode(), seed.hex())


def assert_no_secret(pair: KeyPair, *texts: str) -> None:
    for text in texts:
        assert not [secret for secret in secrets_of(pair) if secret in text], "a private key was shown"


@pytest.fixture
def pair(tmp_path: Path) -> KeyPair:
    return make_key_pair(tmp_path / "release")


@pytest.fixture
def other(tmp_path: Path) -> KeyPair:
    return make_key_pair(tmp_path / "next")


@pytest.fixture
def signed_store(cli: Cli, store: Path, pair: KeyPair) -> Path:
    """A copy of the published store, signed from the first to the last."""
    answer = cli("sign", store, "--key", f"file:{pair.private}", "--all", "--trust-unsigned")
    assert answer.returncode == 0, answer.stderr
    return store


def test_keygen_prints_what_may_be_seen(cli: Cli, tmp_path: Path, one_clear_error: Callable[..., None]) -> None:
    answer = cli("keygen", "release", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    private, public = tmp_path / "release.key", tmp_path / "release.pub"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    key = PublicKey.parse(public)
    assert str(key) in answer.stdout
    assert key.key_id in answer.stdout
    assert_no_secret(KeyPair(private, public, key), answer.stdout, answer.stderr)
    # What it says to write is what a pipeline file takes, and what readers take.
    lines = [line for line in answer.stdout.splitlines() if "sign_with" in line or "trusted_keys" in line]
    publish = Publish.model_validate({"store": "models", **yaml.safe_load("\n".join(lines))})
    assert publish.sign_with == f"file:{private}"
    assert publish.trusted_keys == (str(key),)
    assert f"RETRAINER_PUBLIC_KEYS={key}" in answer.stdout
    # Neither file is ever written over, whichever is there.
    kept = private.read_bytes()
    one_clear_error(cli("keygen", "release", cwd=tmp_path), "release.key", "is there already")
    private.rename(tmp_path / "elsewhere.key")
    one_clear_error(cli("keygen", "release", cwd=tmp_path), "release.pub", "is there already")
    assert (tmp_path / "elsewhere.key").read_bytes() == kept
    assert not private.exists()


def test_keygen_as_json(cli: Cli, tmp_path: Path, one_clear_error: Callable[..., None]) -> None:
    answer = cli("keygen", tmp_path / "release", "--json")
    record = json.loads(answer.stdout)
    key = PublicKey.parse(record["public_key"])
    assert record["key_id"] == key.key_id
    assert PublicKey.parse(record["public_file"]) == key
    assert_no_secret(KeyPair(Path(record["private_file"]), Path(record["public_file"]), key), answer.stdout)
    one_clear_error(cli("keygen", tmp_path / "no" / "release"), "cannot be written", "No such file")


@pytest.mark.parametrize("path", ["", ".", "..", "/", "keys/.."])
def test_keygen_without_a_name(cli: Cli, tmp_path: Path, one_clear_error: Callable[..., None], path: str) -> None:
    one_clear_error(cli("keygen", path, cwd=tmp_path), "names a folder", "keys/release")
    assert list(tmp_path.iterdir()) == []


def test_the_home_of_nobody(cli: Cli, store: Path, tmp_path: Path, one_clear_error: Callable[..., None]) -> None:
    commands: list[list[object]] = [
        ["keygen", "~nosuchuser/x"],
        ["sign", store, "--key", "file:~nosuchuser/x"],
        ["show", store, MODEL, "--public-key", "~nosuchuser/x"],
    ]
    for command in commands:
        one_clear_error(cli(*command, cwd=tmp_path), "no home folder", "~nosuchuser/x")


NO_CRYPTOGRAPHY = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cryptography":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "cryptography" else found(name, package)
sys.argv = ["retrainer", *sys.argv[1:]]
from retrainer.cli import main
main()
"""


def test_keys_without_the_library_for_them(
    signed_store: Path, pair: KeyPair, one_clear_error: Callable[..., None]
) -> None:
    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", NO_CRYPTOGRAPHY, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment},
        )

    assert run("history", signed_store, MODEL).returncode == 0
    for command in ("history", "show", "versions"):
        answer = run(command, signed_store, MODEL, "--public-key", str(pair.key))
        one_clear_error(answer, "cryptography not installed", "pip install")
    one_clear_error(run("models", signed_store, RETRAINER_PUBLIC_KEYS=str(pair.public)), "cryptography not installed")
    moving = ["rollback", signed_store, MODEL, "--reason", "r", "--key", f"file:{pair.private}"]
    one_clear_error(run(*moving), "cryptography not installed")


def test_readers_with_a_pinned_key(
    cli: Cli, published: Published, store: Path, pair: KeyPair, one_clear_error: Callable[..., None]
) -> None:
    pin = ["--public-key", str(pair.public)]
    reads: list[list[object]] = [["show", store, MODEL], ["history", store, MODEL], ["predict", store, MODEL, TEXT]]
    for command in reads:
        one_clear_error(cli(*command, *pin), "not signed")
    one_clear_error(cli("show", store, MODEL, RETRAINER_PUBLIC_KEYS=str(pair.key)), "not signed")
    assert "not signed" in cli("models", store, *pin).stdout
    assert "nobody" in cli("show", store, MODEL).stdout

    answer = cli("sign", store, "--key", f"file:{pair.private}", "--trust-unsigned")
    assert answer.stdout.splitlines() == [
        f"{MODEL}\tversion {published.version}\tsigned",
        f"{MODEL}\tchannel production\tsigned",
    ]
    for command in [*reads, ["models", store], ["versions", store, MODEL]]:
        read = cli(*command, *pin)
        assert read.returncode == 0, read.stderr
        assert "not signed" not in read.stdout
    assert f"{pair.key.key_id} (checked)" in cli("show", store, MODEL, *pin).stdout
    assert f"{pair.key.key_id} (not checked" in cli("show", store, MODEL).stdout
    shown = json.loads(cli("show", store, MODEL, "--json", RETRAINER_PUBLIC_KEYS=str(pair.key)).stdout)
    assert shown["signed_by"] == [pair.key.key_id]


def test_rotation(
    cli: Cli,
    bench: Workbench,
    published: Published,
    store: Path,
    pair: KeyPair,
    other: KeyPair,
    one_clear_error: Callable[..., None],
) -> None:
    second = bench.variant(store, lambda folder: (folder / "README.md").unlink())
    old, new = f"file:{pair.private}", f"file:{other.private}"
    assert cli("sign", store, "--key", old, "--all", "--trust-unsigned").returncode == 0
    one_clear_error(cli("sign", store, "--key", new), "not trusted here", "--public-key")
    one_clear_error(cli("sign", store, "--key", new, "--public-key", other.public), "not trusted here")
    rotate = ["sign", store, MODEL, "--public-key", str(pair.public), "--json"]
    answer = json.loads(cli(*rotate, "--key", new).stdout)
    assert answer["key_id"] == other.key.key_id
    assert [(line["what"], line["done"]) for line in answer["done"]] == [
        (f"version {second}", "signed"),
        ("channel production", "signed"),
    ]
    again = json.loads(cli(*rotate, RETRAINER_SIGN_WITH=new).stdout)
    assert {line["done"] for line in again["done"]} == {"signed already"}
    every = json.loads(cli(*rotate, "--key", new, "--all").stdout)
    assert (every["done"][-1]["what"], every["done"][-1]["done"]) == (f"version {published.version}", "signed")
    assert cli("show", store, MODEL, "--public-key", other.public).returncode == 0
    one_clear_error(cli("show", store, MODEL, "--public-key", pair.public), "not trusted here")
    both = cli("show", store, MODEL, "--public-key", pair.public, "--public-key", other.public)
    assert both.returncode == 0, both.stderr


def test_what_cannot_be_signed(
    cli: Cli, store: Path, pair: KeyPair, tmp_path: Path, one_clear_error: Callable[..., None]
) -> None:
    usage = cli("sign", store)
    assert usage.returncode == 2
    assert "--key" in usage.stderr
    source = f"file:{pair.private}"
    one_clear_error(cli("sign", store, "--key", source), "not signed", "--trust-unsigned")
    one_clear_error(cli("sign", store, "no-model", "--key", source), "no model 'no-model'", MODEL)
    one_clear_error(cli("sign", tmp_path / "nothing", "--key", source), "no such store")
    one_clear_error(cli("sign", store, "--key", "env:NOT_SET"), "there is no private key", "NOT_SET")
    pair.private.chmod(0o644)
    one_clear_error(cli("sign", store, "--key", source), "others may read this private key", "chmod 600")


def test_no_secret_in_what_commands_say(cli: Cli, signed_store: Path, pair: KeyPair) -> None:
    """Not when all goes well, not with stack traces, and not when somebody gives the key in place of its source."""
    pem = pair.private.read_text()
    body, *_ = secrets_of(pair)
    source = f"file:{pair.private}"
    answers = [
        cli("--debug", "sign", signed_store, "--key", source),
        cli("--debug", "sign", signed_store, "--key", "env:MY_KEY", MY_KEY=pem),
        cli("--debug", "sign", signed_store, "--key", "env:MY_KEY", MY_KEY=pem.replace("PRIVATE", "SECRET")),
        cli("--debug", "sign", signed_store, "--key", "env:MY_KEY", MY_KEY=pem[:-60]),
        *(cli("--debug", "sign", signed_store, "--key", text) for text in (pem, body, f"file:{pem}", f"env:{body}")),
        cli("--debug", "show", signed_store, MODEL, "--public-key", pair.private),
        cli("--debug", "show", signed_store, MODEL, "--public-key", pem),
        cli("--debug", "show", signed_store, MODEL, RETRAINER_PUBLIC_KEYS=str(pair.private)),
        # The line of the PEM that is the key, as "sed -n 2p" gives it.
        cli("--debug", "show", signed_store, MODEL, "--public-key", body),
        cli("--debug", "show", signed_store, MODEL, RETRAINER_PUBLIC_KEYS=body),
        cli("--debug", "sign", signed_store, "--key", source, "--public-key", body),
    ]
    assert [answer.returncode for answer in answers] == [0, 0, *[1] * 12]
    for answer in answers:
        assert_no_secret(pair, answer.stdout, answer.stderr)
    for answer in answers[-3:]:
        assert "this is a private key" in answer.stderr


@contextmanager
def command_lines() -> Iterator[set[str]]:
    """The command lines of all processes that are seen while the block runs."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                except OSError:  # it has ended
                    continue

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc here")
def test_a_signed_run_leaves_no_secret(
    cli: Cli, bench: Workbench, published: Published, tmp_path: Path, tiny_bert: Path, pair: KeyPair
) -> None:
    """A run that publishes: nothing in arguments of processes, output, requests, logs, artifacts or the store."""
    folder = tmp_path / "run"
    shutil.copytree(published.folder, folder, symlinks=True)  # what was computed is not computed again
    shutil.rmtree(folder / "store")
    publish = {"store": "store", "sign_with": "env:MY_KEY", "trusted_keys": [str(pair.key)]}
    pipeline = bench.pipeline(folder, tiny_bert, publish=publish)
    with command_lines() as seen:
        answer = cli("--debug", "run", pipeline, MY_KEY=pair.private.read_text())
    assert answer.returncode == 0, answer.stderr + answer.stdout
    assert [line for line in seen if "retrainer.work publish" in line]  # it was looked at closely enough
    assert_no_secret(pair, answer.stdout, answer.stderr, *seen)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"run.json", "manifest.json", "0000000001.json"} <= {path.name for path in files}
    secrets = [secret.encode() for secret in secrets_of(pair)]
    assert not [path for path in files for secret in secrets if secret in path.read_bytes()]
    # And what it made is signed.
    shown = cli("show", folder / "store", MODEL, "--public-key", pair.public)
    assert shown.returncode == 0, shown.stderr
    assert f"{pair.key.key_id} (checked)" in shown.stdout


def test_the_signing_key_of_the_operators_does_not_reach_grandchildren(tmp_path: Path, pair: KeyPair) -> None:
    """A step's process is given the key in its environment; what it starts is not."""
    program = (
        "import os, subprocess\n"
        "from retrainer.store.signing_keys import load_signer\n"
        "print(load_signer('airflow:release').public)\n"
        "print(subprocess.run(['env'], capture_output=True, text=True, check=True).stdout)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "RETRAINER_SIGNING_KEY": pair.private.read_text()},
    )
    assert answer.stdout.startswith(str(pair.key))
    assert "RETRAINER_SIGNING_KEY" not in answer.stdout
    assert_no_secret(pair, answer.stdout)
