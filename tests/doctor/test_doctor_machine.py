"""What is said of interpreters, GPUs, disks, memory and limits, with what a host has in place of them."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retrainer import __version__
from retrainer.doctor import gpus, interpreter, machine
from retrainer.doctor.deployment import Deployment
from retrainer.doctor.findings import Finding
from retrainer.doctor.interpreter import Cuda, Interpreter
from retrainer.errors import ResourceError
from retrainer.run.devices import lease
from tests.airflow.harness import Project, small_project

Host = Callable[..., None]


def well(**changes: object) -> Interpreter:
    """An interpreter that has everything."""
    known = {
        "python": "3.12.1",
        "executable": "/opt/train/bin/python",
        "retrainer": __version__,
        "packages": {"torch": "2.9.0", "transformers": "5.20.0", "onnxruntime": "1.22.0"},
        "failed": {},
        "cuda": Cuda(built_for=None, devices=()),
        "unmet": (),
    }
    return Interpreter(**{**known, **changes})


def deployment(said: Interpreter | None = None, *projects: Project) -> Deployment:
    made = Deployment(files=tuple(project.pipeline_file for project in projects), python="/opt/train/bin/python")
    if said is not None:
        made.__dict__["interpreter"] = said  # a cached property
    return made


def test_this_interpreter() -> None:
    found = list(interpreter.look(Deployment(python=sys.executable)))
    assert [finding.state for finding in found] == ["ok"] * 3
    assert "torch" in found[-1].text


@pytest.mark.parametrize(
    ("said", "what", "text"),
    [
        (well(python="3.9.2"), "/opt/train/bin/python", "is Python 3.9.2"),
        (well(retrainer=None), "airflow-retrainer", "is not installed there"),
        (well(retrainer="9.9"), "airflow-retrainer", f"is 9.9 there and {__version__} here"),
        (well(failed={"torch": "OSError: libcudart.so"}), "torch", "cannot be used: OSError: libcudart.so"),
        (well(unmet=({"needed": "peft>=0.18", "found": None},)), "peft>=0.18", "is not installed"),
        (well(unmet=({"needed": "torch>=2.9", "found": "2.1"},)), "torch>=2.9", "2.1 is installed"),
    ],
)
def test_what_an_interpreter_lacks(said: Interpreter, what: str, text: str) -> None:
    (broken,) = (finding for finding in interpreter.look(deployment(said)) if finding.state == "broken")
    assert (broken.what, text in broken.text) == (what, True), broken
    assert broken.hint


@pytest.mark.parametrize("says", ["exit 3", "echo no JSON", None])
def test_what_is_no_interpreter(tmp_path: Path, says: str | None) -> None:
    program = tmp_path / "python"
    if says:
        program.write_text(f"#!/bin/sh\n{says}\n")
        program.chmod(0o755)
    with pytest.raises(ResourceError, match="python") as caught:
        list(interpreter.look(Deployment(python=str(program))))
    assert "trainer_python" in str(caught.value.hint)


def test_an_interpreter_without_this_package_is_asked_all_the_same(tmp_path: Path) -> None:
    """One that sees neither what is installed here nor the package."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nunset PYTHONPATH; exec {sys.executable} -S -E "$@"\n')
    program.chmod(0o755)
    found = list(interpreter.look(Deployment(python=str(program))))
    assert {finding.what: finding.state for finding in found}["airflow-retrainer"] == "broken"
    assert found[-1].state == "warning"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host whose ``nvidia-smi`` lists devices."""

    def make(devices: int, parts: int | None = None) -> None:
        binary = tmp_path / "bin" / "nvidia-smi"
        binary.parent.mkdir()
        mode = "Disabled" if parts is None else "Enabled"
        listed = "".join(f"{index}, GPU-{index}, {mode}\\n" for index in range(devices))
        tree = "GPU 0: NVIDIA H100 (UUID: GPU-0)\\n" + "".join(
            f"  MIG 1g.10gb     Device  {part}: (UUID: MIG-{part})\\n" for part in range(parts or 0)
        )
        binary.write_text(f'#!/bin/sh\ncase "$1" in *uuid*) printf "{listed}";; *) printf "{tree}";; esac\n')
        binary.chmod(0o755)
        monkeypatch.setenv("PATH", f"{binary.parent}:{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    return make


def wanting(folder: Path, count: int) -> Project:
    project = small_project(folder, folder, "news")
    project.write(resources={"gpus": count})
    return project


def h100(count: int) -> Interpreter:
    cuda = {"built_for": "13.0", "devices": [{"name": "NVIDIA H100", "bytes": 80_000_000_000}] * count}
    return well(cuda=Cuda.from_content(cuda, where="test"))


def by_what(found: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in found}


def test_gpus_in_order_and_leased(host: Host, tmp_path: Path) -> None:
    host(2)
    with lease(1, holder="retrain__news") as held:
        found = by_what(list(gpus.look(deployment(h100(2), wanting(tmp_path, 2)))))
        assert held.devices == ("GPU-0",)
    assert {finding.state for finding in found.values()} == {"ok"}
    assert "sees 2 of 2 GPUs: NVIDIA H100 (80 GB), NVIDIA H100 (80 GB)" in found["torch"].text
    assert found["leases"].text == "1 of 2 GPUs are leased now, by retrain__news"
    assert "0 of 2" in by_what(list(gpus.look(deployment(h100(2)))))["leases"].text


@pytest.mark.parametrize(
    ("devices", "wanted", "seen", "what", "state", "text"),
    [
        (1, 2, 1, "this host", "broken", "1 GPU, and a pipeline wants 2"),
        (1, 1, 0, "torch", "broken", "sees 0 of 1 GPUs"),
        (1, 1, None, "torch", "broken", "was built without CUDA"),
        (0, 1, 0, "this host", "warning", "training runs on the CPU"),
        (0, 0, 0, "this host", "ok", "no pipeline wants one"),
    ],
)
def test_gpus_out_of_order(
    host: Host, tmp_path: Path, devices: int, wanted: int, seen: int | None, what: str, state: str, text: str
) -> None:
    host(devices)
    said = well() if seen is None else h100(seen)
    found = by_what(list(gpus.look(deployment(said, wanting(tmp_path, wanted)))))
    assert (found[what].state, text in found[what].text) == (state, True), found[what]
    assert found[what].hint or state == "ok"


def test_parts_of_a_gpu(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host(1, parts=2)
    found = by_what(list(gpus.look(deployment(h100(1), wanting(tmp_path, 1)))))
    assert (found["MIG"].state, "into 2 parts" in found["MIG"].text) == ("ok", True)
    assert "0 of 2 GPUs are leased" in found["leases"].text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    assert "0 of 1 GPUs" in by_what(list(gpus.look(deployment(h100(1)))))["leases"].text
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7")
    found = by_what(list(gpus.look(deployment(h100(1), wanting(tmp_path, 1)))))
    assert (found["this host"].state, "CUDA_VISIBLE_DEVICES=MIG-7" in found["this host"].text) == ("broken", True)


def test_a_divided_gpu_without_parts(host: Host, tmp_path: Path) -> None:
    host(1, parts=0)
    found = by_what(list(gpus.look(deployment(h100(1), wanting(tmp_path, 1)))))
    assert (found["MIG"].state, "GPU 0 has none" in found["MIG"].text) == ("warning", True)


def test_a_driver_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    host(1)
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text("#!/bin/sh\necho no driver >&2\nexit 9\n")
    (finding,) = gpus.look(deployment(h100(1), wanting(tmp_path, 1)))
    assert (finding.state, "ended with 9: no driver" in finding.text) == ("broken", True)


@pytest.mark.parametrize(("free", "state"), [(20e9, "ok"), (2e9, "warning"), (1e6, "broken")])
def test_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    monkeypatch.setenv("RETRAINER_CACHE", str(tmp_path / "absent" / "cache"))
    found = list(machine.look_at_disks(Deployment(artifact_root=str(tmp_path))))
    assert {finding.state for finding in found} == {state}
    assert any(f"artifact root {tmp_path}" in finding.what for finding in found)
    assert not (tmp_path / "absent").exists()


def test_space_and_memory_for_the_largest_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checkpoints that are kept and one that is written, of three times the weights; four times in memory."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    with (base / "model.safetensors").open("wb") as weights:
        weights.truncate(10**9)  # of no blocks on the disk
    project = small_project(tmp_path, base, "large")
    usage = shutil.disk_usage(tmp_path)._replace(free=8 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    disks = list(machine.look_at_disks(Deployment((project.pipeline_file,), artifact_root=str(tmp_path / "root"))))
    assert any(finding.state == "broken" and "take 9.0 GB" in finding.text for finding in disks)
    for free, state in ((5 * 10**9, "ok"), (3 * 10**9, "broken")):
        monkeypatch.setattr(machine, "available_bytes", lambda free=free: free)
        (memory,) = machine.look_at_memory(deployment(well(), project))
        assert (memory.state, "about 4.0 GB" in memory.text) == (state, True)
    project.write(resources={"gpus": 1})
    (memory,) = machine.look_at_memory(deployment(h100(1), project))
    assert memory.state == "ok"


@pytest.mark.parametrize(("files", "state"), [(256, "warning"), (4096, "ok"), (resource.RLIM_INFINITY, "ok")])
def test_open_files(monkeypatch: pytest.MonkeyPatch, files: int, state: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (files, 4096))
    (finding,) = machine.look_at_limits(Deployment())
    assert finding.state == state
