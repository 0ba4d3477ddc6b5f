"""``retrainer serve`` as a command: what it prints, what it refuses before it starts, models that are not there."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from retrainer.errors import RetrainerError
from retrainer.tasks import TASKS
from tests.server.process import ServerProcess

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Published, Workbench

MODEL = "tiny-status"
OneClearError = Callable[..., None]


def test_what_it_prints_can_be_run(published: Published, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, published.store, MODEL, "--drain-seconds", 0)
    try:
        server.wait_until_ready()
        assert server.output == f"serving {MODEL} at {server.url}\n"
        answer = subprocess.run(shlex.split(server.example), capture_output=True, text=True, check=True).stdout
        assert published.version in answer
        assert re.search(rf"INFO .*: model_ready model={MODEL} version={published.version}", server.log)
    finally:
        assert server.stop() == 0
    assert server.log.splitlines()[-1].endswith(": stopped")


@pytest.mark.parametrize("name", TASKS)
def test_the_example_is_what_such_a_model_reads(name: str) -> None:
    from retrainer.cli.serve_command import _example
    from retrainer.server.bodies import GenerateBody, PredictBody

    _, address, *_, body = shlex.split(_example("http://localhost:8000", "m@a", TASKS[name], token=True))
    kind, route = (GenerateBody, "generate") if TASKS[name].writes == "text" else (PredictBody, "predict")
    assert address == f"http://localhost:8000/v1/models/m@a:{route}"
    assert len(kind.parse(body.encode()).rows(name)) == 1


def test_channels_side_by_side(store: Path, bench: Workbench, tmp_path: Path) -> None:
    from retrainer.store import Store

    model = Store.open(str(store)).model(MODEL)
    champion = model.champion("production")
    assert champion is not None
    folder = tmp_path / "bundle"
    folder.mkdir()
    model.fetch(champion.version, folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    model.publish(folder, champion, channel="staging", actor="tester", reason="a try", decision=None, expected=None)
    newer = bench.variant(store, lambda folder: (folder / "README.md").unlink())
    server = ServerProcess(tmp_path, store, MODEL, f"{MODEL}@staging", "--drain-seconds", 0)
    try:
        server.wait_until_ready()
        assert server.predict(MODEL, text="open").json()["version"] == newer
        staged = server.predict(f"{MODEL}@staging", text="open").json()
        assert (staged["version"], staged["model"]) == (champion.version, f"{MODEL}@staging")
        shown = server.http.get(f"/v1/models/{MODEL}@staging").json()
        assert (shown["model"], shown["channel"]) == (MODEL, "staging")
    finally:
        assert server.stop() == 0


def test_a_model_that_is_published_later(store: Path, published: Published, tmp_path: Path) -> None:
    """Others serve meanwhile; readiness and the model itself say what is missing."""
    from retrainer.store import Store

    server = ServerProcess(tmp_path, store, MODEL, "later", "--drain-seconds", 0)
    try:
        server.wait_until(f'"{MODEL}":"ready"')
        answer = server.wait_until('"later":"retrying"')
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert server.predict(MODEL, text="open").status_code == 200
        refused = server.predict("later", text="open")
        assert (refused.status_code, refused.json()["type"]) == (503, "/docs#not-ready")
        assert int(refused.headers["retry-after"]) > 0
        assert "later" in server.http.get("/v1/models/later").json()["problem"]
        assert server.http.get("/healthz").status_code == 200
        assert 'retrainer_model_ready{model="later"} 0.0' in server.http.get("/metrics").text
        found = Store.open(str(store))
        champion = found.model(MODEL).champion("production")
        assert champion is not None
        folder = tmp_path / "bundle"
        folder.mkdir()
        found.model(MODEL).fetch(champion.version, folder)
        (folder / "manifest.json").unlink(missing_ok=True)
        found.model("later").publish(
            folder,
            champion.model_copy(update={"model": "later"}),
            channel="production",
            actor="tester",
            reason="the first",
            decision=None,
            expected=None,
        )
        server.wait_until_ready()
        assert server.predict("later", text="open").status_code == 200
    finally:
        assert server.stop() == 0


def test_a_store_that_cannot_be_reached_yet(published: Published, tmp_path: Path) -> None:
    """Also with --strict: waiting may help."""
    place = tmp_path / "store"
    server = ServerProcess(tmp_path, place, MODEL, "--strict", "--drain-seconds", 0)
    try:
        server.wait_until("retrying")
        place.symlink_to(published.store)
        server.wait_until_ready()
    finally:
        assert server.stop() == 0


def test_strict_ends_when_waiting_will_not_help(
    cli: Cli, published: Published, tmp_path: Path, one_clear_error: OneClearError
) -> None:
    options = ("--strict", "--port", 0, "--cache-dir", tmp_path)
    one_clear_error(cli("serve", published.store, MODEL, "nothing", *options), "nothing", "no champion")
    one_clear_error(cli("serve", published.store, MODEL, "--channel", "staging", *options), "staging", "production")


def test_a_port_that_is_taken(cli: Cli, published: Published, one_clear_error: OneClearError) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        answer = cli("serve", published.store, MODEL, "--port", port)
    one_clear_error(answer, f"127.0.0.1:{port}: cannot listen: Address already in use", "--port")
    assert "serving" not in answer.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"models": ["../up"]}, "'../up' cannot name a model"),
        ({"models": ["a@B"]}, "'B' cannot name a channel"),
        ({"models": ["a", "a"]}, "given twice: a"),
        ({"host": "192.0.2.1"}, "192.0.2.1:0: cannot listen"),
        ({"host": "no such host"}, "cannot listen"),
        ({"token_file": Path("missing")}, "missing: the tokens cannot be read"),
        ({"token_env": "NOT_SET_ANYWHERE"}, r"\$NOT_SET_ANYWHERE: there is no token"),
        ({"public_key": ["ed25519:short"]}, "not an Ed25519 public key"),
        ({"store": "gopher://x"}, "gopher"),
        ({"threads": 100_000}, "threads must be a whole number from 1 to 1,024"),
        ({"precision": "fp16"}, "precision must be one of auto, fp32, int8"),
    ],
)
def test_what_cannot_be_served(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    from retrainer.cli.serve_command import serve

    with pytest.raises(RetrainerError, match=words):
        serve(**{"store": str(tmp_path), "models": ["a"], "port": 0, **arguments})


def test_a_token_in_place_of_a_variable_is_not_repeated(
    cli: Cli, tmp_path: Path, one_clear_error: OneClearError
) -> None:
    token = "secret-0123456789abcdef"
    answer = cli("serve", tmp_path, "a", "--token-env", token)
    one_clear_error(answer, "not the name of an environment variable")
    assert token not in answer.stderr + answer.stdout


def test_the_extra_is_named_when_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import importlib.util

    from retrainer.cli.serve_command import serve
    from retrainer.errors import ResourceError

    found = importlib.util.find_spec

    def without_uvicorn(name: str, package: str | None = None) -> Any:
        return None if name == "uvicorn" else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_uvicorn)
    with pytest.raises(ResourceError, match=r"uvicorn not installed .*airflow-retrainer\[server\]"):
        serve(str(tmp_path), ["a"])


def test_the_client_loads_none_of_the_server() -> None:
    program = "import sys, retrainer.serve; print({'starlette', 'uvicorn', 'prometheus_client'} & set(sys.modules))"
    import sys

    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
    )


def test_all_interfaces_are_named_for_people(published: Published, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, published.store, MODEL, "--host", "0.0.0.0", "--drain-seconds", 0)
    try:
        assert server.url.startswith("http://localhost:")
        assert httpx.get(f"{server.url}/healthz").status_code == 200
    finally:
        assert server.stop() == 0
