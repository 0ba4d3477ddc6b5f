"""The form that starts a retrain: which fields, which defaults, what it refuses, and which params are ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, Param
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization

from retrainer.airflow import retrain_dag
from retrainer.airflow.form import asked_in, run_params
from retrainer.spec import parse_pipeline
from retrainer.spec.changes import changes_of
from tests.spec.test_spec_people import CONTENT

PIPELINE = parse_pipeline({**CONTENT, "training": {"num_train_epochs": 4}})


def context(params: dict[str, Any], conf: dict[str, Any] | None) -> dict[str, Any]:
    dag = DAG("d", params=params, schedule=None)
    values = ParamsDict({name: dag.params.get_param(name) for name in dag.params})
    values.update(conf or {})
    return {"dag": dag, "dag_run": SimpleNamespace(conf=conf), "params": values}


def test_the_pipelines_values_are_the_defaults() -> None:
    dag = retrain_dag(CONTENT | {"training": {"num_train_epochs": 4}})
    values = {name: dag.params[name] for name in dag.params}
    assert values == {
        "epochs": 4,
        "learning_rate": 5e-5,
        "train_rows": None,
        "channel": "production",
        "force": False,
        "dry_run": False,
        "note": None,
    }
    # Airflow would copy them for each task.
    assert not any(task.params for task in dag.tasks)
    assert DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag)).params.dump() == values
    for name in dag.params:
        assert dag.params.get_param(name).schema["title"]
        assert dag.params.get_param(name).description


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("epochs", 0),
        ("epochs", "many"),
        ("learning_rate", -1e-5),
        ("train_rows", 10),
        ("train_rows", 100.5),
        ("channel", "No Such Name"),
        ("force", "yes"),
        ("note", "x" * 501),
    ],
)
def test_the_form_refuses_bad_values(name: str, wrong: Any) -> None:
    with pytest.raises(ParamValidationError):
        run_params(PIPELINE)[name].resolve(wrong)


def test_only_what_a_run_was_started_with_is_asked_for() -> None:
    assert asked_in(context(run_params(PIPELINE), None)) == {}
    assert asked_in(context(run_params(PIPELINE), {"epochs": 2, "note": "x"})) == {"epochs": 2, "note": "x"}


def test_params_of_somebodys_own_are_not_ours() -> None:
    own = {"channel": Param("tv", type="string"), "epochs": Param(1)}
    assert asked_in(context(own, {"channel": "radio", "epochs": 7})) == {}


def test_a_run_that_publishes_nothing_or_reads_some_rows_leaves_new_data_to_the_next() -> None:
    def takes(**asked: Any) -> bool:
        return changes_of(PIPELINE, asked).takes_new_data

    assert takes(epochs=2, force=True, note="tried")
    assert not takes(dry_run=True)
    assert not takes(train_rows=PIPELINE.dataset.checks.min_rows)
