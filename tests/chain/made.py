"""What steps hand on, made to order, and requests that must be there."""

from __future__ import annotations

from typing import Any

from retrainer.artifacts.selection import Selection
from retrainer.chain import Ingested, RunContext, Selected, StepRef, StepRequest, Trained

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
