"""``retrainer compare``, as people call it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.nights import MODEL, Nights
from retrainer.store import Store
from tests.cli.conftest import Cli

ROWS = 400


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Two versions, and a challenger that was refused."""
    gate = {"against_champion": {"metric": "accuracy", "mode": "non_inferiority", "margin": 0.01}}
    nights = Nights(tmp_path_factory.mktemp("compared"), ROWS, gate)
    for night, wrong in enumerate((80, 20, 120)):
        nights.night(f"night-{night}", np.arange(wrong))
    return nights


def versions(nights: Nights) -> list[str]:
    moves = Store.open(nights.store).model(MODEL).history("production")
    return [move.to_version for move in moves]


def refused(nights: Nights) -> str:
    decided = [path.parent.name for path in Path(nights.root).glob("decide/*/receipt.json")]
    return next(
        one
        for one in decided
        if json.loads((Path(nights.root) / "decide" / one / "receipt.json").read_text())["verdict"] == "refuse"
    )


def test_two_versions(cli: Cli, made: Nights) -> None:
    new, old = versions(made)
    answer = cli("compare", made.store, MODEL, new, old, "--artifacts", made.root)
    assert answer.returncode == 0, answer.stderr
    assert f"A is version {new[:8]}, B is version {old[:8]}" in answer.stdout
    assert "One evaluation asked both of them: all its 400 rows are compared." in answer.stdout
    assert re.search(
        r"accuracy\t0\.9500 \[.*\]\t0\.8000 \[.*\]\t\+0\.1500 \[\+0\.\d+, \+0\.\d+\]\tA is better", answer.stdout
    )
    assert "only A is right\t60\t15 %" in answer.stdout


def test_a_challenger_by_its_decision(cli: Cli, made: Nights) -> None:
    live, decision = versions(made)[0], refused(made)
    answer = cli("compare", made.store, MODEL, decision, live, "--artifacts", made.root, "--json", "--alpha", "0.01")
    said = json.loads(answer.stdout)
    assert (said["a"]["published"], said["b"]["published"]) == (False, True)
    assert said["on_rows"]["right"] == {"both": 280, "a": 0, "b": 100, "neither": 20, "alike": 300}
    assert said["on_rows"]["scores"][0]["difference"]["confidence"] == pytest.approx(0.98)


def test_what_cannot_be_compared_is_an_error(cli: Cli, made: Nights) -> None:
    live = versions(made)[0]
    twice = cli("compare", made.store, MODEL, live, live, "--artifacts", made.root)
    assert (twice.returncode, "It is the same model twice." in twice.stderr) == (1, True)
    missing = cli("compare", made.store, MODEL, live, "0" * 16, "--artifacts", made.root)
    assert missing.returncode == 1
    assert "0000000000000000" in missing.stderr
    nowhere = cli("compare", made.store, MODEL, live, "..", "--artifacts", made.root)
    assert nowhere.returncode == 1
    assert "Traceback" not in nowhere.stderr
