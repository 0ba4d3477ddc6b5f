"""Reading pipeline files: what is right comes out typed, every mistake names its line and what was meant."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrainer.errors import PipelineError
from retrainer.spec import Pipeline, load_pipeline, parse_pipeline, pipeline_files

WHOLE = """\
name: ag-news
task: text-classification
dataset:
  train: s3://corp/news/*.parquet
  validation: null
  test: null
  text: text
  label: label
  labels: [World, Sports, Business, Sci/Tech]
  split: {validation: 0.1, test: 0.2, seed: 42, stratify: true}
  checks: {min_rows: 100, min_rows_per_label: 5, max_null_fraction: 0.0, on_leakage: remove}
model:
  base: distilbert-base-uncased
  max_length: 128
training:
  num_train_epochs: 3
  per_device_train_batch_size: 16
  learning_rate: 5e-5
  metric_for_best_model: f1
  early_stopping_patience: 2
metrics: [accuracy, f1]
gate:
  floors: {accuracy: 0.85}
  against_champion: {metric: accuracy, mode: non_inferiority, margin: 0.01, alpha: 0.05}
  slices: {by: [label, length], min_rows: 50, max_drop: 0.05}
  budgets: {p95_latency_ms: 50, size_mb: 100, max_latency_ratio: 1.5}
export: {precisions: [fp32, int8]}
publish: {store: "s3://models", channel: production, approval: none, sign_with: null, include_checkpoint: false}
schedule: {cron: "@daily", on_new_data: true, min_new_rows: 1}
resources: {gpus: 1, pool: gpu_pool, processes: 1}
"""

LEAST = """\
name: small
dataset:
  train: data.csv
model:
  base: some/model
publish:
  store: store
"""


def write(folder: Path, text: str | bytes, name: str = "p.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def error_of(folder: Path, text: str | bytes) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        load_pipeline(write(folder, text))
    return caught.value


def test_the_whole_file_of_the_design(tmp_path: Path):
    pipeline = load_pipeline(write(tmp_path, WHOLE))
    assert pipeline.dataset.train == ("s3://corp/news/*.parquet",)
    assert pipeline.dataset.labels == ("World", "Sports", "Business", "Sci/Tech")
    assert pipeline.training.arguments == {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 16,
        "learning_rate": 5e-5,
        "metric_for_best_model": "f1",
    }
    assert pipeline.training.early_stopping_patience == 2
    assert pipeline.export.precisions == ("fp32", "int8")
    assert pipeline.schedule.cron == "@daily"
    assert pipeline.publish.store == "s3://models"


def test_a_record_survives_json(tmp_path: Path):
    pipeline = load_pipeline(write(tmp_path, WHOLE))
    again = Pipeline.from_json(pipeline.to_json(), where="test")
    assert again == pipeline
    assert again.to_json() == pipeline.to_json()


def test_defaults(tmp_path: Path):
    pipeline = load_pipeline(write(tmp_path, LEAST))
    assert pipeline.task == "text-classification"
    assert pipeline.metrics == ("accuracy", "f1")
    assert pipeline.training.arguments == {}
    assert pipeline.gate.against_champion is not None


def test_paths_are_relative_to_the_file(tmp_path: Path):
    (tmp_path / "models" / "mini").mkdir(parents=True)
    (tmp_path / "pipelines").mkdir()
    text = LEAST.replace("data.csv", "[../a.csv, 'b/*.csv', 's3://x/y', 'file:///z/q.csv']")
    text = text.replace("some/model", "../models/mini").replace("store: store", "store: ../store")
    pipeline = load_pipeline(write(tmp_path / "pipelines", text))
    folder = str(tmp_path)
    assert pipeline.dataset.train == (f"{folder}/a.csv", f"{folder}/pipelines/b/*.csv", "s3://x/y", "/z/q.csv")
    assert pipeline.model.base == f"{folder}/models/mini"
    assert pipeline.publish.store == f"{folder}/store"


def test_a_base_is_a_folder_only_if_there_is_one(tmp_path: Path):
    assert load_pipeline(write(tmp_path, LEAST)).model.base == "some/model"
    (tmp_path / "some" / "model").mkdir(parents=True)
    assert load_pipeline(write(tmp_path, LEAST)).model.base == str(tmp_path / "some" / "model")
    package = LEAST.replace("some/model", "package:x/y")
    assert load_pipeline(write(tmp_path, package)).model.base == "package:x/y"


def test_relative_to_the_file_also_when_named_relatively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, LEAST)
    monkeypatch.chdir(tmp_path)
    assert load_pipeline("p.yaml").publish.store == str(tmp_path / "store")


def test_hub_in_both_places(tmp_path: Path):
    nested = load_pipeline(write(tmp_path, LEAST.replace("train: data.csv", "train: {hub: {path: glue, name: rte}}")))
    short = load_pipeline(write(tmp_path, LEAST.replace("train: data.csv", "hub: {path: glue, name: rte}")))
    assert nested == short
    assert short.dataset.train.hub.split == "train"  # type: ignore[union-attr]


def test_words_of_yaml_one_stay_words(tmp_path: Path):
    text = LEAST.replace("train: data.csv", "train: data.csv\n  labels: [no, yes, on, 1, 2024-01-01, true]")
    assert load_pipeline(write(tmp_path, text)).dataset.labels == ("no", "yes", "on", "1", "2024-01-01", "true")
    stratified = LEAST.replace("train: data.csv", "train: data.csv\n  split: {stratify: yes, test: 2e-1}")
    split = load_pipeline(write(tmp_path, stratified)).dataset.split
    assert (split.stratify, split.test) == (True, 0.2)


def test_anchors_and_merges(tmp_path: Path):
    text = LEAST.replace("train: data.csv", "train: data.csv\n  split: &s {test: 0.3, seed: 1}")
    assert load_pipeline(write(tmp_path, text)).dataset.split.test == 0.3
    merged = text + "training: &t {seed: 3}\n"
    assert load_pipeline(write(tmp_path, merged)).training.arguments == {"seed": 3}
    several = LEAST + "training: {<<: [{seed: 1}, {seed: 2, max_steps: 5}], max_steps: 6}\n"
    assert load_pipeline(write(tmp_path, several)).training.arguments == {"seed": 1, "max_steps": 6}


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("  label: label", "  lable: x", 8, "unknown key 'lable' in dataset; did you mean 'label'?"),
        ("metrics: [", "metrix: [", 21, "unknown key 'metrix'; did you mean 'metrics'?"),
        ("max_length: 128", "max_length: long", 14, "model.max_length: expected a whole number, found 'long' (text)"),
        ("max_length: 128", "max_length: 1", 14, "model.max_length: must be at least 8, found 1 (a whole number)"),
        ("test: 0.2", "test: much", 10, "dataset.split.test: expected a number, found 'much' (text)"),
        ("test: 0.2", "test: 0.95", 10, "validation and test together must stay below 1"),
        ("stratify: true", "stratify: 3", 10, "dataset.split.stratify: expected true or false, found 3"),
        ("name: ag-news", "name: AG news", 1, "lower case letters"),
        ("name: ag-news", "name: 7", 1, "name: expected text, found 7 (a whole number); put it in quotes"),
        ("task: text-classification", "task: text-clasification", 2, "did you mean 'text-classification'?"),
        ("text: text", "text: [a, b, c]", 7, "expected one column or a list of two, found a list of 3"),
        ("text: text", "text: [a, b]", 7, "two columns are a pair; write task: text-pair-classification"),
        ("text: text", "text: {a: b}", 7, "dataset.text: expected text, found a mapping"),
        ("label: label", "label: text", 8, "column 'text' is already the text"),
        ("[World, Sports", "[World, World", 9, "list each label only once, found World again"),
        ("train: s3://corp/news/*.parquet", "train: ~", 4, "expected text, or a list of texts, found nothing (null)"),
        (
            "[World, Sports",
            "[1.0, Sports",
            9,
            "dataset.labels[0]: expected text, found 1.0 (a number); put it in quotes",
        ),
        ("train: s3://corp/news/*.parquet", "train: []", 4, "dataset.train: must not be empty"),
        ("train: s3://corp/news/*.parquet", "train: {hub: {pth: x}}", 4, "unknown key 'pth' in dataset.train.hub"),
        ("train: s3://corp/news/*.parquet", "hub: {path: x, nme: y}", 4, "unknown key 'nme' in dataset.hub"),
        ("metrics: [accuracy", "metrics: [acuracy", 21, "unknown metric 'acuracy'; did you mean 'accuracy'?"),
        ("metrics: [accuracy", "metrics: [roc_auc", 21, "unknown metric 'roc_auc'; did you mean 'auroc'?"),
        ("metrics: [accuracy, f1]", "metrics: [f1, f1]", 21, "list each metric only once"),
        ("metrics: [accuracy, f1]", "metrics: [f1, f1_binary]", 21, "f1_binary is for two labels"),
        ("floors: {accuracy", "floors: {acc", 23, "unknown metric 'acc'; did you mean 'accuracy'?"),
        ("accuracy: 0.85", "accuracy: 85", 23, "85 is out of reach: accuracy is between 0 and 1"),
        ("{metric: accuracy", "{metric: accurcy", 24, "gate.against_champion.metric: unknown metric 'accurcy'"),
        ("mode: non_inferiority", "mode: better", 24, "is not one of superiority, non_inferiority"),
        ("by: [label, length]", "by: [label, label]", 25, "list each column only once"),
        ("[fp32, int8]", "[int8]", 27, "fp32 must be exported too"),
        ("sign_with: null", "sign_with: key", 28, "publish.sign_with: does not name the place of a private key"),
        ("sign_with: null", "trusted_keys: [a.pub]", 28, "publish.trusted_keys: what is published unsigned"),
        ("approval: none", "approval: maybe", 28, "expected 'none', 'required' or a mapping, found 'maybe'"),
        ('cron: "@daily"', 'cron: "@dayly"', 29, "unknown '@dayly'; did you mean '@daily'?"),
        ('cron: "@daily"', 'cron: "0 25 * * *"', 29, "'25' is outside of hour, which goes from 0 to 23"),
        ('cron: "@daily"', "cron: every day", 29, "a cron expression has five fields"),
        ("processes: 1", "processes: 2", 30, "2 processes cannot train on 1 GPU"),
        ("metric_for_best_model: f1", "metric_for_best_model: mcc", 19, "(add it to metrics)"),
        ("metric_for_best_model: f1", "eval_strategy: 'no'", 20, "stopping early needs evaluations"),
        ("model:", "modle:", 12, "unknown key 'modle'; did you mean 'model'?"),
    ],
)
def test_a_mistake_names_its_line_and_key(tmp_path: Path, old: str, new: str, line: int, message: str):
    assert old in WHOLE
    error = error_of(tmp_path, WHOLE.replace(old, new))
    report = str(error)
    assert message in report
    assert any(row.startswith(f"{tmp_path}/p.yaml:{line}: ") and message in row for row in report.splitlines())


def test_a_missing_key_points_at_its_section(tmp_path: Path):
    error = error_of(tmp_path, "name: x\nmodel:\n  max_length: 64\n")
    assert str(error).splitlines() == [
        f"{tmp_path}/p.yaml:1: key 'dataset' is missing",
        f"{tmp_path}/p.yaml:1: key 'publish' is missing",
        f"{tmp_path}/p.yaml:2: key 'model.base' is missing",
    ]
    assert error.where == f"{tmp_path}/p.yaml:1"


def test_several_mistakes_are_one_error_in_order(tmp_path: Path):
    text = LEAST.replace("some/model", "1") + "resources: {gpu: 1}\nschedule: 3\n"
    lines = str(error_of(tmp_path, text)).splitlines()
    assert [line.split(": ")[0].rpartition(":")[2] for line in lines] == ["5", "8", "9"]
    assert "did you mean 'gpus'?" in lines[1]
    assert "expected a mapping, found 3 (a whole number)" in lines[2]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "the file is empty"),
        ("# only a comment\n", 1, "the file is empty"),
        ("- a\n- b\n", 1, "expected keys such as 'name: ...', found a list"),
        ("just words", 1, "found 'just words' (text)"),
        ("name: x\ndataset:\n\ttrain: y\n", 3, "a tab is used for indentation"),
        ("name: x\nname: y\n", 2, "key 'name' is given twice, first in line 1"),
        ("name: x\nmodel:\n  base: a\n  base: b\n", 4, "key 'model.base' is given twice, first in line 3"),
        ("name: [a\n", 2, "not valid YAML"),
        ("schedule:\n  cron: @daily\n", 2, "must be in quotes"),
        ("name: x\n---\nname: y\n", 2, "more than one document"),
        ("a: &x [*x]\n", 1, "contains itself"),
        ("[a]: b\n", 1, "a key must be a text"),
        ("name: x\ntask: !!timestamp 2026-01-01\n", 2, "'timestamp' is not a kind of value that a pipeline has"),
        ("name: x\ntask: !!int one\n", 2, "'one' is tagged as int, which it is not"),
        ("name: x\ntask: !!bool one\n", 2, "'one' is tagged as bool, which it is not"),
        ("name: x\ntask: !!set {a, b}\n", 2, "'set' is not a kind of value"),
        ("name: x\ntask: !!python/object:os.system x\n", 2, "is not a kind of value"),
        ("name: x\n<<: [1]\n", 2, "'<<' merges mappings only"),
        ("name: x\ntask: " + "9" * 5_000, 2, "a number of 5,000 digits; if it is a name, put it in quotes"),
        ("name: x\ntask:\n" + "".join("- 1\n" for _ in range(10_001)), 10_000, "more than 10,000 values"),
        ("a: &a [1, 2]\nb: [" + "*a, " * 4_000 + "1]\n", 1, "those of aliases (*name) counted each time"),
        (b"name: caf\xe9\n", 1, "not UTF-8: byte 0xe9"),
        (b"name: x\ntask: \xff\n", 2, "not UTF-8: byte 0xff"),
        (b"name: x\ntask: \x00\n", 2, "a character that YAML does not allow"),
    ],
)
def test_text_that_is_no_pipeline(tmp_path: Path, text: str | bytes, line: int, message: str):
    error = error_of(tmp_path, text)
    assert message in error.message
    assert error.where == f"{tmp_path}/p.yaml:{line}"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("labels: {0: CLOSED, 1: [a]}", "labels.1: expected the name of a label, found a list"),
        ("labels: {0: CLOSED, 1: CLOSED}", "labels: a classifier needs at least two labels"),
        ("label_values: {0: CLOSED}", "label_values: write a mapping in place of labels"),
        ("csv: {header: false}", "csv.header: without a header the columns need names"),
        ("csv: {columns: [a, a]}", "csv.columns: each column needs a name of its own"),
        ("csv: {delimiter: '::'}", "csv.delimiter: expected one character"),
        ("csv: {delimiter: ' '}", "csv.delimiter: expected one character"),
        ("csv: {encoding: utf-99}", "csv.encoding: unknown encoding 'utf-99'"),
        ("csv: {encoding: rot13}", "csv.encoding: unknown encoding 'rot13'"),
        ('csv: {encoding: "a\\0b"}', "csv.encoding: unknown encoding"),
    ],
)
def test_how_data_is_read_is_checked(tmp_path: Path, written: str, message: str):
    error = error_of(tmp_path, LEAST.replace("  train: data.csv\n", f"  train: data.csv\n  {written}\n"))
    assert error.message.removeprefix("dataset.").startswith(message)
    assert str(error.where).endswith(":4")


def test_labels_as_a_mapping_and_how_a_file_is_read(tmp_path: Path):
    said = 'labels: {0: CLOSED, 1: OPEN, true: OPEN}\n  csv: {delimiter: "\\t", encoding: cp1252}'
    dataset = load_pipeline(write(tmp_path, LEAST.replace("data.csv", f"data.csv\n  {said}"))).dataset
    assert dataset.labels == ("CLOSED", "OPEN")
    assert dataset.label_values == {"0": "CLOSED", "1": "OPEN", "true": "OPEN"}
    assert dataset.csv is not None
    assert dataset.csv.delimiter == "\t"
    assert type(dataset).model_validate_json(dataset.to_json()) == dataset


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 60, "- " * 60, "? " * 60])
def test_what_is_too_deep_is_not_built(tmp_path: Path, text: str):
    assert "more than 50 mappings and lists inside one another" in error_of(tmp_path, text).message


def test_what_is_too_large_is_not_read(tmp_path: Path):
    assert "larger than 1,000,000 bytes" in error_of(tmp_path, "#" * 1_000_001).message
    assert load_pipeline(write(tmp_path, LEAST + "#" * 900_000)).name == "small"


def test_the_first_of_very_many_mistakes_are_named(tmp_path: Path):
    lines = str(error_of(tmp_path, LEAST + "".join(f"key{at}: 1\n" for at in range(2_000)))).splitlines()
    assert lines[0].endswith("unknown key 'key0' (keys: " + lines[0].partition("(keys: ")[2])
    assert len(lines) == 50


def test_a_home_of_nobody_and_a_name_that_is_too_long_are_only_not_there(tmp_path: Path):
    text = LEAST.replace("data.csv", "~nobody-of-that-name/data.csv").replace("some/model", "m" * 5_000)
    pipeline = load_pipeline(write(tmp_path, text))
    assert pipeline.dataset.train == (f"{tmp_path}/~nobody-of-that-name/data.csv",)
    assert pipeline.model.base == "m" * 5_000


def test_a_byte_order_mark_is_nothing(tmp_path: Path):
    assert load_pipeline(write(tmp_path, b"\xef\xbb\xbf" + LEAST.encode())).name == "small"


def test_missing_file_and_folder(tmp_path: Path):
    write(tmp_path, LEAST, "retrain.yaml")
    with pytest.raises(PipelineError, match=r"no such file \(did you mean retrain.yaml\?\)"):
        load_pipeline(tmp_path / "retrian.yaml")
    with pytest.raises(PipelineError, match=r"is a folder, not a pipeline file \(it holds retrain.yaml\)"):
        load_pipeline(tmp_path)
    with pytest.raises(PipelineError, match="no such folder"):
        pipeline_files(tmp_path / "pipelines")


def test_a_folder_of_pipelines(tmp_path: Path):
    write(tmp_path, LEAST, "b.yaml")
    write(tmp_path, LEAST, "a.yml")
    write(tmp_path, "not yaml at all: [", "notes.txt")
    assert [file.name for file in pipeline_files(tmp_path)] == ["a.yml", "b.yaml"]


def test_a_mapping_instead_of_a_file(tmp_path: Path):
    mapping = {
        "name": "form",
        "dataset": {"train": "d.csv"},
        "model": {"base": "m"},
        "publish": {"store": "s"},
        "training": {"learning_rate": "5e-5"},
    }
    pipeline = parse_pipeline(mapping, base_folder=tmp_path)
    assert pipeline.dataset.train == (str(tmp_path / "d.csv"),)
    assert pipeline.training.arguments["learning_rate"] == 5e-5
    with pytest.raises(PipelineError) as caught:
        parse_pipeline({**mapping, "nmae": 1}, where="trigger form")
    assert str(caught.value) == "trigger form: unknown key 'nmae'; did you mean 'name'?"
    with pytest.raises(PipelineError, match="expected a mapping, found a list"):
        parse_pipeline([mapping])  # type: ignore[arg-type]


def test_generation_pipelines_are_read(tmp_path: Path):
    text = "task: text2text-generation\n" + LEAST + "metrics: [rouge_l]\n"
    pipeline = load_pipeline(write(tmp_path, text))
    assert (pipeline.dataset.text, pipeline.dataset.label) == ("model_input", "model_output")


def test_pairs(tmp_path: Path):
    text = "task: text-pair-classification\n" + LEAST
    assert "reads two columns, found 'text'" in str(error_of(tmp_path, text))
    pair = text.replace("train: data.csv", "train: data.csv\n  text: [a, b]")
    assert load_pipeline(write(tmp_path, pair)).dataset.text_columns == ("a", "b")
    same = text.replace("train: data.csv", "train: data.csv\n  text: [a, a]")
    assert "both column 'a'" in str(error_of(tmp_path, same))


@pytest.mark.parametrize(
    "cron",
    ["* * * * *", "*/15 0-6,22 1 jan-mar MON", "0 0 L * *", "5 4 * * 7", "0 0 * * fri#2", "@monthly", "0 0 ? * 1-5/2"],
)
def test_cron_expressions_that_are_fine(tmp_path: Path, cron: str):
    assert load_pipeline(write(tmp_path, LEAST + f"schedule: {{cron: '{cron}'}}\n")).schedule.cron == cron


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_any_text_is_read_or_explained(tmp_path: Path, text: str):
    with pytest.raises(PipelineError) as caught:
        load_pipeline(write(tmp_path, text))
    assert caught.value.where is not None
    assert caught.value.where.startswith(f"{tmp_path}/p.yaml:")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SECTIONS = list(Pipeline.model_fields)


@settings(max_examples=200, deadline=None)
@given(section=st.sampled_from(SECTIONS), value=values)
def test_any_value_is_read_or_explained(section: str, value: object):
    mapping = {
        "name": "x",
        "dataset": {"train": "d.csv"},
        "model": {"base": "m"},
        "publish": {"store": "s"},
        section: value,
    }
    try:
        parse_pipeline(mapping)
    except PipelineError as error:
        report = str(error)
    else:
        return
    assert report
    assert "pydantic" not in report


def test_reading_loads_nothing_heavy(tmp_path: Path):
    write(tmp_path, WHOLE)
    code = (
        "import sys; from retrainer.spec import load_pipeline, json_schema; load_pipeline(sys.argv[1]); json_schema();"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pandas', 'pyarrow', 'scipy', 'sklearn', 'boto3',"
        " 'airflow', 'retrainer.gate', 'retrainer.storage'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "p.yaml")], check=True, env={**os.environ, "PYTHONPATH": "src"}
    )
