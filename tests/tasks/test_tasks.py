"""A task is one definition: nothing else asks which task it is, its code is where it says, a new one is one entry."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retrainer import tasks
from retrainer.chain import INGEST, RunContext, StepRequest
from retrainer.cli import app
from retrainer.errors import IntegrityError, PipelineError
from retrainer.formats import FORMATS
from retrainer.precisions import PRECISIONS
from retrainer.serve.loading import open_predictor
from retrainer.spec import json_schema, parse_pipeline
from retrainer.tasks import TASKS, Parts, TaskDefinition, known_task, trainable_task
from retrainer.work.reporter import Reporter
from retrainer.work.train.loading import load_base
from tests.export import tiny

SOURCE = Path(tasks.__file__).parents[1]
CONTEXT = RunContext(run_id="r", actor="a", started_at="2026-11-27T00:00:00+00:00", root="/artifacts")
TRAINABLE = [task for task in TASKS.values() if task.parts is not None]


def raw(**changes: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "dataset": {"train": "rows.csv"},
        "model": {"base": "base"},
        "publish": {"store": "/models"},
        **changes,
    }


@pytest.mark.parametrize("task", TRAINABLE, ids=lambda task: task.name)
@pytest.mark.parametrize("part", [field.name for field in fields(Parts)])
def test_every_part_is_where_the_definition_says(task: TaskDefinition, part: str) -> None:
    assert callable(task.part(part))


@pytest.mark.parametrize("name", TASKS)
def test_the_pipeline_file_knows_each_task_and_its_columns(name: str) -> None:
    task = TASKS[name]
    columns = {"text": ["a", "b"]} if task.texts == 2 else {}
    dataset = parse_pipeline(raw(task=name, dataset={"train": "rows.csv", **columns})).dataset
    assert len(dataset.text_columns) == task.texts
    assert dataset.label == task.columns.get("label", "label")
    assert json_schema()["properties"]["task"]["enum"] == list(TASKS)


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(PipelineError, match=r"is not one of .*did you mean 'text-classification'"):
        parse_pipeline(raw(task="text-clasification"))


def test_check_and_the_first_step_refuse_with_the_same_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "text-generation", replace(TASKS["text-generation"], parts=None))
    file = tmp_path / "pipeline.yaml"
    (tmp_path / "rows.csv").write_text("model_input,model_output\na,b\n")
    content = raw(task="text-generation", publish={"store": str(tmp_path / "models")})
    file.write_text(json.dumps(content))
    with pytest.raises(PipelineError) as caught:
        INGEST.plan(parse_pipeline(content), context=CONTEXT)
    said = CliRunner().invoke(app, ["check", str(file)]).output
    assert caught.value.message == "task 'text-generation' cannot be trained by this version"
    assert caught.value.message in said
    able = [task.name for task in TASKS.values() if task.name != "text-generation"]
    assert caught.value.hint == f"use {' or '.join(able)}"
    assert caught.value.hint in " ".join(said.split())


def test_a_bundle_of_a_task_that_is_not_known_is_refused(bundle: Path, tmp_path: Path) -> None:
    for name in ("paint-by-numbers", "text-shredding"):
        folder = shutil.copytree(bundle, tmp_path / name)
        info = json.loads((folder / "bundle.json").read_text())
        (folder / "bundle.json").write_text(json.dumps(info | {"task": name}))
        with pytest.raises(IntegrityError, match=f"its task is '{name}', which this version does not know"):
            open_predictor(folder)


def test_code_that_loads_a_model_says_what_a_client_needs() -> None:
    code = TASKS["text-classification"].loading_code("s3://models", "news")
    assert 'from_store("s3://models", "news")\n' in code
    code = TASKS["text-pair-classification"].loading_code(
        's3://"odd"', "news", channel="staging", public_keys=("ed25519:one", "ed25519:two")
    )
    assert 'channel="staging", public_keys=["ed25519:one", "ed25519:two"]' in code
    assert 'classifier(("first text", "second text"))' in code
    compile(code, "code", "exec")


def test_no_other_code_names_a_task() -> None:
    """So none can ask which task it is."""
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        if path.parent.name != "tasks"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in TASKS
    ]
    found += [str(path) for path in SOURCE.rglob("*.jinja") if any(f'"{name}"' in path.read_text() for name in TASKS)]
    assert found == []


def compared_values(node: ast.AST) -> list[object]:
    """The constants that a comparison, also with each of several, or a ``case`` compares with."""
    sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
    sides += [node.value] if isinstance(node, ast.MatchValue) else []
    sides += [each for side in sides if isinstance(side, ast.Tuple | ast.List | ast.Set) for each in side.elts]
    return [side.value for side in sides if isinstance(side, ast.Constant)]


def test_no_code_compares_with_the_name_of_a_format_or_a_precision() -> None:
    names = {*FORMATS, *PRECISIONS}
    compared = [
        f"{path.relative_to(SOURCE)}: {value}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for value in compared_values(node)
        if value in names
    ]
    assert compared == []


def toy_head(labels: tuple[str, ...]) -> dict[str, Any]:
    """The configuration of a head with one number for each label, each judged by itself."""
    return {"num_labels": len(labels), "problem_type": "multi_label_classification"}


class ToyPredictor:
    def __init__(self, folder: Path, *, precision: str, threads: int | None, brake: object) -> None:
        self.folder = folder


ENTERED = """
from retrainer.tasks import TASKS, TaskDefinition
TASKS["toy"] = TaskDefinition(name="toy", texts=2, columns={"label": "tags"}, hub_tag="toy", model="toy")
from retrainer.spec import json_schema, parse_pipeline
raw = {"name": "toy", "task": "toy", "dataset": {"train": "rows.csv", "text": ["a", "b"]}, "metrics": ["x"],
       "model": {"base": "base"}, "publish": {"store": "/models"}}
assert parse_pipeline(raw).dataset.label == "tags"
assert "toy" in json_schema()["properties"]["task"]["enum"]
"""


def test_the_pipeline_file_knows_a_new_task_by_its_entry() -> None:
    answer = subprocess.run([sys.executable, "-c", ENTERED], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_a_new_task_is_one_entry(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy task is planned, given its own head and served by its own predictor."""
    single = TASKS["text-classification"]
    assert single.parts is not None
    parts = {field.name: getattr(single.parts, field.name) for field in fields(Parts)}
    toy = TaskDefinition(
        name="toy-tagging",
        columns={"label": "tags"},
        metrics="classification",
        hub_tag="text-classification",
        model="tagger",
        parts=Parts(**parts | {"head": f"{__name__}:toy_head", "predictor": f"{__name__}:ToyPredictor"}),
    )
    monkeypatch.setitem(TASKS, toy.name, toy)

    (tmp_path / "rows.csv").write_text("text,tags\na,b\n")
    base = tiny.save_checkpoint(tmp_path / "base")
    pipeline = parse_pipeline(raw(model={"base": str(base), "max_length": 16}), base_folder=tmp_path)
    pipeline = pipeline.model_copy(update={"task": toy.name})
    request = INGEST.plan(pipeline, context=CONTEXT)
    assert isinstance(request, StepRequest)
    assert request.identity["task"] == toy.name
    loaded = load_base(pipeline, ("one", "two", "three"), Reporter(tmp_path / "messages"))
    assert loaded.model.config.problem_type == "multi_label_classification"

    folder = shutil.copytree(bundle, tmp_path / "bundle")
    info = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(info | {"task": toy.name}))
    assert isinstance(open_predictor(folder), ToyPredictor)
    assert known_task(toy.name, where="bundle") is trainable_task(toy.name, where="toy") is toy
