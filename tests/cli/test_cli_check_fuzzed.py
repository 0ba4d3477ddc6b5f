"""``retrainer check`` of anything that calls itself a pipeline file: a worded answer, soon, and in little memory.

200 inputs here; ``RETRAINER_EXAMPLES=20000 pytest tests/cli/test_cli_check_fuzzed.py`` takes that many.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from retrainer.cli.pipeline_commands import check_file

EXAMPLES = int(os.environ.get("RETRAINER_EXAMPLES", "200"))
MOST_SECONDS = 5.0  # of a processor, however many others want it
MOST_MEGABYTES = 500

VALID: dict[str, Any] = {
    "name": "fuzzed",
    "task": "text-classification",
    "dataset": {
        "train": ["train.csv"],
        "validation": None,
        "test": "test.csv",
        "text": "text",
        "label": "label",
        "labels": ["open", "closed"],
        "split": {"validation": 0.1, "test": 0.2, "seed": 42, "stratify": True},
        "checks": {"min_rows": 2, "min_rows_per_label": 1, "max_null_fraction": 0.0, "on_leakage": "remove"},
    },
    "model": {"base": "base", "max_length": 128},
    "training": {
        "num_train_epochs": 3,
        "learning_rate": 5e-5,
        "eval_strategy": "epoch",
        "seed": 1,
        "max_steps": -1,
        "save_steps": 10,
        "metric_for_best_model": "f1",
        "early_stopping_patience": 2,
    },
    "metrics": ["accuracy", "f1", "f1_binary"],
    "positive_label": "open",
    "gate": {
        "floors": {"accuracy": 0.85},
        "confident": False,
        "against_champion": {"metric": "accuracy", "mode": "non_inferiority", "margin": 0.01, "alpha": 0.05},
        "slices": {"by": ["label", "length"], "patterns": ["(?i)refund"], "min_rows": 50, "max_drop": 0.05},
        "budgets": {"threads": 1, "p95_latency_ms": 50, "max_latency_ratio": 1.5},
        "baseline": "report",
        "drift": {"warn": 0.1, "block": {"labels": 0.3}},
    },
    "export": {"precisions": ["fp32", "int8"], "calibration": "none"},
    "publish": {"store": "store", "channel": "production", "approval": "none", "trusted_keys": []},
    "schedule": {"cron": "@daily", "on_new_data": False, "min_new_rows": 1},
    "resources": {"gpus": 1, "pool": "gpu_pool", "processes": 1},
}
WRITTEN = yaml.safe_dump(VALID, sort_keys=False).encode()


def paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value inside another one."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*above, key)
        yield from paths(item, (*above, key))


# Without '/', '~' and '.': a path of somebody's whole disk is read as one.
TEXTS = st.text(st.characters(exclude_characters="/~.", exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["@daily", "* * * * *", "x" * 5_000, "9" * 5_000, "ed25519:é", "(((", "a{99999999999}", "\0", "package:__main__/x"]
)
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, -1, 2**31, 2**32, 10**30, 10**99, 10**400, 1e308, float("nan"), float("inf")])
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


@st.composite
def with_other_values(draw: st.DrawFn) -> bytes:
    document = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(list(paths(document))))
        place = document
        for part in above:
            place = place[part]
        if isinstance(place, dict) and draw(st.integers(0, 4)) == 0:
            place[draw(TEXTS)] = place.pop(key)
        else:
            place[key] = draw(ANYTHING)
    if draw(st.booleans()):
        return json.dumps(document, ensure_ascii=False).encode()
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode()


@st.composite
def with_other_bytes(draw: st.DrawFn) -> bytes:
    content = WRITTEN
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(content)))
        end = start + draw(st.sampled_from([0, 0, 1, 2, 10, 100]))
        again = draw(st.sampled_from([b"", content[start:end], content[start:end] * 3]) | st.binary(max_size=6))
        content = content[:start] + again + content[end:]
    return content


YAML_LIKE = st.text("[]{}:,-&*!|>?%@`'\"# \n\tabx01.~<", max_size=400).map(str.encode)
LAUGHS = "".join(
    f"{name}: &{name} [{', '.join([f'*{of}'] * 9)}]\n" for of, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the valid file has no problem."""
    folder = tmp_path_factory.mktemp("fuzzed")
    for name in ("train.csv", "test.csv"):
        (folder / name).write_text("text,label\na,open\nb,closed\n")
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{}")
    (folder / "pipeline.yaml").write_bytes(WRITTEN)
    assert {finding.state for finding in check_file(folder / "pipeline.yaml")} <= {"ok", "warning"}
    return folder


def most_megabytes() -> float:
    """The largest resident memory since the last call."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.binary(max_size=2_000) | YAML_LIKE | with_other_bytes() | with_other_values())
@example(("a: &a [x, x]\n" + LAUGHS).encode())
@example(("a: &a {x: 1}\n" + LAUGHS.replace("[", "{<<: [").replace("]", "]}")).encode())
@example(b"a: &a x\nb: [" + b", ".join([b"*a"] * 230_000) + b"]")
@example(b"[" * 900_000)
@example(b"- " * 400_000)
@example(b"\n".join(b"key%d: 1" % at for at in range(9_000)))
@example(b"training:\n" + b"\n".join(b"  lerning_rate%d: 1" % at for at in range(9_000)))
@example(b"metrics: [" + b", ".join(b"acuracy%d" % at for at in range(9_000)) + b"]")
@example(b"x" * 1_000_001)
@example(b"name: " + b"9" * 5_000)
def test_any_bytes_have_a_worded_answer(place: Path, content: bytes) -> None:
    file = place / "pipeline.yaml"
    file.write_bytes(content)
    before = most_megabytes()
    started = time.process_time()
    findings = list(check_file(file))
    assert time.process_time() - started < MOST_SECONDS
    assert most_megabytes() - before < MOST_MEGABYTES
    assert findings
    assert all(finding.text for finding in findings)


def test_a_pipe_and_a_device_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for file in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        (finding,) = check_file(file)
        assert (finding.state, "a pipe or a device is there, not a file" in finding.text) == ("broken", True)
