"""The keys of the decision: several base models, patterns, budgets, drift, calibration, near duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrainer.errors import PipelineError
from retrainer.spec import Pipeline, json_schema, load_pipeline, parse_pipeline


def pipeline(**sections: Any) -> Pipeline:
    return parse_pipeline(
        {
            "name": "small",
            "dataset": {"train": "/data.csv"},
            "model": {"base": "some/model"},
            "publish": {"store": "/store"},
            **sections,
        }
    )


def complaint(**sections: Any) -> str:
    with pytest.raises(PipelineError) as caught:
        pipeline(**sections)
    return str(caught.value)


def test_several_base_models_are_written_as_a_list(tmp_path: Path):
    (tmp_path / "local").mkdir()
    file = tmp_path / "p.yaml"
    file.write_text(
        "name: small\ndataset: {train: data.csv}\nmodel: {base: [./local, hub/model]}\npublish: {store: store}\n"
    )
    loaded = load_pipeline(file)
    assert loaded.model.base == str(tmp_path / "local")
    assert loaded.model.candidates == (str(tmp_path / "local"), "hub/model")
    assert Pipeline.from_json(loaded.to_json(), where="itself") == loaded
    one = loaded.of_base("hub/model")
    assert (one.model.base, one.model.candidates) == ("hub/model", ())
    assert one.publish == loaded.publish


def test_a_list_of_one_is_one_base_model():
    assert pipeline(model={"base": ["a/b"]}) == pipeline(model={"base": "a/b"})


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"base": []}, "at least one base model"),
        ({"base": ["a/b", "a/b"]}, "only once"),
        ({"base": ["a/b", "c/d"], "revision": "main"}, "revision belongs to one"),
        ({"base": "a/b", "candidates": ["c/d", "e/f"]}, "written as a list"),
        ({"base": ["a/b", "c/d"], "choose_by": "accurracy"}, "did you mean 'accuracy'"),
        ({"base": ["a/b", ""]}, "model"),
    ],
)
def test_what_cannot_be_a_list_of_base_models(model, said):
    assert said in complaint(model=model)


def test_the_best_is_chosen_by_the_metric_of_the_gate_unless_told_otherwise():
    assert pipeline().choose_by == "accuracy"
    assert pipeline(gate={"against_champion": {"metric": "f1"}}).choose_by == "f1"
    assert pipeline(model={"base": ["a/b", "c/d"], "choose_by": "mcc"}).choose_by == "mcc"


@pytest.mark.parametrize(
    "sections",
    [{"model": {"base": ["a/b", "c/d"]}}, {"export": {"calibration": "temperature"}}],
)
def test_choosing_and_calibrating_need_validation_rows(sections):
    dataset = {"train": "/data.csv", "split": {"validation": 0.0}}
    assert "validation rows" in complaint(dataset=dataset, **sections)
    pipeline(dataset={**dataset, "validation": "/more.csv"}, **sections)


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"slices": {"patterns": ["("]}}, "not a regular expression"),
        ({"slices": {"patterns": ["a", "a"]}}, "only once"),
        ({"budgets": {"threads": 0}}, "threads"),
        ({"budgets": {"max_latency_ration": 1.5}}, "max_latency_ratio"),
        ({"budgets": {"peak_memory_mb": -1}}, "peak_memory_mb"),
        ({"baseline": "yes"}, "baseline"),
        ({"drift": {"block": {"colour": 0.1}}}, "drift"),
        ({"drift": {"warn": 1.5}}, "warn"),
    ],
)
def test_each_mistake_in_the_gate_names_its_key(gate, said):
    assert said in complaint(gate=gate)


@pytest.mark.parametrize("similarity", [0.4, 1.1, "much"])
def test_similarity_of_near_duplicates_is_a_share(similarity):
    checks = {"near_duplicate_similarity": similarity}
    assert "near_duplicate_similarity" in complaint(dataset={"train": "/data.csv", "checks": checks})


def test_looking_for_near_duplicates_can_be_switched_off():
    checks = {"near_duplicate_similarity": None}
    assert pipeline(dataset={"train": "/data.csv", "checks": checks}).dataset.checks.near_duplicate_similarity is None


def test_the_schema_takes_one_base_model_or_a_list():
    model = json_schema()["properties"]["model"]["properties"]
    assert [kind["type"] for kind in model["base"]["anyOf"]] == ["string", "array"]
    assert "candidates" not in model


@pytest.mark.parametrize("baseline", ["report", "not_worse", "floor"])
def test_a_gate_that_judges_nothing_is_refused_before_anything_is_trained(baseline):
    empty = {"against_champion": None, "baseline": baseline}
    assert "gate: without floors and against_champion it has nothing to judge by" in complaint(gate=empty)
    assert pipeline(gate={**empty, "floors": {"accuracy": 0.5}}).gate.against_champion is None


@pytest.mark.parametrize(
    ("schedule", "train", "said"),
    [
        ({"cron": "@daily", "min_new_rows": 2}, "/a.csv", "schedule.min_new_rows: says nothing without on_new_data"),
        ({"cron": "@daily", "queue": "https://sqs/q"}, "/a.csv", "schedule.queue: says nothing without on_new_data"),
        ({"timezone": "Europe/Paris"}, "/a.csv", "schedule.timezone: says nothing without schedule.cron"),
        ({"cron": "@daily", "timezone": "Europe/Pariss"}, "/a.csv", "did you mean 'Europe/Paris'?"),
        ({"on_new_data": True}, {"hub": {"path": "imdb"}}, "schedule.on_new_data: needs files"),
        ({"on_new_data": True}, "/{{ ds }}.csv", "schedule.on_new_data: a run that new data starts has no date"),
        ({"on_new_data": True, "queue": "https://sqs/q"}, "/a.csv", "schedule.queue: only a bucket tells a queue"),
        ({"on_new_data": True, "quiet_seconds": -1}, "/a.csv", "quiet_seconds"),
    ],
)
def test_schedules_that_cannot_be_kept_are_refused(schedule, train, said):
    assert said in complaint(dataset={"train": train}, schedule=schedule)


TWO = {"train": "/data.csv", "labels": ["no", "yes"]}


@pytest.mark.parametrize(
    "sections",
    [
        {"metrics": ["f1_binary"]},
        {"gate": {"floors": {"f1_binary": 0.5}}},
        {"gate": {"against_champion": {"metric": "f1_binary"}}},
        {"model": {"base": ["a/b", "c/d"], "choose_by": "f1_binary"}},
    ],
)
def test_the_positive_label_is_never_guessed(sections):
    assert "f1_binary is the score of one of the two labels; name that label with positive_label" in complaint(
        **sections
    )
    assert pipeline(**sections, positive_label="yes").positive(("no", "yes")) == 1
    assert pipeline(**sections, positive_label="no").positive(("no", "yes")) == 0
    # Whoever gives the labels in order gives the second as the positive one.
    assert pipeline(**sections, dataset=TWO).positive(("no", "yes")) == 1


def test_a_positive_label_is_one_of_the_labels():
    assert "positive_label: 'yess' is not a label; did you mean 'yes'? (labels: no, yes)" in complaint(
        dataset=TWO, positive_label="yess"
    )
    found = pipeline(metrics=["f1_binary"], positive_label="yes")
    with pytest.raises(PipelineError, match="'yes' is not a label"):
        found.positive(("bad", "good"))
    with pytest.raises(PipelineError, match="f1_binary is for two labels, this dataset has 3"):
        found.positive(("maybe", "no", "yes"))
    composed, apart = pipeline(metrics=["f1_binary"], positive_label="caf\u00e9"), "cafe\u0301"
    assert composed.positive(("bar", apart)) == 1
    assert composed.positive((apart, "bar")) == 0
    assert pipeline(dataset={**TWO, "labels": [apart, "bar"]}, positive_label="caf\u00e9").positive((apart, "bar")) == 0
    assert "'caf\u00e9' (c a f U+00E9) is not a label" in complaint(dataset=TWO, positive_label="caf\u00e9")
    assert pipeline(positive_label=1, dataset={**TWO, "labels": [0, 1]}).positive_label == "1"
