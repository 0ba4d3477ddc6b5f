"""What people see of several base models: stages on the terminal, the report, ``retrainer check``."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from retrainer.artifacts.selection import Selection
from retrainer.chain import SELECT, Selected, StepOutput, StepRef, stages_of
from retrainer.chain.messages import Log, Metrics
from retrainer.cli.pipeline_commands import check_file
from retrainer.cli.progress import Lines, LiveList
from retrainer.run.report import brief, make_report
from retrainer.spec import Pipeline, parse_pipeline
from tests.chain.made import trained

BASES = ("org/bert-base", "org/mini")


def pipeline() -> Pipeline:
    return parse_pipeline(
        {
            "name": "news",
            "dataset": {"train": "rows.csv"},
            "model": {"base": list(BASES)},
            "publish": {"store": "s3://models"},
        }
    )


def candidate(base: str, value: float, size: float, difference: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "base": base,
        "export": "0" * 64,
        "parameters": 22_700_000,
        "size_mb": size,
        "latency_ms": {"p50": 4.25, "p95": 6.0},
        "rows_per_second": 123.4,
        "peak_memory_mb": 512.0,
        "metrics": {"accuracy": {"value": value, "low": value - 0.01, "high": value + 0.01}},
        "difference": difference,
        "distinguishable": False,
    }


SELECTION = {
    "metric": "accuracy",
    "rows": 1000,
    "candidates": [
        candidate(BASES[0], 0.92, 440.0, None),
        candidate(
            BASES[1],
            0.915,
            91.0,
            {
                "metric": "accuracy",
                "estimate": 0.005,
                "low": -0.004,
                "high": 0.014,
                "confidence": 0.9,
                "method": "Tango score interval",
                "n": 1000,
                "disagreements": 40,
            },
        ),
    ],
    "agreement": {BASES[0]: {BASES[0]: 1.0, BASES[1]: 0.96}, BASES[1]: {BASES[0]: 0.96, BASES[1]: 1.0}},
    "chosen": BASES[1],
    "why": "org/mini cannot be told apart and is smaller",
}


def ref(step: str, output: StepOutput) -> StepRef:
    return StepRef(step=step, digest="0" * 64, root="/artifacts", reused=False, output=output.model_dump(mode="json"))


def test_the_live_list_has_a_line_for_each_training() -> None:
    stages = stages_of(pipeline())
    display = LiveList(Console(file=io.StringIO(), force_terminal=True), stages=stages, clock=lambda: 0)
    for stage in (stages[1], stages[3]):
        display.planning(stage)
        display.started(stage, None)
        display.message(stage, Log(text=f"about {stage.candidate}"))
    display.finished(stages[3], ref("train", trained()))
    display.planning(stages[5])

    stream = io.StringIO()
    Console(file=stream, width=100, force_terminal=True, color_system=None).print(display)
    shown = [line.split() for line in stream.getvalue().splitlines()]
    assert shown[1][1:3] == ["train", "bert-base"]
    assert shown[1][-2:] == ["about", "bert-base"]
    assert shown[3][:3] == ["✓", "train", "mini"]
    assert shown[5][1] == "select"
    assert len(shown) == 9


def test_lines_name_the_base_model_that_they_are_about() -> None:
    stream = io.StringIO()
    display = Lines(Console(file=stream, width=200), clock=lambda: 0)
    stages = stages_of(pipeline())
    display.planning(stages[3])
    display.message(stages[3], Metrics(epoch=1.0, values={"accuracy": 0.875}))
    display.message(stages[5], Log(text="chosen"))
    assert stream.getvalue().splitlines() == [
        "train    mini: epoch 1 on validation: accuracy 0.8750",
        "select   chosen",
    ]


def test_the_report_has_the_table_and_the_agreement() -> None:
    selection = Selection.model_validate(SELECTION)
    steps = {"select": ref("select", Selected(selection=selection, export="0" * 64))}
    text = make_report(pipeline(), steps).text()
    for words in (
        "mini is chosen by accuracy on 1,000 rows of validation.",
        "0.9150 [0.9050, 0.9250]  22.7 M  4.25 ms  6 ms  123.4    91 MB   512 MB  chosen, tie",
        "512 MB  best",
        "bert-base minus mini: accuracy +0.0050, 90 % interval [-0.0040, +0.0140]",
        "96.0%",
    ):
        assert words in text, text
    assert all(len(line) <= 110 for line in text.splitlines() if "minus" not in line)
    assert brief(steps["select"]) == "mini of 2"
    assert SELECT.output_of(steps["select"]).selection == selection


def write(folder: Path, *bases: Path) -> Path:
    (folder / "rows.csv").write_text("text,label\na,x\nb,y\n")
    file = folder / "pipeline.yaml"
    content = {
        "name": "news",
        "dataset": {"train": "rows.csv"},
        "model": {"base": [str(base) for base in bases]},
        "publish": {"store": "store"},
    }
    file.write_text(yaml.safe_dump(content))
    return file


def test_check_looks_at_every_base_model(tmp_path: Path) -> None:
    one, copy = tmp_path / "one", tmp_path / "copy"
    one.mkdir()
    (one / "config.json").write_text("{}")
    shutil.copytree(one, copy)
    file = write(tmp_path, one, tmp_path / "nowhere", copy)
    found = [finding for finding in check_file(file) if finding.what == "base model"]
    assert [finding.state for finding in found] == ["ok", "broken", "broken"]
    assert "no such folder" in found[1].text
    assert f"the same model as {one}" in found[2].text
