"""The report of a run, from the references of its steps alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retrainer.chain import StepRef, Unchanged, outcome_of
from retrainer.chain.model_store import loading_code
from retrainer.errors import IntegrityError
from retrainer.report.figures import scores
from retrainer.run.report import brief, make_report
from retrainer.spec import Pipeline, parse_pipeline
from tests.chain.made import ingested, trained

OUTPUTS: dict[str, dict[str, Any]] = {
    "ingest": ingested(
        rows={"train": 1200, "validation": 100, "test": 200},
        labels=("closed", "open"),
        duplicates=3,
        leakage={"train_in_test": 1, "validation_in_test": 0},
        quarantined={"missing_text": 2, "also_in_test": 1},
    ).model_dump(mode="json"),
    "train": trained(resumed_from="checkpoint-75").model_dump(mode="json"),
    "export": {
        "precisions": ["fp32", "int8"],
        "max_difference": {"fp32": 3.6e-7, "int8": 0.07},
        "label_agreement": {"fp32": 1.0, "int8": 0.99},
        "rows": 100,
        "longest_tokens": 20,
        "exporter": "dynamo",
        "size_mb": {"fp32": 90.9},
        "temperatures": {},
    },
    "evaluate": {
        "rows": 200,
        "metrics": {"accuracy": 0.91, "f1": None},
        "champion_state": "present",
        "champion_version": "c" * 16,
        "champion_metrics": {"accuracy": 0.9, "f1": 0.88},
        "baseline_metrics": None,
        "latency_ms": {"p50": 4.2, "p95": 6.25},
        "rows_per_second": 100.0,
        "peak_memory_mb": None,
        "test_rows": "0" * 64,
        "anchor_version": None,
        "anchor_error": None,
    },
    "decide": {
        "verdict": "promote",
        "reasons": [],
        "notes": ["int8 is not published"],
        "metrics": {},
        "confidence": "90 %",
        "comparison": {
            "metric": "accuracy",
            "estimate": 0.01,
            "low": -0.005,
            "high": 0.025,
            "confidence": 0.9,
            "method": "Tango score interval",
            "n": 200,
            "disagreements": 12,
        },
        "threshold": -0.01,
        "rows_needed": None,
        "champion_version": "c" * 16,
        "precisions": ["fp32"],
        "baseline": None,
        "baseline_comparison": None,
        "drift": None,
    },
    "publish": {
        "version": "d" * 16,
        "channel": "production",
        "moved": True,
        "previous": "c" * 16,
        "sequence": 2,
        "store": "s3://models",
        "model": "news",
        "precisions": ["fp32"],
        "metrics": {},
        "decision": "0" * 64,
        "move": "0" * 64,
        "sent_bytes": 1,
        "copied_bytes": 0,
        "signed_by": None,
    },
}


def pipeline(**publish: Any) -> Pipeline:
    return parse_pipeline(
        {
            "name": "news",
            "dataset": {"train": "rows.csv"},
            "model": {"base": "base"},
            "publish": {"store": "s3://models", **publish},
        }
    )


def refs(*, until: str = "publish", **changes: dict[str, Any]) -> dict[str, StepRef]:
    """References up to a step; ``changes`` update what the step of that name handed on."""
    steps: dict[str, StepRef] = {}
    for step, output in OUTPUTS.items():
        whole = {**output, **changes.get(step, {})}
        steps[step] = StepRef(step=step, digest="0" * 64, root="/artifacts", reused=step == "ingest", output=whole)
        if step == until:
            break
    return steps


REFUSED = {
    "verdict": "refuse",
    "reasons": [
        {"code": "floor_missed", "detail": "accuracy 0.1 against 0.8"},
        {"code": "worse_than_champion", "detail": "by 0.8"},
    ],
    "rows_needed": 5000,
}


def test_promoted_says_everything() -> None:
    report = make_report(pipeline(), refs(), folder="/artifacts/runs/today")
    assert report.outcome == "promoted"
    text = report.text()
    for words in (
        "Data (done before)\n",
        "train 1,200, validation 100, test 200",
        "labels       closed, open",
        "3 dropped",
        "1 row: train in test 1",
        "3 rows: missing text 2, also in test 1",
        "3 (225 steps)",
        "accuracy 0.9000, loss 0.5000",
        "28.8 rows/s on cpu",
        "2 min 05 s",
        "resumed from        checkpoint-75",
        "fp32 within 3.6e-07, int8 within 7.0e-02",
        "0.9100   champion 0.9000   +0.0100",
        "f1        -   champion 0.8800",
        "accuracy +0.0100, 90 % interval [-0.0050, +0.0250]",
        "The whole interval must be above -0.01.",
        "int8 is not published",
        f"before   {'c' * 16}",
        "/artifacts/runs/today",
        'Classifier.from_store("s3://models", "news")',
    ):
        assert words in text, text
    assert text.endswith(f"\n\npromoted: version {'d' * 16} of news is live on production\n")


def test_refused_names_the_reasons_and_what_stays() -> None:
    report = make_report(pipeline(), refs(until="decide", decide=REFUSED))
    assert report.outcome == "refused"
    assert report.headline == (f"refused: floor_missed, worse_than_champion; production stays at version {'c' * 16}")
    assert "accuracy 0.1 against 0.8 (floor_missed)\n" in report.text()
    assert "About 5,000 test rows would tell." in report.text()
    assert "Classifier" in report.code


def test_refused_without_a_readable_champion_claims_nothing_about_it() -> None:
    none = {"champion_version": None, "champion_metrics": None}
    report = make_report(pipeline(), refs(until="decide", decide={**REFUSED, "comparison": None}, evaluate=none))
    assert report.headline.endswith("production has not moved")
    assert report.code == ""
    assert "not compared with a champion" in report.text()


def test_unchanged_says_so() -> None:
    same = Unchanged(version="c" * 16, channel="production", metrics={"accuracy": 0.9})
    steps = refs(until="decide")
    steps |= {step: steps[step].model_copy(update={"unchanged": same}) for step in ("evaluate", "decide")}
    report = make_report(pipeline(), steps)
    assert report.headline == f"unchanged: production already serves this model, version {'c' * 16} of news"
    assert [section.title for section in report.sections][-2:] == ["Evaluation", "Where"]
    assert brief(steps["evaluate"]).startswith("unchanged")


def test_promoted_but_not_published_waits_for_approval() -> None:
    report = make_report(pipeline(approval="required"), refs(until="decide"))
    assert report.outcome == "unapproved"
    assert f"production stays at version {'c' * 16}" in report.headline


def test_only_the_word_promote_promotes() -> None:
    assert outcome_of(refs(until="decide"), approved=True) == "promoted"
    assert outcome_of(refs(until="decide"), approved=False) == "unapproved"
    assert outcome_of(refs(until="decide", decide={"verdict": "refuse"}), approved=True) == "refused"
    assert outcome_of(refs(until="train"), approved=True) == "refused"


@pytest.mark.parametrize("verdict", [None, "", "promoted", "PROMOTE", 1, True])
def test_a_decision_that_cannot_be_read_is_an_error(verdict: Any) -> None:
    with pytest.raises(IntegrityError, match="verdict"):
        outcome_of(refs(until="decide", decide={"verdict": verdict}), approved=True)


def test_code_that_loads_pairs_from_another_channel() -> None:
    pairs = parse_pipeline(
        {
            "name": "mrpc",
            "task": "text-pair-classification",
            "dataset": {"train": "rows.csv", "text": ["a", "b"]},
            "model": {"base": "base"},
            "publish": {"store": "/models", "channel": "staging"},
        }
    )
    code = loading_code(pairs)
    assert 'from_store("/models", "mrpc", channel="staging")' in code
    assert '("first text", "second text")' in code
    compile(code, "report", "exec")


def test_a_store_with_quotes_in_its_path_still_gives_code(tmp_path: Path) -> None:
    odd = tmp_path / 'a "quoted" folder'
    compile(loading_code(pipeline(store=str(odd))), "report", "exec")


def test_every_step_has_a_few_words() -> None:
    for ref in refs().values():
        assert brief(ref)
    assert "champion" in brief(refs()["evaluate"])
    assert scores({}) == ""


def test_rows_that_are_nearly_a_held_out_row_are_said() -> None:
    assert "near leakage" not in make_report(pipeline(), refs(ingest={"near_leakage": {"train_in_test": 0}})).text()
    near = make_report(pipeline(), refs(ingest={"near_leakage": {"train_in_test": 6, "train_in_validation": 1}}))
    assert "near leakage  7 rows: train in test 6, train in validation 1" in near.text()
