"""What Airflow reads about the package, and what importing it costs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest

from retrainer.airflow.provider_info import get_provider_info
from tests.airflow.harness import REPOSITORY, airflow_environment

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "onnxruntime",
    "sklearn",
    "pandas",
    "boto3",
    "botocore",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "airflow.providers.amazon",
    "scipy",
    "numpy",
)


def test_the_provider_info_is_what_airflow_expects() -> None:
    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text())
    info = get_provider_info()
    jsonschema.validate(info, schema)
    for entry in info["operators"]:
        for module in entry["python-modules"]:
            importlib.import_module(module)
    for path in info["extra-links"]:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_airflow_finds_the_provider_and_its_settings(tmp_path: Path) -> None:
    installed = tmp_path / "airflow_retrainer-0.1.0.dist-info"  # as an installer leaves it
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: airflow-retrainer\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text(
        "[apache_airflow_provider]\nprovider_info=retrainer.airflow.provider_info:get_provider_info\n"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from airflow.providers_manager import ProvidersManager\n"
        "assert 'airflow-retrainer' in ProvidersManager().providers\n"
        "from retrainer.airflow import Settings\n"
        "one, two = Settings().resolved(), Settings(artifact_root='/given').resolved()\n"
        "print(one.artifact_root, two.artifact_root, one.trainer_python)"
    )
    environment = airflow_environment(tmp_path, AIRFLOW__RETRAINER__ARTIFACT_ROOT="/from/config")
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert answer.stdout.splitlines()[-1:] == ["/from/config /given None"], answer.stdout + answer.stderr


@pytest.mark.parametrize(
    "statement",
    [
        "import retrainer.airflow.provider_info",
        "import retrainer.airflow.operators",
        "import retrainer.airflow.connections",
        "import retrainer.airflow.dag_folder",
        "from retrainer.airflow import *",
        "import runpy; runpy.run_path('dags/retrain.py')",
        "import runpy; runpy.run_path('dags/operate_models.py')",
        "import runpy; runpy.run_path('dags/doctor.py')",
        "import retrainer.airflow.hooks",
        "import runpy; runpy.run_path('dags/compare_base_models.py')",
        "import runpy; runpy.run_path('plugins/retrainer_plugin.py')",
    ],
)
def test_nothing_heavy_is_imported(statement: str, tmp_path: Path) -> None:
    program = f"{statement}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env=airflow_environment(tmp_path),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.splitlines()[-1:] == ["[]"], answer.stdout + answer.stderr


def test_the_plugin_folder_holds_one_module_that_shadows_nothing() -> None:
    names = [path.stem for path in (REPOSITORY / "plugins").rglob("*.py")]
    assert names == ["retrainer_plugin"]
    assert names[0] not in sys.stdlib_module_names
