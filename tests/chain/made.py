"""What steps hand on, made to order, and requests that must be there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrainer.artifacts.repository import Artifacts
from retrainer.artifacts.selection import Selection
from retrainer.chain import Evaluated, Ingested, RunContext, Selected, StepRef, StepRequest, Trained
from retrainer.chain.steps.evaluate import TEST_ROWS
from retrainer.records import sha256_file
from retrainer.store import FileEntry, Manifest, ModelStore
from retrainer.store.ledger import RowSet

CONTEXT = RunContext(root="/artifacts", run_id="run", actor="tester", started_at="2026-01-01T00:00:00+00:00")


def in_root(root: object) -> RunContext:
    """The same with another root for the first step."""
    return CONTEXT.model_copy(update={"root": str(root)})


def planned(request: StepRequest | StepRef) -> StepRequest:
    assert isinstance(request, StepRequest)
    return request


def ingested(**fields: Any) -> Ingested:
    empty: dict[str, Any] = {
        "rows": {"train": 10},
        "labels": ("a", "b"),
        "source_rows": 10,
        "duplicates": 0,
        "conflicts": 0,
        "leakage": {},
        "near_leakage": {},
        "quarantined": {},
    }
    return Ingested(**{**empty, **fields})


def selected(chosen: str, export: str) -> Selected:
    selection = Selection(metric="accuracy", rows=10, candidates=(), agreement={}, chosen=chosen, why="it is the best")
    return Selected(selection=selection, export=export)


def trained(**fields: Any) -> Trained:
    some: dict[str, Any] = {
        "base_model": "base",
        "epochs": 3.0,
        "steps": 225,
        "best_step": 225,
        "metrics": {"loss": 0.5, "accuracy": 0.9},
        "rows_per_second": 28.84,
        "seconds": 125.0,
        "device": "cpu",
        "resumed_from": None,
        "parameters": 22_700_000,
    }
    return Trained(**{**some, **fields})


ROWS = RowSet(bytes(range(80)))
"""Ten test rows."""


def evaluated(rows: RowSet = ROWS, **fields: Any) -> Evaluated:
    some: dict[str, Any] = {
        "rows": len(rows),
        "metrics": {"accuracy": 0.9},
        "champion_state": "none",
        "champion_version": None,
        "champion_metrics": None,
        "baseline_metrics": None,
        "latency_ms": None,
        "rows_per_second": None,
        "peak_memory_mb": None,
        "test_rows": rows.sha256,
        "anchor_version": None,
        "anchor_error": None,
    }
    return Evaluated(**{**some, **fields})


def evaluation(root: Path, digest: str, inputs: dict[str, str], rows: RowSet = ROWS, **fields: Any) -> StepRef:
    """An evaluate artifact, as far as a decision is planned from it.

    :param fields: of what the step hands on.
    """
    artifacts = Artifacts(root)
    output = evaluated(rows, **fields).model_dump(mode="json")
    with artifacts.staging("evaluate", digest) as staging:
        (staging / TEST_ROWS).write_bytes(rows.data)
        artifacts.commit(
            staging,
            step="evaluate",
            digest=digest,
            identity={},
            inputs=inputs,
            output=output,
            created_at="2026-01-01",
        )
    return StepRef(step="evaluate", digest=digest, root=str(root), reused=False, output=output)


def publish_bundle(model: ModelStore, folder: Path, export: str, *, expected: str | None = None) -> str:
    """Publish a version made from that export artifact; its name.

    :param folder: where its files go.
    """
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    graph = folder / "onnx" / "model.onnx"
    graph.write_text(export)
    manifest = Manifest.model_validate(
        {
            "model": "trails",
            "task": "text-classification",
            "labels": ("closed", "open"),
            "max_length": 32,
            "precisions": {"fp32": {"file": "onnx/model.onnx", "weight_types": {"FLOAT": 1}}},
            "files": {"onnx/model.onnx": FileEntry(size=graph.stat().st_size, sha256=sha256_file(graph))},
            "metrics": {"accuracy": 0.9},
            "base_model": "somewhere",
            "base_revision": "1",
            "artifacts": {"export": export},
            "libraries": {},
            "git_commit": None,
        }
    )
    done = model.publish(
        folder, manifest, channel="production", actor="tester", reason="test", decision=None, expected=expected
    )
    return done.version
