"""Several base models from rows to a published model: trained once, by the command line's runner and by Airflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.selection import Selection
from retrainer.chain import SELECT, Stage, StepRef
from retrainer.chain.messages import Message
from retrainer.run.pipeline_run import Observer, RunResult, new_context, run_pipeline
from retrainer.run.report import make_report
from retrainer.sources.base_models import short_name, short_names
from retrainer.spec import load_pipeline
from retrainer.store import Store
from tests.airflow.harness import DagRunResult, Project, small_project

RunDag = Callable[..., DagRunResult]


class Watching(Observer):
    """Remembers what was said about which base model."""

    def __init__(self) -> None:
        self.finishes: list[tuple[str, str | None, bool]] = []
        self.talked: set[tuple[str, str | None]] = set()

    def message(self, stage: Stage, message: Message) -> None:
        self.talked.add((stage.step.name, stage.candidate))

    def finished(self, stage: Stage, ref: StepRef) -> None:
        self.finishes.append((ref.step, stage.candidate, ref.reused))


@pytest.fixture(scope="module")
def narrow_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another random BERT, a third as wide, that learns next to nothing."""
    from transformers import AutoTokenizer, BertConfig, BertModel, set_seed

    folder = tmp_path_factory.mktemp("models") / "narrow"
    config = BertConfig.from_pretrained(tiny_bert, hidden_size=8, num_hidden_layers=1, intermediate_size=8)
    set_seed(1)
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, narrow_bert: Path) -> Project:
    project = small_project(tmp_path_factory.mktemp("candidates"), tiny_bert, "two-models")
    project.write(model__base=[str(narrow_bert), str(tiny_bert)], training__num_train_epochs=1)
    return project


@pytest.fixture(scope="module")
def first(project: Project) -> tuple[RunResult, Watching]:
    """The command line's run, which trains both."""
    return run(project)


def run(project: Project) -> tuple[RunResult, Watching]:
    watching = Watching()
    pipeline = load_pipeline(project.pipeline_file)
    result = run_pipeline(pipeline, context=new_context(str(project.artifacts)), observer=watching)
    return result, watching


def test_the_best_of_both_is_published(
    first: tuple[RunResult, Watching], project: Project, tiny_bert: Path, narrow_bert: Path
) -> None:
    result, watching = first
    assert result.outcome == "promoted"
    names = list(short_names([str(narrow_bert), str(tiny_bert)]).values())
    built = [(step, name) for name in names for step in ("train", "export")]
    after = [(step, None) for step in ("select", "evaluate", "decide", "publish")]
    assert [(step, name) for step, name, _ in watching.finishes] == [("ingest", None), *built, *after]
    assert {("train", name) for name in names} <= watching.talked

    artifacts = Artifacts(project.artifacts)
    folder = artifacts.fetch("select", result.steps["select"].digest)
    selection = Selection.from_json((folder / "selection.json").read_bytes(), where="selection.json")
    assert {one.base for one in selection.candidates} == {str(narrow_bert), str(tiny_bert)}
    by_base = {one.base: one for one in selection.candidates}
    assert by_base[str(narrow_bert)].size_mb < by_base[str(tiny_bert)].size_mb
    assert by_base[str(narrow_bert)].parameters is not None
    assert all(one.peak_memory_mb and one.latency_ms.p50 for one in selection.candidates)

    # Chosen on the validation rows, and on no test row.
    snapshot = artifacts.fetch("ingest", result.steps["ingest"].digest)
    validation, test = (
        set(pq.read_table(snapshot / f"{split}.parquet").column("row_id").to_pylist())
        for split in ("validation", "test")
    )
    files = sorted((folder / "predictions").glob("*.parquet"))
    assert [file.stem for file in files] == sorted(names)
    for file in files:
        rows = set(pq.read_table(file).column("row_id").to_pylist())
        assert rows == validation
        assert not rows & test

    # What is live is the chosen bundle, and its manifest says from which base model it came.
    chosen = result.candidates[selection.chosen]
    assert result.steps["export"] == chosen["export"]
    champion = Store.open(str(project.store)).model("two-models").champion("production")
    assert champion is not None
    assert champion.base_model == selection.chosen
    assert champion.artifacts["export"] == chosen["export"].digest
    assert champion.artifacts["train"] == chosen["train"].digest
    assert champion.artifacts["select"] == result.steps["select"].digest

    report = make_report(load_pipeline(project.pipeline_file), result.steps, folder=result.folder).text()
    assert "same answers" in report
    assert selection.why in report
    logs = {log.name for log in (Path(result.folder) / "logs").iterdir()}
    assert {f"train_{name}.log" for name in names} <= logs


@pytest.mark.usefixtures("first")
def test_a_second_run_trains_nothing_and_says_unchanged(project: Project) -> None:
    result, watching = run(project)
    assert result.outcome == "unchanged"
    assert all(reused for _, _, reused in watching.finishes)
    assert [step for step, _, _ in watching.finishes][-3:] == ["select", "evaluate", "decide"]


def test_airflow_maps_training_and_export_over_the_base_models(
    first: tuple[RunResult, Watching], project: Project, run_dag: RunDag, tiny_bert: Path, narrow_bert: Path
) -> None:
    """A pipeline of another name, store and pool on the artifacts of the run above: what it shares is not computed
    twice and takes no slot, and what is said of the other model is not taken for its own."""
    before = {"name": project.content["name"], "publish": dict(project.content["publish"]), "resources": {}}
    store = project.folder / "another_store"
    project.write(name="another", publish={"store": str(store)}, resources={"pool": "trainings"})
    try:
        result = run_dag(project)
    finally:
        project.pipeline_file.unlink()
        project.write(**before)

    assert result.state == "success", result.output
    names = list(short_names([str(narrow_bert), str(tiny_bert)]).values())
    assert [(task, name, state) for task, name, state in result.mapped if task == "export"] == [
        ("export", name, "success") for name in names
    ]
    assert [(task, state) for task, _, state in result.mapped if task == "train"] == [("train", "skipped")] * 2
    mapped = [StepRef.model_validate(result.xcoms[f"export[{index}]"]["return_value"]) for index in (0, 1)]
    assert [ref.base for ref in mapped] == [str(narrow_bert), str(tiny_bert)]
    assert all(ref.reused for ref in mapped)
    (run_folder,) = (project.artifacts / "runs").glob("*_another_2-base-models")
    assert {f"train_{name}" for name in names} <= {note.stem for note in (run_folder / "steps").iterdir()}
    select = StepRef.model_validate(result.xcoms["select"]["return_value"])
    assert select.digest == first[0].steps["select"].digest
    assert "| same answers |" in result.xcoms["select"]["report"]
    chosen = short_name(SELECT.output_of(select).selection.chosen)
    assert f"- {chosen} is chosen by accuracy" in result.xcoms["select"]["report"]
    assert result.states()["publish"] == "success"
    assert [event["extra"].get("moved") for event in result.events] == [None, True]
    champion = Store.open(str(store)).model("another").champion("production")
    assert champion is not None
    card = (store / "another" / "versions" / champion.version / "README.md").read_text()
    assert f'from_store("{store}", "another")' in card


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("resources", [pytest.param({}, marks=pytest.mark.long), {"pool": "trainings"}])
def test_a_run_for_one_base_model_alone(
    project: Project, run_dag: RunDag, tiny_bert: Path, narrow_bert: Path, resources: dict[str, str]
) -> None:
    """On the artifacts of the run above: what was trained is found, beside a pool by ``ingest``."""
    before = {"name": project.content["name"], "publish": dict(project.content["publish"]), "resources": {}}
    name = f"alone-{len(resources)}"  # Airflow knows an asset of one name at one address only
    project.write(name=name, publish={"store": str(project.folder / name)}, resources=resources)
    try:
        result = run_dag(project, params={"base_model": str(narrow_bert)})
        # Airflow's form knows the list, too: such a run does not begin.
        with pytest.raises(AssertionError, match="Invalid input for param base_model"):
            run_dag(project, params={"base_model": "some/other"})
    finally:
        project.pipeline_file.unlink()
        project.write(**before)

    assert result.state == "success", result.output
    trained = "skipped" if resources else "success"
    assert [(task, state) for task, _, state in result.mapped] == [
        ("train", trained),
        ("export", "success"),
        ("train", "skipped"),
        ("export", "skipped"),
    ]
    assert result.xcoms["export[0]"]["return_value"]["reused"] is True
    # Nothing was chosen: what was exported goes on.
    export = StepRef.model_validate(result.xcoms["export[0]"]["return_value"])
    assert StepRef.model_validate(result.xcoms["select"]["return_value"]).digest == export.digest
    assert result.states()["publish"] == "success"
    assert export.changes.lines()[0].startswith(f"model.base {narrow_bert} instead of the best of ")
    run_folder = max((project.artifacts / "runs").glob(f"*_{name}_{short_name(str(narrow_bert))}*"))
    assert "export" in {note.stem for note in (run_folder / "steps").iterdir()}


@pytest.mark.usefixtures("first")
def test_comparing_base_models_by_hand_publishes_nothing(
    project: Project, run_dag: RunDag, tiny_bert: Path, narrow_bert: Path
) -> None:
    """The DAG of ``dags/``: the base models come from the run's params, the other way round than in the file."""
    bases = [str(tiny_bert), str(narrow_bert)]
    params = {"pipeline": project.pipeline_file.name, "base_models": bases}
    result = run_dag(project, dag_id="compare_base_models", params=params)

    assert result.state == "success", result.output
    assert set(result.states()) == {"read_pipeline", "base_models", "ingest", "train", "export", "select", "show"}
    assert [result.xcoms[f"export[{index}]"]["return_value"]["base"] for index in (0, 1)] == bases
    assert all(result.xcoms[f"train[{index}]"]["return_value"]["reused"] for index in (0, 1))
    assert result.xcoms["select"]["return_value"]["reused"] is True  # the order of the base models does not matter
    assert result.xcoms["show"]["return_value"] == result.xcoms["select"]["report"]
    assert result.events == []
