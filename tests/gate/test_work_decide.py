"""The decide step on the folders of real artifacts: receipt, report, what is handed on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrainer.artifacts.evaluation import DriftMeasure, PredictionsFile
from retrainer.artifacts.snapshot import Characters, SnapshotStatistics, SplitStatistics
from retrainer.artifacts.standing import Standing
from retrainer.artifacts.training import CurvePoint, TrainingRecord
from retrainer.chain import StepRequest
from retrainer.chain.accounts import Question, open_account
from retrainer.chain.messages import Log
from retrainer.chain.model_store import model_of
from retrainer.errors import IntegrityError
from retrainer.gate.decide import decide
from retrainer.gate.evidence import load_evidence
from retrainer.gate.receipt import Receipt
from retrainer.spec.model import Pipeline
from retrainer.store.entry import Look, Verdict
from retrainer.work.decide import run
from retrainer.work.flips import MOST_SHOWN
from retrainer.work.reporter import Reporter
from tests.chain.made import CONTEXT, ROWS

FILES = ("receipt.json", "report.html")
TRAINING = TrainingRecord(
    base_model="base",
    base_fingerprint="f",
    device="cpu",
    processes=1,
    epochs=3.0,
    steps=1200,
    best_step=800,
    seconds=60.0,
    rows_per_second=20.0,
    padding_fraction=0.1,
    resumed_from=None,
    validation={"accuracy": 0.9},
    curve=(
        CurvePoint(step=400, epoch=1.0, loss=0.5, validation={"loss": 0.6, "accuracy": 0.8}),
        CurvePoint(step=800, epoch=2.0, loss=0.3, validation={"loss": 0.4, "accuracy": 0.9}),
    ),
    parameters=1_000,
)
DIGESTS = {"ingest": "1" * 64, "train": "2" * 64, "export": "3" * 64, "evaluate": "4" * 64}


def artifacts(folder: Path, evidence) -> dict[str, Path]:
    """The upstream artifacts of a decision, as the steps before it leave them."""
    inputs = {step: folder / step for step in DIGESTS}
    for path in inputs.values():
        path.mkdir(parents=True)
    split = SplitStatistics(rows=3000, label_counts={"label 0": 3000}, characters=Characters(p50=40, p95=90, max=120))
    statistics = SnapshotStatistics(
        labels=evidence.record.labels,
        splits={"train": split, "validation": split, "test": split},
        source_rows=9000,
        duplicates=0,
        conflicts=0,
        leakage={},
        quarantined={},
        sources=(),
    )
    (inputs["ingest"] / "statistics.json").write_text(statistics.to_pretty_json())
    row_ids = evidence.tables["fp32"].row_ids.tolist()
    texts = pa.table({"row_id": row_ids, "text": [f"the text of {row_id}" for row_id in row_ids]})
    pq.write_table(texts, inputs["ingest"] / "test.parquet")
    (inputs["train"] / "training.json").write_text(TRAINING.to_pretty_json())
    (inputs["evaluate"] / "predictions").mkdir()
    (inputs["evaluate"] / "reliability.png").write_bytes(b"\x89PNG\r\n\x1a\n and more")
    files = {}
    for name, table in evidence.tables.items():
        path = inputs["evaluate"] / "predictions" / f"{name}.parquet"
        columns = {
            "row_id": table.row_ids.tolist(),
            "label": table.labels,
            "prediction": table.predictions,
            "scores": pa.array(table.scores.tolist(), type=pa.list_(pa.float64())),
        }
        pq.write_table(pa.table(columns), path)
        files[name] = PredictionsFile(
            file=f"predictions/{name}.parquet", sha256=hashlib.sha256(path.read_bytes()).hexdigest()
        )
    record = evidence.record.model_copy(
        update={
            "digests": DIGESTS,
            "challenger": {
                name: model.model_copy(update={"predictions": files[name]})
                for name, model in evidence.record.challenger.items()
            },
            "champion": evidence.record.champion.model_copy(update={"predictions": files["champion"]}),
            "baseline": evidence.record.baseline
            and evidence.record.baseline.model_copy(update={"predictions": files["baseline"]}),
        }
    )
    (inputs["evaluate"] / "evaluation.json").write_text(record.to_pretty_json())
    return inputs


def request(folder: Path, **inputs: str) -> StepRequest:
    pipeline = Pipeline.model_validate(
        {
            "name": "news",
            "dataset": {"train": "news.csv"},
            "model": {"base": "distilbert-base-uncased"},
            "gate": {"floors": {"accuracy": 0.9}},
            "publish": {"store": str(folder / "store")},
        }
    )
    question = Question(
        look=Look(
            channel="production",
            challenger=DIGESTS["export"],
            evaluation=DIGESTS["evaluate"],
            rows=ROWS.sha256,
            row_count=len(ROWS),
        ),
        champion="0123456789abcdef",
        anchor="0123456789abcdef",
        anchor_error=None,
        metric="accuracy",
    )
    standing = open_account(model_of(pipeline).ledger, "production", pipeline.gate, question, lambda: ROWS, CONTEXT)
    return StepRequest(
        step="decide",
        digest="5" * 64,
        identity={"standing": standing.model_dump(mode="json")},
        pipeline=pipeline,
        inputs={**DIGESTS, **inputs},
        root=str(folder),
        context=CONTEXT,
    )


class Lines(Reporter):
    """A reporter that keeps what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def send(self, message) -> None:
        assert isinstance(message, Log)
        self.lines.append(message.text)


def test_a_promotion(tmp_path, make):
    inputs = artifacts(tmp_path / "in", make.pair(3000, better=60, worse=40, int8=True))
    reporter = Lines()
    (tmp_path / "out").mkdir()
    handed_on = run(request(tmp_path), inputs, tmp_path / "out", reporter)
    assert handed_on.verdict == "promote"
    assert handed_on.reasons == ()
    assert handed_on.baseline is None
    assert handed_on.drift is None
    assert handed_on.precisions == ("fp32", "int8")
    assert handed_on.champion_version == "0123456789abcdef"
    assert handed_on.comparison
    assert handed_on.comparison.estimate == pytest.approx(20 / 3000)
    assert set(handed_on.metrics) == {"accuracy", "f1"}
    handed_on.to_json()  # without NaN
    assert reporter.lines[0] == "PROMOTE news: fp32, int8 may go live"
    written = Receipt.from_json((tmp_path / "out" / "receipt.json").read_bytes(), where="receipt")
    asked = request(tmp_path)
    standing = Standing.from_content(asked.identity["standing"], where="request")
    assert written == decide(asked.pipeline.gate, load_evidence(inputs["evaluate"], standing))
    entries = model_of(asked.pipeline).ledger.entries()
    assert [entry.event.kind for entry in entries] == ["look", "spent", "verdict"]
    said = entries[-1].event
    assert isinstance(said, Verdict)
    assert (said.verdict, said.decision, said.spent) == ("promote", "5" * 64, 2)
    assert said.receipt == hashlib.sha256((tmp_path / "out" / "receipt.json").read_bytes()).hexdigest()
    assert written.digests == DIGESTS
    report = (tmp_path / "out" / "report.html").read_text()
    assert "5" * 64 in report
    assert 'alt="Reliability diagram' in report
    assert "data:image/png;base64," in report
    assert "3,000 rows" in report
    assert "the champion has 40 right that the challenger has wrong" in report
    assert report.count("the text of ") == MOST_SHOWN


def test_texts_of_test_rows_stay_out_of_the_report_where_the_pipeline_says_so(tmp_path, make):
    inputs = artifacts(tmp_path / "in", make.pair(3000, better=60, worse=40))
    (tmp_path / "out").mkdir()
    asked = request(tmp_path)
    gate = asked.pipeline.gate.model_copy(update={"report_texts": False})
    pipeline = asked.pipeline.model_copy(update={"gate": gate})
    run(asked.model_copy(update={"pipeline": pipeline}), inputs, tmp_path / "out", Lines())
    report = (tmp_path / "out" / "report.html").read_text()
    assert "the champion has 40 right that the challenger has wrong" in report
    assert "the text of " not in report


def test_a_refusal_is_a_result(tmp_path, make):
    inputs = artifacts(tmp_path / "in", make.pair(3000, worse=300))
    (tmp_path / "out").mkdir()
    reporter = Lines()
    handed_on = run(request(tmp_path), inputs, tmp_path / "out", reporter)
    assert handed_on.verdict == "refuse"
    assert handed_on.codes == "floor_missed, worse_than_champion"
    assert handed_on.precisions == ()
    assert reporter.lines[0].startswith("REFUSE news")


def test_baseline_and_drift_are_handed_on(tmp_path, make):
    moved = DriftMeasure(kind="labels", measure="label shares", distance=0.5, method="a method", detail="much")
    inputs = artifacts(tmp_path / "in", make.pair(3000, better=60, worse=40, baseline_wrong=600, drift=(moved,)))
    (tmp_path / "out").mkdir()
    handed_on = run(request(tmp_path), inputs, tmp_path / "out", Lines())
    assert handed_on.baseline
    assert handed_on.baseline_comparison
    assert handed_on.baseline["accuracy"].value == pytest.approx(0.8)
    assert handed_on.baseline_comparison.estimate > 0.1
    (drift,) = handed_on.drift or ()
    assert (drift.measure, drift.distance, drift.verdict) == ("label shares", 0.5, "warn")
    handed_on.to_json()  # without NaN


def test_twice_gives_the_same_bytes(tmp_path, make):
    inputs = artifacts(tmp_path / "in", make.pair(3000, better=60, worse=40))
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run(request(tmp_path), inputs, tmp_path / name, Lines())
        written.append([(tmp_path / name / file).read_bytes() for file in FILES])
    assert written[0] == written[1]


def test_an_evaluation_of_another_bundle_is_an_error(tmp_path, make):
    inputs = artifacts(tmp_path / "in", make.pair(3000))
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError, match="export artifact"):
        run(request(tmp_path, export="9" * 64), inputs, tmp_path / "out", Lines())
    assert list((tmp_path / "out").iterdir()) == []
