"""A history of decisions made to order, by the steps' own code but training and scoring: evaluations with stored
answers, ledger, receipts, published versions. Used by ``benchmarks.replay`` and by the tests of ``retrainer replay``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.published import make_manifest
from retrainer.artifacts.evaluation import (
    ANCHOR,
    BASELINE,
    CHAMPION,
    ChampionEvidence,
    EvaluationRecord,
    ModelEvidence,
    ParityEvidence,
    PredictionsFile,
)
from retrainer.artifacts.measures import Latency
from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.standing import Standing
from retrainer.chain import DECIDE, EVALUATE, Decided, Evaluated, RunContext, StepRef, StepRequest
from retrainer.chain.accounts import close_account, write_look
from retrainer.chain.champion import read_champion
from retrainer.chain.steps.evaluate import TEST_ROWS
from retrainer.chain.summaries import figures_in, judged_in
from retrainer.gate.decide import decide
from retrainer.gate.evidence import Evidence, load_evidence
from retrainer.gate.receipt import Receipt
from retrainer.gate.verify import receipt_bytes
from retrainer.precisions import REFERENCE
from retrainer.records import digest_of, sha256_file
from retrainer.spec.model import Pipeline
from retrainer.store import FileEntry, Store
from retrainer.store.entry import Look, Verdict
from retrainer.store.ledger import RowSet

MODEL = "news"
CHANNEL = "production"
LABELS = ("World", "Sports")
WHEN = "2026-01-01T00:00:00+00:00"
CONTEXT = RunContext(root="/artifacts", run_id="night", actor="scheduler", started_at=WHEN)

Ints = NDArray[np.int64]


class Nights:
    """A channel that a pipeline decides for.

    :param universe: how many rows there are; a night asks all of them, or those that it names.
    :param root: of the artifacts; in the folder unless given.
    :ivar labels: of the rows. Who corrects some changes no answer.
    :cvar name: of the model; ``task`` of the pipeline; ``names`` of its labels, ``asked_besides`` the models that are
        no version.
    """

    name = MODEL
    context = CONTEXT
    task = "text-classification"
    names: tuple[str, ...] = LABELS
    metrics: tuple[str, ...] = ("accuracy",)
    asked_besides: tuple[str, ...] = (BASELINE,)

    def __init__(self, folder: Path, universe: int, gate: Mapping[str, Any], *, root: str | None = None) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.root = root or str(folder / "artifacts")
        self.gate = gate
        self.labels: Ints = np.arange(universe, dtype=np.int64) % 2
        self._learnt = self.labels.copy()
        self.model = Store.open(self.store).model(self.name)
        self._artifacts = Artifacts(self.root)
        self._wrong: dict[str, Ints] = {}

    def night(
        self,
        name: str,
        wrong: Ints,
        *,
        rows: Ints | None = None,
        gate: Mapping[str, Any] | None = None,
        publish: bool = True,
        **record: Any,
    ) -> Receipt:
        """One challenger, from its evaluation to its publication.

        :param wrong: numbers of the rows that it gets wrong, before any correction.
        :param rows: numbers of the rows that it is asked.
        :param publish: whether it goes live where it is promoted; otherwise somebody did not approve.
        :param record: of the evaluation, beside what follows from the rest.
        """
        pipeline = self._pipeline(self.gate if gate is None else gate)
        self._wrong[export_of(name)] = wrong
        evaluation = self._evaluate(pipeline, name, np.arange(self.labels.size) if rows is None else rows, record)
        decision, receipt = self._decide(pipeline, evaluation)
        if receipt.promoted and publish:
            self._publish(name, decision, receipt)
        return receipt

    def _pipeline(self, gate: Mapping[str, Any]) -> Pipeline:
        return Pipeline.model_validate(
            {
                "name": self.name,
                "dataset": {"train": "a.csv"},
                "model": {"base": "a-base"},
                "task": self.task,
                "metrics": list(self.metrics),
                "gate": dict(gate),
                "publish": {"store": str(self.store)},
            }
        )

    def _evaluate(self, pipeline: Pipeline, name: str, rows: Ints, changes: Mapping[str, Any]) -> StepRef:
        champion, anchor, state, _ = read_champion(self.model, CHANNEL)
        live = {} if champion is None else {CHAMPION: champion.version}
        if anchor is not None and champion is not None and anchor != champion.version:
            live[ANCHOR] = anchor
        seen = RowSet(b"".join(int(row).to_bytes(8, "big") for row in np.sort(rows)))
        identity = EVALUATE.identity({"bundle": export_of(name), "live": live, "rows": seen.sha256})
        digest = digest_of(identity)
        with self._artifacts.staging("evaluate", digest) as staging:
            asked = {"fp32": export_of(name), **{other: other for other in self.asked_besides}}
            asked |= {role: self.model.manifest(version).artifacts["export"] for role, version in live.items()}
            measured = {role: self._answers(staging, role, export, rows) for role, export in asked.items()}
            published = {
                role: ChampionEvidence(**measured[role].model_dump(), version=version, labels=self.names)
                for role, version in live.items()
            }
            values: dict[str, Any] = {
                "model": self.name,
                "task": self.task,
                "labels": self.names,
                "digests": {**self._made_of(name), "export": export_of(name), "evaluate": digest},
                "rows": rows.size,
                "challenger": {"fp32": measured["fp32"]},
                "champion_state": state,
                "champion": published.get(CHAMPION),
                "anchor": published.get(ANCHOR),
                "parity": {"fp32": ParityEvidence(max_difference=1e-5, tolerance=1e-4, rows=256)},
                "threads": 1,
                "baseline": measured.get(BASELINE),
            }
            EvaluationRecord(**{**values, **changes}).save(staging)
            (staging / TEST_ROWS).write_bytes(seen.data)
            output = Evaluated(
                rows=rows.size,
                metrics={},
                champion_state=state,
                champion_version=live.get(CHAMPION),
                champion_metrics=None,
                baseline_metrics=None,
                latency_ms=None,
                rows_per_second=None,
                peak_memory_mb=None,
                test_rows=seen.sha256,
                anchor_version=anchor if pipeline.gate.max_loss is not None else None,
                anchor_error=None,
            ).model_dump(mode="json")
            self._commit(staging, "evaluate", digest, identity, {"export": export_of(name)}, output)
        look = Look(
            channel=CHANNEL, challenger=export_of(name), evaluation=digest, rows=seen.sha256, row_count=rows.size
        )
        write_look(self.model.ledger, look, seen, self.context)
        return StepRef(step="evaluate", digest=digest, root=self.root, reused=False, output=output)

    def _columns(self, rows: Ints) -> dict[str, Any]:
        """What is known of the rows beside their labels, by column of the predictions."""
        return {"characters": np.full(rows.size, 20)}

    def _made_of(self, name: str) -> dict[str, str]:
        """Step to the artifact that a challenger was exported from; none, unless a subclass makes them."""
        return {}

    def _answers(self, folder: Path, role: str, export: str, rows: Ints) -> ModelEvidence:
        """What a model answers, as a file of predictions, and what was measured of it."""
        labels, said = self.labels[rows], self._learnt[rows]
        said[np.isin(rows, self._wrong.get(export, np.flatnonzero(np.arange(self.labels.size) % 3 == 0)))] ^= 1
        scores = np.where(said[:, None] == np.arange(2), 0.9, 0.1)
        path = folder / "predictions" / f"{role}.parquet"
        path.parent.mkdir(exist_ok=True)
        table = pa.table(
            {
                "row_id": pa.array([f"{row:016x}" for row in rows.tolist()], pa.string()),
                "label": labels,
                "prediction": said,
                "scores": pa.array(list(scores), pa.list_(pa.float64())),
                **self._columns(rows),
            }
        )
        pq.write_table(table, path, compression="zstd")
        return ModelEvidence(
            metrics={"accuracy": float((said == labels).mean())},
            latency_ms=None if role in {ANCHOR, BASELINE} else Latency(p50=10.0, p95=12.0),
            size_mb=None if role in {ANCHOR, BASELINE} else 90.0,
            predictions=PredictionsFile(file=f"predictions/{role}.parquet", sha256=sha256_file(path)),
        )

    def _decide(self, pipeline: Pipeline, evaluation: StepRef) -> tuple[str, Receipt]:
        request = DECIDE.plan(pipeline, evaluation, context=self.context)
        assert isinstance(request, StepRequest)
        standing = Standing.from_content(request.identity["standing"], where="request")
        evidence = load_evidence(self._artifacts.local / "evaluate" / evaluation.digest, standing)
        receipt = decide(pipeline.gate, evidence)
        written = receipt_bytes(receipt)
        with self._artifacts.staging("decide", request.digest) as staging:
            (staging / "receipt.json").write_bytes(written)
            self._write_papers(staging, request.digest, evidence, receipt)
            output = Decided.of(receipt).model_dump(mode="json")
            self._commit(staging, "decide", request.digest, request.identity, dict(request.inputs), output)

        def verdict(spent: int) -> Verdict:
            return Verdict(
                channel=CHANNEL,
                spent=spent,
                decision=request.digest,
                receipt=hashlib.sha256(written).hexdigest(),
                verdict=receipt.verdict,
                reasons=receipt.codes,
            )

        entries = close_account(self.model.ledger, standing, verdict, self.context)
        self.model.note_decision(entries, request.digest, judged_in(receipt))
        return request.digest, receipt

    def _write_papers(self, folder: Path, decision: str, evidence: Evidence, receipt: Receipt) -> None:
        """What the decide step leaves for people; nothing, unless a subclass wants it."""

    def _publish(self, name: str, decision: str, receipt: Receipt) -> None:
        folder = self.folder / "bundles" / name
        graph = folder / "onnx" / "model.onnx"
        graph.parent.mkdir(parents=True, exist_ok=True)
        graph.write_text(name)
        files = {"onnx/model.onnx": FileEntry(size=graph.stat().st_size, sha256=sha256_file(graph))}
        scores = {metric: figure.value for metric, figure in figures_in(receipt.metrics[REFERENCE]).items()}
        made: dict[str, Any] = {"model": self.name, "metrics": scores}
        made["artifacts"] = {**self._made_of(name), "export": export_of(name), "decide": decision}
        manifest = make_manifest(name, files).model_copy(update=made)
        self.model.publish(
            folder,
            manifest,
            channel=CHANNEL,
            actor=self.context.actor,
            reason="promoted",
            decision=decision,
            expected=receipt.champion_version,
            anchor=receipt.anchor_moves,
            held_against=receipt.anchor.version if receipt.anchor is not None else None,
            scores=figures_in(receipt.metrics[REFERENCE]),
        )

    def _commit(
        self,
        staging: Path,
        step: str,
        digest: str,
        identity: Mapping[str, Any],
        inputs: Mapping[str, str],
        output: Mapping[str, Any],
    ) -> None:
        self._artifacts.commit(
            staging, step=step, digest=digest, identity=identity, inputs=inputs, output=output, created_at=WHEN
        )


def export_of(name: str) -> str:
    """The export artifact of a challenger."""
    return hashlib.sha256(name.encode()).hexdigest()
