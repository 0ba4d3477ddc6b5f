"""``retrainer init`` on rows that have any number of labels."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from retrainer.cli import app
from retrainer.spec import Pipeline, load_pipeline
from tests.label_sets.conftest import LABELS, TASK, rows

SOME = rows(200)


def proposed(folder: Path, lines: list[dict[str, Any]], *options: str) -> Pipeline:
    data, file = folder / "reports.jsonl", folder / "pipeline.yaml"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = CliRunner().invoke(app, ["init", str(data), "--output", str(file), "--store", str(folder / "s"), *options])
    assert answer.exit_code == 0, answer.output
    return load_pipeline(file)


def test_a_column_of_lists(tmp_path: Path) -> None:
    lines = [
        {"report": text, "conditions": has, "tokens": text.split(), "at": at} for at, (text, has) in enumerate(SOME)
    ]
    pipeline = proposed(tmp_path, lines)
    assert (pipeline.task, pipeline.dataset.text, pipeline.dataset.label) == (TASK, "report", "conditions")
    assert pipeline.dataset.labels == LABELS
    assert pipeline.metrics == ("f1_micro", "f1_macro", "subset_accuracy")
    sets = [frozenset(has) for _, has in SOME]
    most = max(map(sets.count, sets)) / len(sets)
    assert most < pipeline.gate.floors["subset_accuracy"] < most + 0.2
    assert pipeline.gate.against_champion is not None
    assert pipeline.gate.against_champion.metric == "subset_accuracy"


def test_a_column_for_each_label(tmp_path: Path) -> None:
    lines = [{"report": text, **{label: int(label in has) for label in LABELS}} for text, has in SOME]
    pipeline = proposed(tmp_path, lines)
    assert (pipeline.task, pipeline.dataset.label, pipeline.dataset.labels) == (TASK, LABELS, None)
    chosen = proposed(tmp_path, lines, "--label", "mud", "--label", "trees", "--force")
    assert chosen.dataset.label == ("mud", "trees")
    assert proposed(tmp_path, lines, "--label", "mud", "--force").task == "text-classification"


def test_several_columns_are_a_guess_that_says_what_to_type_instead(tmp_path: Path) -> None:
    lines = [{"report": text, "is wet": int("mud" in has), "crowd": int("crowd" in has)} for text, has in SOME if has]
    data, file = tmp_path / "reports.jsonl", tmp_path / "pipeline.yaml"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = CliRunner().invoke(app, ["init", str(data), "--output", str(file)], terminal_width=400)
    assert answer.exit_code == 0, answer.output
    written = file.read_text()
    alone = "a guess; if only one of these is what you want: --label 'is wet'"
    assert alone in written
    assert "a guess, for each holds 0 and 1" in " ".join(answer.output.split())
    sets = [tuple(name for name in ("is wet", "crowd") if line[name]) for line in lines]
    common = max(set(sets), key=sets.count)
    assert f"Always answering {' and '.join(common) or 'that none of the labels applies'} is right" in written
    typed = shlex.split(alone.partition(": ")[2])
    assert proposed(tmp_path, lines, *typed, "--force").dataset.label == "is wet"


def test_the_others_are_shown_as_they_are_typed(tmp_path: Path) -> None:
    lines = [
        {"report": text, "label": int("mud" in has), "verified": at % 2, "conditions": has}
        for at, (text, has) in enumerate(SOME)
    ]
    data = tmp_path / "reports.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    answer = CliRunner().invoke(app, ["init", str(data), "--output", str(tmp_path / "pipeline.yaml")])
    assert "--label label --label verified" in " ".join(answer.output.split()), answer.output


def test_a_column_with_gaps_is_none_of_several(tmp_path: Path) -> None:
    """Of a row that lacks one of them nobody would know the labels."""
    lines: list[dict[str, Any]] = [
        {"report": text, "mud": int("mud" in has), "crowd": int("crowd" in has), "bear": 1 if at % 2 else None}
        for at, (text, has) in enumerate(SOME)
    ]
    for line in lines[::5]:
        line["bear"] = 0
    assert proposed(tmp_path, lines).dataset.label == ("mud", "crowd")


def test_one_label_is_one_label(tmp_path: Path) -> None:
    """Though there are columns that hold 0 and 1."""
    lines = [
        {"report": text, "wet": at % 2, "cold": at % 3 // 2, "label": ("open", "closed", "unknown")[at % 3]}
        for at, (text, _) in enumerate(SOME)
    ]
    pipeline = proposed(tmp_path, lines)
    assert (pipeline.task, pipeline.dataset.label) == ("text-classification", "label")
