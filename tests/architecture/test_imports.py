"""Layers import downwards only, and the light ones load nothing heavy. Proved in fresh interpreters."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src" / "retrainer"

HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "onnxruntime",
    "sklearn",
    "scipy",
    "pandas",
    "boto3",
    "botocore",
    "sacrebleu",
    "rouge_score",
    "nltk",
    "peft",
}

# Who may import whom, from the bottom up. A package not listed in a row is out of its reach.
BASE = {
    "control_groups",
    "errors",
    "formats",
    "label_names",
    "precisions",
    "records",
    "regular_files",
    "tasks",
    "daemon_pool",
}
DATA = BASE | {"spec", "storage"}
JUDGED = DATA | {"artifacts", "gate", "sources", "store"}
CHAIN = JUDGED | {"chain", "report"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "records": {"errors"},
    "formats": set(),
    "label_names": {"errors"},
    "precisions": set(),
    "regular_files": set(),
    "control_groups": set(),
    "daemon_pool": set(),
    "tasks": {"errors", "records"},
    "spec": BASE,
    "storage": BASE,
    "sources": DATA,
    "artifacts": DATA,
    "store": BASE | {"storage"},
    "gate": BASE | {"artifacts", "spec"},
    "serve": BASE | {"storage", "store"},
    "server": BASE | {"serve", "storage", "store"},
    "report": JUDGED,
    "chain": CHAIN,
    "audit": CHAIN,
    "run": CHAIN,
    "console": CHAIN | {"audit"},
    "work": CHAIN | {"serve"},
    "trainers": {"work"},
    "doctor": CHAIN | {"run"},
    "airflow": CHAIN | {"audit", "console", "doctor", "run"},
    "cli": CHAIN | {"audit", "doctor", "run", "serve", "server"},
}

ATTRIBUTES = {"getattr", "setattr", "hasattr", "delattr"}
DOTTED = re.compile(r"[A-Za-z_]\w*([.:][A-Za-z_]\w*)+")

# Modules that are imported where nothing heavy may be loaded, and what else must not be there.
LIGHT = {
    "retrainer": {"pydantic"},
    "retrainer.tasks": {"numpy", "airflow"},
    "retrainer.spec": {"numpy", "airflow"},
    "retrainer.storage": {"numpy", "airflow"},
    "retrainer.store": {"numpy", "airflow"},
    "retrainer.artifacts.repository": {"numpy", "airflow"},
    "retrainer.gate": {"numpy", "airflow"},
    "retrainer.gate.receipt": {"numpy", "airflow"},
    "retrainer.report.decision": {"numpy", "airflow"},
    "retrainer.report.model_card": {"numpy", "airflow"},
    "retrainer.audit": {"numpy", "airflow"},
    "retrainer.chain": {"numpy", "airflow"},
    "retrainer.run.processes": {"numpy", "airflow"},
    "retrainer.work.distributed": {"numpy", "airflow"},
    "retrainer.run.agent": {"numpy", "airflow"},
    "retrainer.run.remote": {"numpy", "airflow"},
    "retrainer.cli": {"numpy", "airflow"},
    "retrainer.doctor": {"numpy", "airflow"},
    "retrainer.airflow": {"numpy"},
    "retrainer.airflow.operators": {"numpy"},
    "retrainer.airflow.dag_builder": {"numpy"},
    "retrainer.airflow.plugin": {"numpy", "fastapi"},
    "retrainer.console.app": {"numpy", "airflow", "matplotlib"},
    "retrainer.airflow.provider_info": {"numpy"},
    "retrainer.airflow.hooks": {"numpy"},
    "retrainer.airflow.doctor": {"numpy"},
}


def loaded_by(statement: str, **environment: str) -> set[str]:
    """Top-level names in ``sys.modules`` of a fresh interpreter after a statement."""
    program = f"import json, sys\n{statement}\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        cwd=REPOSITORY,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return {name.partition(".")[0] for name in json.loads(answer.stdout.splitlines()[-1])}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module: str, tmp_path: Path) -> None:
    loaded = loaded_by(f"import {module}", AIRFLOW_HOME=str(tmp_path))
    assert loaded & (HEAVY | LIGHT[module]) == set()


def test_the_client_needs_neither_torch_nor_transformers_nor_airflow() -> None:
    loaded = loaded_by("from retrainer.serve import Classifier")
    assert loaded & (HEAVY - {"onnxruntime"} | {"airflow", "pyarrow"}) == set()


@pytest.mark.parametrize("step", ["decide", "publish", "ingest", "evaluate"])
def test_steps_without_a_model_start_without_torch(step: str) -> None:
    assert loaded_by(f"import retrainer.work.{step}") & {"torch", "transformers", "airflow"} == set()


def packages() -> list[str]:
    return sorted(
        {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in SOURCE.rglob("*.py")} - {"__init__"}
    )


@pytest.mark.parametrize("package", packages())
def test_imports_point_downwards(package: str) -> None:
    """Every import of this package anywhere in the file, also inside functions and for types only."""
    files = [SOURCE / f"{package}.py"] if (SOURCE / f"{package}.py").is_file() else (SOURCE / package).rglob("*.py")
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [node.module] if node.module != "retrainer" else [f"retrainer.{a.name}" for a in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                parts = name.split(".")
                if parts[0] == "retrainer" and len(parts) > 1 and not parts[1].startswith("__"):
                    assert parts[1] in ALLOWED[package] | {package}, f"{file.relative_to(SOURCE)}:{node.lineno}: {name}"
                if parts[0] in {"torch", "transformers"}:
                    assert package == "work", f"{file.relative_to(SOURCE)}:{node.lineno}: {name}"
                if parts[0] == "airflow":
                    assert package == "airflow", f"{file.relative_to(SOURCE)}:{node.lineno}: {name}"


def names_in(node: ast.AST) -> list[str]:
    """What a part of a program names: by an import, by an attribute or a dotted name in a string."""
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ATTRIBUTES:
        return [arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and DOTTED.fullmatch(node.value):
        return [node.value]
    return []


def private_names(code: str) -> list[str]:
    return [
        f"{name} (line {node.lineno})"  # type: ignore[attr-defined]
        for node in ast.walk(ast.parse(code))
        for name in names_in(node)
        if any(part.startswith("_") and not part.startswith("__") for part in re.split("[.:]", name))
    ]


def test_only_public_names_of_other_packages() -> None:
    """Ruff's SLF001 sees ``value._name``; this sees what is imported, and what a string names."""
    found = {str(file.relative_to(SOURCE)): private_names(file.read_text()) for file in SOURCE.rglob("*.py")}
    assert not {file: names for file, names in found.items() if names}


@pytest.mark.parametrize(
    "code",
    [
        "from threading import _register_atexit",
        "import concurrent.futures._base",
        "getattr(threading, '_register_atexit', None)(stop)",
        "pkgutil.resolve_name('concurrent.futures.thread:_threads_queues')",
        "setattr(module, '_name', 1)",
    ],
)
def test_a_private_name_is_found(code: str) -> None:
    assert private_names(code)
