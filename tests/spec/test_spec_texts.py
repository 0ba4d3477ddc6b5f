"""Pipelines of tasks that write text: their metrics, and settings that would mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from retrainer.errors import PipelineError
from retrainer.spec import Pipeline, parse_pipeline
from retrainer.spec.known_metrics import KNOWN_METRICS, names_of
from retrainer.tasks import TASKS

TEXT_TASKS = [task.name for task in TASKS.values() if task.writes == "text"]


def pipeline(task: str = TEXT_TASKS[0], **sections: Any) -> Pipeline:
    return parse_pipeline(
        {
            "name": "answers",
            "task": task,
            "dataset": {"train": "/data.csv"},
            "model": {"base": "some/model"},
            "publish": {"store": "/store"},
            **sections,
        }
    )


def complaint(**sections: Any) -> str:
    with pytest.raises(PipelineError) as caught:
        pipeline(**sections)
    return " ".join(str(caught.value).split())


@pytest.mark.parametrize("task", TEXT_TASKS)
def test_what_is_measured_where_the_file_says_nothing(task: str) -> None:
    silent = pipeline(task)
    assert silent.metrics == ("chrf", "exact_match")
    assert silent.gate.against_champion is not None
    assert silent.gate.against_champion.metric == "chrf"
    named = pipeline(task, metrics=["rouge_l"], gate={"floors": {"exact_match": 0.2}, "against_champion": None})
    assert (named.metrics, named.gate_metrics) == (("rouge_l",), ("exact_match",))


def test_every_metric_is_of_a_family_and_every_task_has_one() -> None:
    families = {task.metrics for task in TASKS.values()}
    assert {family for known in KNOWN_METRICS.values() for family in known.families} == families
    assert names_of("generation") == ("chrf", "exact_match", "rouge_l")


@pytest.mark.parametrize(
    ("sections", "place"),
    [
        ({"metrics": ["chrf", "f1"]}, "metrics"),
        ({"gate": {"floors": {"f1": 0.5}}}, "floors"),
        ({"gate": {"against_champion": {"metric": "f1"}}}, "against_champion"),
    ],
)
def test_a_metric_of_labels_is_answered_with_those_of_text(sections: dict[str, Any], place: str) -> None:
    said = complaint(**sections)
    assert place in said
    expected = "f1 does not judge what a text-to-text model answers; text2text-generation has chrf, exact_match"
    assert expected in said


def test_a_metric_of_text_is_answered_with_those_of_labels() -> None:
    said = complaint(task="text-classification", metrics=["chrf"])
    assert "chrf does not judge what a classifier answers; text-classification has accuracy, f1" in said


def test_an_unknown_metric_is_answered_with_the_nearest_of_the_task() -> None:
    assert "did you mean 'rouge_l'?" in complaint(metrics=["rougeL"])
    assert "did you mean 'exact_match'?" in complaint(metrics=["exact_mach"])
    # What it is called elsewhere is no help where it does not fit.
    assert "did you mean" not in complaint(metrics=["acc"])


@pytest.mark.parametrize(
    ("sections", "place"),
    [
        ({"dataset": {"train": "/data.csv", "labels": ["a", "b"]}}, "labels"),
        ({"dataset": {"train": "/data.csv", "corrections": "/corrections"}}, "corrections"),
        ({"positive_label": "yes"}, "positive_label"),
        ({"gate": {"slices": {"by": ["length", "label"]}}}, "gate.slices.by"),
        ({"gate": {"baseline": "floor"}}, "gate.baseline"),
        ({"gate": {"drift": {"block": {"labels": 0.2}}}}, "gate.drift.block.labels"),
        ({"export": {"calibration": "temperature"}}, "export.calibration"),
        (
            {"training": {"blend_with_champion": "auto"}, "publish": {"store": "/s", "include_checkpoint": True}},
            "blend",
        ),
    ],
)
def test_a_setting_without_meaning_is_an_error(sections: dict[str, Any], place: str) -> None:
    said = complaint(**sections)
    assert place in said
    assert "is for tasks with labels, and task text2text-generation has none; drop it" in said


def test_settings_with_a_meaning_are_taken() -> None:
    gate = {
        "floors": {"chrf": 0.3, "exact_match": 0.1},
        "confident": True,
        "max_harmful_flips": 0.02,
        "slices": {"by": ["length", "source"], "patterns": ["[0-9]"]},
        "budgets": {"p95_latency_ms": 500, "max_latency_ratio": 1.5},
        "drift": {"block": {"vocabulary": 0.5, "length": 0.5}},
    }
    taken = pipeline(gate=gate, export={"precisions": ["fp32", "int8"]})
    assert taken.slice_columns == ("source",)
    assert pipeline(**{**taken.model_dump(mode="json"), "task": TEXT_TASKS[0]}) == taken
