"""Reading an evaluate artifact: what was written comes back, and damage becomes a reason."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrainer.artifacts.evaluation import CHAMPION, PredictionsFile
from retrainer.errors import ArtifactError, IntegrityError
from retrainer.gate.decide import decide
from retrainer.gate.evidence import Evidence, load_evidence
from retrainer.gate.metrics import METRICS
from retrainer.gate.receipt import ReasonCode
from retrainer.gate.tables import Table
from retrainer.spec.gate import AgainstChampion, Gate, Slices


def columns_of(evidence: Evidence, name: str) -> dict[str, Any]:
    table = evidence.tables[name]
    columns: dict[str, Any] = {
        "row_id": table.row_ids.tolist(),
        "label": table.labels,
        "prediction": table.predictions,
        "scores": pa.array(table.scores.tolist(), type=pa.list_(pa.float64())),
    }
    if table.characters is not None:
        columns["characters"] = table.characters
    return {**columns, **{f"slice_{key}": column.tolist() for key, column in table.slices.items()}}


def write(folder: Path, evidence: Evidence, **replaced: dict[str, Any]) -> None:
    """An artifact's folder with that evidence; ``replaced`` gives other columns for a model."""
    (folder / "predictions").mkdir(parents=True)
    record = evidence.record
    files = {}
    for name in evidence.tables:
        path = folder / "predictions" / f"{name}.parquet"
        pq.write_table(pa.table(replaced.get(name) or columns_of(evidence, name)), path)
        files[name] = PredictionsFile(
            file=f"predictions/{name}.parquet", sha256=hashlib.sha256(path.read_bytes()).hexdigest()
        )
    champion = record.champion
    if champion is not None:
        champion = champion.model_copy(update={"predictions": files[CHAMPION]})
    challenger = {
        name: model.model_copy(update={"predictions": files[name]}) for name, model in record.challenger.items()
    }
    record = record.model_copy(update={"champion": champion, "challenger": challenger})
    (folder / "evaluation.json").write_text(record.to_pretty_json())


@pytest.fixture
def evidence(make) -> Evidence:
    n = 900
    made: Evidence = make.pair(
        n,
        better=20,
        worse=5,
        int8=True,
        characters=np.arange(n) % 50,
        slices={"region": np.where(np.arange(n) % 3 == 0, "", "north")},
    )
    return made


def test_what_was_written_is_what_is_judged(tmp_path, evidence):
    write(tmp_path / "artifact", evidence)
    loaded = load_evidence(tmp_path / "artifact")
    assert loaded.problems == {}
    assert set(loaded.tables) == {"fp32", "int8", "champion"}
    for name, table in evidence.tables.items():
        read = loaded.tables[name]
        for field in ("row_ids", "labels", "predictions", "scores", "characters"):
            np.testing.assert_array_equal(getattr(read, field), getattr(table, field))
        np.testing.assert_array_equal(read.slices["region"], table.slices["region"])
    policy = Gate(slices=Slices(by=("label", "length", "region")))
    receipt = decide(policy, loaded)
    assert receipt.promoted
    assert receipt.predictions["champion"] == loaded.tables["champion"].sha256
    said = receipt.model_dump(exclude={"predictions"})
    assert decide(policy, evidence).model_dump(exclude={"predictions"}) == said


def reasons(folder: Path) -> list[ReasonCode]:
    receipt = decide(Gate(), load_evidence(folder))
    assert receipt.verdict == "refuse"
    return [reason.code for reason in receipt.reasons]


def test_a_changed_file_is_noticed(tmp_path, evidence):
    write(tmp_path / "artifact", evidence)
    better = columns_of(evidence, "fp32")
    better["prediction"] = better["label"]
    pq.write_table(pa.table(better), tmp_path / "artifact" / "predictions" / "fp32.parquet")
    assert reasons(tmp_path / "artifact") == [ReasonCode.PREDICTIONS_CHANGED]


def test_a_missing_file_is_noticed(tmp_path, evidence):
    write(tmp_path / "artifact", evidence)
    (tmp_path / "artifact" / "predictions" / "champion.parquet").unlink()
    assert reasons(tmp_path / "artifact") == [ReasonCode.PREDICTIONS_MISSING]


def test_a_file_outside_the_artifact_is_not_read(tmp_path, evidence):
    write(tmp_path / "artifact", evidence)
    record = tmp_path / "artifact" / "evaluation.json"
    record.write_text(record.read_text().replace("predictions/champion.parquet", "../champion.parquet"))
    (tmp_path / "artifact" / "predictions" / "champion.parquet").rename(tmp_path / "champion.parquet")
    assert reasons(tmp_path / "artifact") == [ReasonCode.PREDICTIONS_MISSING]


def dropped(name: str) -> Any:
    return lambda columns: {key: value for key, value in columns.items() if key != name}


def replaced(name: str, make_value: Any) -> Any:
    return lambda columns: {**columns, name: make_value(columns[name])}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (dropped("scores"), ReasonCode.PREDICTIONS_UNREADABLE),
        (dropped("row_id"), ReasonCode.PREDICTIONS_UNREADABLE),
        (replaced("label", lambda column: column.astype(float)), ReasonCode.PREDICTIONS_UNREADABLE),
        (replaced("label", lambda column: [None, *column.tolist()[1:]]), ReasonCode.PREDICTIONS_UNREADABLE),
        (replaced("row_id", lambda column: [None, *column[1:]]), ReasonCode.PREDICTIONS_UNREADABLE),
        (replaced("scores", lambda column: [[0.5], *column.to_pylist()[1:]]), ReasonCode.PREDICTIONS_UNREADABLE),
        (replaced("scores", lambda column: [None, *column.to_pylist()[1:]]), ReasonCode.PREDICTIONS_UNREADABLE),
        (replaced("scores", lambda column: ["x"] * len(column)), ReasonCode.PREDICTIONS_UNREADABLE),
        (
            replaced("scores", lambda column: [[None, 0.5, 0.5], *column.to_pylist()[1:]]),
            ReasonCode.SCORES_INVALID,
        ),
    ],
)
def test_damaged_columns_are_reasons(tmp_path, evidence, change, code):
    write(tmp_path / "artifact", evidence, fp32=change(columns_of(evidence, "fp32")))
    assert reasons(tmp_path / "artifact") == [code]


def test_what_is_no_parquet_is_a_reason(tmp_path, evidence):
    write(tmp_path / "artifact", evidence)
    path = tmp_path / "artifact" / "predictions" / "champion.parquet"
    record = tmp_path / "artifact" / "evaluation.json"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"not parquet")
    record.write_text(record.read_text().replace(before, hashlib.sha256(b"not parquet").hexdigest()))
    assert reasons(tmp_path / "artifact") == [ReasonCode.PREDICTIONS_UNREADABLE]


def test_empty_files_are_a_reason(tmp_path, evidence):
    empty = {
        "row_id": pa.array([], type=pa.string()),
        "label": pa.array([], type=pa.int64()),
        "prediction": pa.array([], type=pa.int64()),
        "scores": pa.array([], type=pa.list_(pa.float64())),
    }
    write(tmp_path / "artifact", evidence, fp32=empty, int8=empty, champion=empty)
    assert set(reasons(tmp_path / "artifact")) == {ReasonCode.NO_ROWS}


def test_no_record_is_an_error(tmp_path, evidence):
    with pytest.raises(ArtifactError, match=r"evaluation\.json"):
        load_evidence(tmp_path)
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(IntegrityError, match="EvaluationRecord"):
        load_evidence(tmp_path)


@pytest.mark.parametrize("n", [300, 6000])
def test_rows_in_any_order_give_the_same_receipt(n, make):
    """Byte for byte, for every metric, on few rows and on so many that errors are computed instead of drawn."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, n)
    models = {
        name: np.where(random.random(n) < right, labels, (labels + 1) % 3)
        for name, right in (("fp32", 0.9), ("champion", 0.85), ("baseline", 0.8))
    }
    measured = ("accuracy", "f1", "mcc", "auroc", "log_loss", "ece")
    evidence = make(labels, models, measured=measured, slices={"region": labels.astype(np.str_)})
    for table in evidence.tables.values():
        # Real-valued and different in every row; the prediction stays the highest.
        table.scores[:] = table.scores * (0.5 + random.random((n, 1)) / 2)
        table.scores[:] += (1 - table.scores.sum(axis=1, keepdims=True)) / 3
    record = evidence.record
    fresh = {
        name: {metric: METRICS[metric].compute(labels, table.scores, table.predictions) for metric in measured}
        for name, table in evidence.tables.items()
    }
    challenger = {"fp32": record.challenger["fp32"].model_copy(update={"metrics": fresh["fp32"]})}
    assert record.champion is not None
    assert record.baseline is not None
    record = record.model_copy(
        update={
            "challenger": challenger,
            "champion": record.champion.model_copy(update={"metrics": fresh["champion"]}),
            "baseline": record.baseline.model_copy(update={"metrics": fresh["baseline"]}),
        }
    )
    orders = {name: random.permutation(n) for name in evidence.tables}
    shuffled = {
        name: Table(
            row_ids=table.row_ids[orders[name]],
            labels=table.labels[orders[name]],
            predictions=table.predictions[orders[name]],
            scores=table.scores[orders[name]],
            slices={"region": table.slices["region"][orders[name]]},
            sha256=table.sha256,
        )
        for name, table in evidence.tables.items()
    }
    for metric in measured:
        policy = Gate(against_champion=AgainstChampion(metric=metric), slices=Slices(by=("label", "region")))
        receipt = decide(policy, Evidence(record, evidence.tables))
        assert receipt.comparison is not None
        assert decide(policy, Evidence(record, shuffled)).to_pretty_json() == receipt.to_pretty_json()


def test_long_and_many_slice_values_are_read(tmp_path, evidence):
    """One long value must not make every row's as long: a million rows of it would take gigabytes."""
    table = evidence.tables["fp32"]
    region = np.array(["x" * 5000, "", "y"], dtype=object)[np.arange(900) % 3]
    tables = {
        name: Table(
            other.row_ids, other.labels, other.predictions, other.scores, other.characters, {"region": region}, ""
        )
        for name, other in evidence.tables.items()
    }
    write(tmp_path / "artifact", Evidence(evidence.record, tables))
    read = load_evidence(tmp_path / "artifact").tables["fp32"].slices["region"]
    assert read.tolist() == region.tolist()
    assert read.nbytes < 900 * 100
    assert table.labels.size == read.size


def test_models_on_the_same_rows_share_their_ids(tmp_path, evidence):
    write(tmp_path / "artifact", evidence)
    tables = load_evidence(tmp_path / "artifact").tables
    assert tables["champion"].row_ids is tables["fp32"].row_ids
