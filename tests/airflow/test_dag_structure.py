"""DAGs as they are built: order, pools, schedules, descriptions, and what becomes of a wrong pipeline file."""

from __future__ import annotations

import runpy
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.models.trigger import Trigger
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Asset, AssetAny, AssetOrTimeSchedule, CronTriggerTimetable
from airflow.serialization.encoders import encode_trigger
from airflow.serialization.serialized_objects import DagSerialization
from airflow.triggers.base import BaseEventTrigger

from retrainer.airflow import (
    FineTuneOperator,
    PublishModelOperator,
    Settings,
    build_dags,
    data_assets,
    model_asset,
    operate_dag,
    retrain_dag,
)
from retrainer.airflow.assets import DECISIONS, MOVED_MODELS
from retrainer.airflow.new_data import NewDataTrigger
from retrainer.errors import PipelineError
from retrainer.spec import Pipeline, load_pipeline, parse_pipeline
from tests.airflow.harness import REPOSITORY

CONTENT: dict[str, Any] = {
    "name": "ag-news.v2",
    "dataset": {"train": "/data/news/*.parquet"},
    "model": {"base": "distilbert-base-uncased"},
    "gate": {"floors": {"accuracy": 0.85}},
    "publish": {"store": "s3://models"},
    "resources": {"gpus": 2, "pool": "big_gpus"},
}
ORDER = ["ingest", "train", "export", "evaluate", "gate", "publish"]


def with_(**changes: Any) -> dict[str, Any]:
    return {**CONTENT, **changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(with_(name=name)))
    return tmp_path


def test_the_steps_follow_each_other() -> None:
    dag = retrain_dag(CONTENT)

    assert dag.dag_id == "retrain__ag_news_v2"
    assert [task.task_id for task in dag.topological_sort()] == ORDER
    # Every dependency is the upstream task's reference; nobody had to draw it.
    assert dag.get_task("gate").upstream_task_ids == {"evaluate"}
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert dag.schedule is None
    assert dag.tags == {"retrainer", "text-classification"}
    assert "distilbert-base-uncased" in (dag.doc_md or "")
    assert {task.retries for task in dag.tasks} == {2}


def test_several_base_models_are_mapped_tasks_with_a_choice_behind_them() -> None:
    bases = ["distilbert-base-uncased", "roberta-base", "org/other"]
    dag = retrain_dag(with_(model={"base": bases, "choose_by": "f1"}))

    assert [task.task_id for task in dag.topological_sort()] == [*ORDER[:3], "select", *ORDER[3:]]
    train, export = dag.get_task("train"), dag.get_task("export")
    assert (train.is_mapped, export.is_mapped) == (True, True)
    assert dag.get_task("select").upstream_task_ids == {"export"}
    assert dag.get_task("evaluate").upstream_task_ids == {"select"}
    assert (train.pool, train.pool_slots) == ("big_gpus", 2)
    assert export.pool == "default_pool"
    assert {task.retries for task in dag.tasks} == {2}
    for words in (*bases, "f1 on the validation rows"):
        assert words in (dag.doc_md or "")
    # Airflow's own copy of the DAG, which the scheduler works on, still knows how many there are.
    copy = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert copy.get_task("train").expand_input.value["base"] == bases


def test_dag_arguments_can_be_replaced() -> None:
    dag = retrain_dag(CONTENT, dag_id="mine", default_args={"retries": 5}, tags=["x"])

    assert (dag.dag_id, dag.tags) == ("mine", {"x"})
    assert {(task.retries, task.retry_delay) for task in dag.tasks} == {(5, timedelta(minutes=1))}


def test_training_takes_a_slot_of_the_pool_for_each_gpu() -> None:
    train = retrain_dag(CONTENT).get_task("train")
    assert (train.pool, train.pool_slots) == ("big_gpus", 2)

    without_gpus: list[tuple[dict[str, Any], str]] = [
        ({"gpus": 0}, "default_pool"),
        ({"gpus": 0, "pool": "trainings"}, "trainings"),
    ]
    for resources, pool in without_gpus:
        on_cpu = retrain_dag(with_(resources=resources)).get_task("train")
        assert (on_cpu.pool, on_cpu.pool_slots) == (pool, 1)

    by_hand = FineTuneOperator(task_id="train", pipeline=parse_pipeline(CONTENT), snapshot={})
    assert (by_hand.pool, by_hand.pool_slots) == ("big_gpus", 2)

    # A training that is done waits for no slot: what comes after it runs then, too.
    skipped = [retrain_dag(with_(resources=resources)) for resources in ({"gpus": 1}, {"gpus": 0})]
    assert [dag.get_task("ingest").training for dag in skipped] == ["train", None]
    assert [dag.get_task("export").trigger_rule.value for dag in skipped] == ["none_failed", "all_success"]

    others = {task.pool for task in retrain_dag(CONTENT).tasks if task.task_id != "train"}
    assert others == {"default_pool"}


def test_only_publish_has_an_asset_as_outlet() -> None:
    dag = retrain_dag(CONTENT)

    outlets = {task.task_id: list(task.outlets) for task in dag.tasks if task.outlets}
    asset = Asset(name="retrainer/ag-news.v2", uri="s3://models/ag-news.v2/channels/production", group="model")
    # Airflow makes an event of an asset each time, of an alias only when it is told so.
    assert outlets == {"gate": [DECISIONS], "publish": [asset, MOVED_MODELS]}
    by_hand = PublishModelOperator(task_id="publish", pipeline=parse_pipeline(CONTENT), decision={})
    assert by_hand.outlets == [asset, MOVED_MODELS]
    # What is told of when the task runs, and not before.
    from_a_path = PublishModelOperator(task_id="publish", pipeline="/pipelines/news.yaml", decision={})
    assert from_a_path.outlets == [MOVED_MODELS]


@pytest.mark.parametrize("store", ["/var/models", "file:///var/models", "file:///var/my models"])
def test_the_asset_of_a_folder_store_has_a_valid_uri(store: str) -> None:
    asset = model_asset(parse_pipeline(with_(publish={"store": store})))
    assert asset.uri.startswith("file:///var/m")
    assert " " not in asset.uri


def test_approval_stands_between_gate_and_publish() -> None:
    dag = retrain_dag(with_(publish={"store": "s3://models", "approval": "required"}))

    assert [task.task_id for task in dag.topological_sort()] == [*ORDER[:5], "approval", "publish"]
    approval = dag.get_task("approval")
    assert isinstance(approval, ApprovalOperator)
    assert approval.upstream_task_ids == {"gate"}
    assert approval.response_timeout is approval.assigned_users is approval.defaults is None


def test_cron_and_new_data_schedule() -> None:
    assert retrain_dag(with_(schedule={"cron": "@daily"})).schedule == "@daily"

    assert isinstance(
        retrain_dag(with_(schedule={"cron": "@daily", "timezone": "Asia/Tokyo"})).schedule, CronTriggerTimetable
    )

    on_data = retrain_dag(with_(schedule={"on_new_data": True})).schedule
    assert isinstance(on_data, AssetAny)
    assert [asset.uri for asset in on_data.objects] == ["x-retrainer://ag-news.v2/new-data", "file:///data/news"]

    both = retrain_dag(with_(schedule={"on_new_data": True, "cron": "@weekly", "timezone": "Asia/Tokyo"}))
    assert isinstance(both.schedule, AssetOrTimeSchedule)
    scheduled = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(both)).timetable
    told = scheduled.timetable.serialize()
    assert (told["expression"], told["timezone"]) == ("0 0 * * 0", "Asia/Tokyo")


def test_what_watches_for_new_data_is_told_what_the_pipeline_says() -> None:
    schedule = {"on_new_data": True, "min_new_rows": 500, "quiet_seconds": 60}
    dataset = {**CONTENT["dataset"], "csv": {"delimiter": ";"}}
    dag = retrain_dag(with_(schedule=schedule, dataset=dataset), settings={"aws_conn_id": "models"})
    (asset,) = dag.get_task("ingest").inlets
    (watcher,) = asset.watchers
    place, arguments = watcher.trigger.serialize()
    assert arguments == {
        "asset": "retrainer/ag-news.v2/new-data",
        "dag_id": "retrain__ag_news_v2",
        "task_id": "ingest",
        "paths": ["/data/news/*.parquet"],
        "csv": {"delimiter": ";"},
        "min_new_rows": 500,
        "quiet_seconds": 60,
        "queue": None,
        "aws_conn_id": "models",
        "poll_seconds": None,
    }
    assert NewDataTrigger(**arguments).serialize() == (place, arguments)
    # Airflow runs the trigger anew whenever what it stored of it and what it parses differ.
    stored = Trigger(place, encode_trigger(watcher.trigger)["kwargs"]).kwargs
    assert BaseEventTrigger.hash(place, stored) == BaseEventTrigger.hash(place, arguments)
    assert all(not task.inlets for task in dag.tasks if task.task_id != "ingest")
    assert not any(task.inlets for task in retrain_dag(CONTENT).tasks)


def test_data_assets_name_the_folder_above_a_glob() -> None:
    dataset = {"train": ["s3://corp/a/*.csv", "s3://corp/a/more-*.csv", "/data/b.csv", "s3://corp/c/"]}
    assets = data_assets(parse_pipeline(with_(dataset=dataset)))
    assert [asset.uri for asset in assets] == ["s3://corp/a", "file:///data/b.csv", "s3://corp/c"]


@pytest.mark.parametrize("kind", ["path", "mapping", "record"])
def test_every_form_of_a_pipeline_survives_serialisation(kind: str, folder: Path) -> None:
    given: dict[str, str | dict[str, Any] | Pipeline] = {
        "path": str(folder / "first.yaml"),
        "mapping": CONTENT,
        "record": load_pipeline(folder / "first.yaml"),
    }
    one, two = (DagSerialization.serialize_dag(retrain_dag(given[kind])) for _ in range(2))
    assert one == two
    assert DagSerialization.deserialize_dag(one).task_ids == retrain_dag(given[kind]).task_ids


def test_a_folder_becomes_a_dag_for_each_file(folder: Path) -> None:
    assert set(build_dags(folder)) == {"retrain__first", "retrain__second"}


def test_a_wrong_file_becomes_a_broken_dag_and_the_others_stay(folder: Path) -> None:
    (folder / "bad.yaml").write_text("name: renamed-well\ntaskk: x\nschedule: {cron: '@daily'}\n")

    dags = build_dags(folder)

    assert set(dags) == {"retrain__first", "retrain__second", "retrain__renamed_well"}
    broken = dags["retrain__renamed_well"]
    assert broken.tags == {"retrainer", "broken"}
    assert broken.schedule == "@daily"
    assert "taskk" in (broken.doc_md or "")
    assert "bad.yaml:2" in (broken.doc_md or "")
    assert broken.task_ids == ["read_pipeline"]


@pytest.mark.parametrize(
    ("said", "paths"),
    [
        ("schedule: {on_new_data: true}\ndataset: {train: news/*.csv}\n", ["news/*.csv"]),
        ("schedule: {on_new_data: true}\ndataset: {train: [/a, s3://b/c]}\n", ["/a", "s3://b/c"]),
        ("schedule: {on_new_data: true}\ndataset: {train: {hub: {path: imdb}}}\n", None),
        ("schedule: {on_new_data: true}\n", None),
        ("schedule: {on_new_data: maybe}\n", None),
        ("schedule: [", None),
    ],
)
def test_a_wrong_file_is_red_when_data_comes_or_else_every_day(
    folder: Path, said: str, paths: list[str] | None
) -> None:
    (folder / "bad.yaml").write_text(f"name: bad\ntaskk: x\n{said}")
    broken = build_dags(folder, settings={"aws_conn_id": "models"})["retrain__bad"]
    assert broken.tags == {"retrainer", "broken"}
    if paths is None:
        assert broken.schedule == "@daily"
        return
    (asset,) = broken.schedule.objects
    trigger = asset.watchers[0].trigger
    assert trigger.paths == [path if "/" in path[:4] else str(folder / path) for path in paths]
    assert (trigger.dag_id, trigger.task_id, trigger.aws_conn_id) == ("retrain__bad", "read_pipeline", "models")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"name: [", b"- a\n", b"name: 7\n"])
def test_a_file_that_cannot_be_read_at_all_is_named_by_its_file(folder: Path, content: bytes) -> None:
    (folder / "odd.yaml").write_bytes(content)
    assert set(build_dags(folder)) == {"retrain__first", "retrain__second", "retrain__odd"}


def test_two_pipelines_of_one_name(folder: Path) -> None:
    shutil.copy(folder / "first.yaml", folder / "zzz.yaml")
    dags = build_dags(folder)
    assert set(dags) == {"retrain__first", "retrain__second", "retrain__first__broken"}
    assert "first.yaml makes already" in (dags["retrain__first__broken"].doc_md or "")


def test_of_two_pipelines_of_one_name_the_scheduler_and_the_task_take_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a_copy.yaml").write_text(yaml.safe_dump(with_(name="second", publish={"store": "s3://elsewhere"})))
    parsed = build_dags(folder)
    assert set(parsed) == {"retrain__first", "retrain__second", "retrain__second__broken"}
    assert parsed["retrain__second"].get_task("publish").pipeline == str(folder / "second.yaml")
    for dag_id in parsed:
        monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", dag_id)
        (dag,) = build_dags(folder).values()
        assert dag.task_ids == parsed[dag_id].task_ids
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "retrain__second")
    assert build_dags(folder)["retrain__second"].get_task("publish").pipeline == str(folder / "second.yaml")
    monkeypatch.delenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID")
    (move,) = operate_dag(folder).tasks
    assert move.models["second"].store == "s3://models"


def test_a_task_builds_only_its_own_dag(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "renamed.yaml").write_text(yaml.safe_dump(with_(name="third")))
    (folder / "bad.yaml").write_text("name: bad\n")
    for wanted in ("retrain__second", "retrain__third", "retrain__bad"):
        monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", wanted)
        assert set(build_dags(folder)) == {wanted}


def test_operate_models_offers_the_models_of_the_folder(folder: Path) -> None:
    (folder / "bad.yaml").write_text("name: bad\n")
    dag = operate_dag(folder)
    assert dag.params.get_param("pipeline").schema["enum"] == ["first", "second"]
    assert "incident" in dag.params.get_param("cause").schema["enum"]
    DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))


def test_one_connection_for_every_task(folder: Path) -> None:
    several = with_(model={"base": ["one", "two"]}, publish={"store": "s3://models", "approval": "required"})
    ours = Settings(aws_conn_id="models")
    for dag in (retrain_dag(several, settings=ours), operate_dag(folder, settings=ours)):
        taken = [task for task in dag.tasks if task.task_id != "approval"]
        assert {_argument(task, "settings")["aws_conn_id"] for task in taken} == {"models"}
        copy = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
        assert "settings" in copy.get_task(taken[0].task_id).template_fields
    built = build_dags(folder, settings={"aws_conn_id": "m"})
    assert {task.settings["aws_conn_id"] for dag in built.values() for task in dag.tasks} == {"m"}
    assert all(task.settings == {} for task in retrain_dag(CONTENT).tasks)
    with pytest.raises(PipelineError, match="aws_conn"):
        retrain_dag(CONTENT, settings={"aws_conn": "m"})
    templated = retrain_dag(CONTENT, settings={"artifact_root": "{{ var.value.root }}"})
    assert templated.get_task("train").settings == {"artifact_root": "{{ var.value.root }}"}


def _argument(task: Any, name: str) -> Any:
    return task.partial_kwargs[name] if task.is_mapped else getattr(task, name)


def test_a_pipeline_that_signs_shows_where_its_key_is(folder: Path) -> None:
    publish = {"store": "s3://models", "sign_with": "airflow:release_key"}
    doc = retrain_dag(with_(publish=publish)).doc_md or ""
    assert "sign_with: airflow:release_key" in doc


def test_compare_base_models_offers_the_pipelines_of_the_folder_and_publishes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAINER_PIPELINES", str(folder))
    dag = runpy.run_path(str(REPOSITORY / "dags" / "compare_base_models.py"))["dag"]
    assert dag.params.get_param("pipeline").schema["enum"] == ["first.yaml", "second.yaml"]
    assert not any(task.outlets for task in dag.tasks)
    assert "PublishModelOperator" not in {task.task_type for task in dag.tasks}
    train = dag.get_task("train")
    assert (train.pool, train.pool_slots) == ("big_gpus", 2)
    DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))


def test_compare_base_models_is_a_dag_also_where_there_is_no_pipeline_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRAINER_PIPELINES", str(tmp_path))
    dag = runpy.run_path(str(REPOSITORY / "dags" / "compare_base_models.py"))["dag"]
    DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
