"""What OpenLineage is told of a whole run, through the provider's own extractor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retrainer.airflow.lineage import named
from retrainer.airflow.step_operator import StepOperator
from retrainer.artifacts.repository import Artifacts
from retrainer.chain import CHAIN, StepRef
from retrainer.spec import load_pipeline
from tests.airflow.harness import small_project


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("/data/news.csv", ("file", "/data/news.csv")),
        ("file:///data/news.csv", ("file", "/data/news.csv")),
        ("s3://bucket/news/*.parquet", ("s3://bucket", "news/*.parquet")),
        ("s3://bucket", ("s3://bucket", "/")),
    ],
)
def test_places_are_named_as_openlineage_does(place: str, expected: tuple[str, str]) -> None:
    assert named(place) == expected


def steps_of(artifacts: Path) -> Iterator[tuple[StepRef, dict[str, str]]]:
    for step in CHAIN:
        for folder in (artifacts / step.name).iterdir() if (artifacts / step.name).is_dir() else ():
            made = Artifacts(artifacts).get(step.name, folder.name)
            yield (
                StepRef(step=step.name, digest=made.digest, root=str(artifacts), reused=True, output=made.output),
                made.inputs,
            )


def test_a_run_is_a_line_from_data_to_the_published_model(
    tmp_path: Path, tiny_bert: Path, small_artifacts: Path
) -> None:
    extractors = pytest.importorskip("airflow.providers.openlineage.extractors.base")
    pipeline = load_pipeline(small_project(tmp_path, tiny_bert, "made-once").pipeline_file)
    told: dict[str, Any] = {}
    for ref, inputs in steps_of(small_artifacts):
        task = StepOperator(task_id=ref.step, pipeline=pipeline)
        task._pipeline, task._left, task._read = pipeline, ref, inputs
        told[ref.step] = extractors.DefaultExtractor(task).extract_on_complete(None)
    assert None not in told.values()

    read = {step: {(one.namespace, one.name) for one in lineage.inputs} for step, lineage in told.items()}
    made = {step: {(one.namespace, one.name) for one in lineage.outputs} for step, lineage in told.items()}
    data = tmp_path / "data"
    assert read["ingest"] == {("file", str(data / "train.csv")), ("file", str(data / "test.csv"))}
    assert read["train"] == made["ingest"] | {("file", str(tiny_bert))}
    assert made["train"] <= read["export"]
    assert made["export"] <= read["evaluate"]
    assert made["evaluate"] <= read["decide"]
    assert made["decide"] <= read["publish"]
    (model,) = told["publish"].outputs
    assert model.name.endswith("/store/made-once")
    (decision,) = told["decide"].outputs
    assert decision.facets["retrainer_metrics"].accuracy == pytest.approx(model.facets["retrainer_metrics"].accuracy)
    facet = told["decide"].run_facets["retrainer"]
    assert (facet.pipeline, facet.verdict, facet.changes) == ("made-once", "promote", [])
