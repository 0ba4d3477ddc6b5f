"""Loading: golden rows are asked, int8 gives way to fp32, damaged or mixed-up files are refused."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from retrainer.errors import IntegrityError
from retrainer.serve.batching import batches, pad
from retrainer.serve.cores import usable_cores
from retrainer.serve.engine import session_options
from retrainer.serve.golden import agreement, read_golden
from retrainer.serve.loading import Loading, load_checked
from retrainer.serve.predictor import Predictor, softmax


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(bundle, tmp_path / "bundle")


def edit_golden(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "golden.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        change(row["logits"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_int8_where_it_agrees(bundle: Path) -> None:
    assert load_checked(bundle).precision == "int8"
    assert load_checked(bundle, Loading("fp32")).precision == "fp32"


def test_fp32_where_the_bundle_has_no_int8(pair_bundle: Path) -> None:
    assert load_checked(pair_bundle).precision == "fp32"
    with pytest.raises(IntegrityError, match="has no int8 graph"):
        load_checked(pair_bundle, Loading("int8"))


def test_fp32_where_int8_answers_otherwise(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_golden(copy, lambda logits: logits.update(int8=[value + 0.5 for value in logits["int8"]]))
    with caplog.at_level(logging.WARNING):
        assert load_checked(copy).precision == "fp32"
    assert "int8 is not used" in caplog.text
    with pytest.raises(IntegrityError, match=r"logits differ by up to 0\.5"):
        load_checked(copy, Loading("int8"))


def test_fp32_that_answers_otherwise_is_refused(copy: Path) -> None:
    edit_golden(copy, lambda logits: logits.update(fp32=logits["fp32"][::-1], int8=logits["int8"][::-1]))
    with pytest.raises(IntegrityError, match="golden rows get another label"):
        load_checked(copy)


def test_without_golden_rows_nothing_is_served(copy: Path) -> None:
    (copy / "golden.jsonl").write_text("")
    with pytest.raises(IntegrityError, match="there are no golden rows"):
        load_checked(copy)


def test_level_labels_may_change_places(copy: Path) -> None:
    """Two labels within the margin are a tie: which one wins depends on the last bit."""
    predictor = Predictor(copy)
    row = read_golden(copy)[-1]
    logits = np.array(row.logits["fp32"], dtype=np.float32)
    best = int(logits.argmax())
    other = (best + 1) % 3
    for lead, changed in ((1e-4, 0), (1.0, 1)):
        swapped = logits.copy()
        swapped[other] = logits[best] + lead
        found = agreement(predictor, [row.model_copy(update={"logits": {"fp32": tuple(swapped.tolist())}})])
        assert found.labels_changed == changed


@pytest.mark.parametrize("name", ["bundle.json", "tokenizer.json", "onnx/model.onnx"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_damaged_files_are_refused(copy: Path, name: str, damage: str) -> None:
    path = copy / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(IntegrityError) as caught:
        load_checked(copy, Loading("fp32"))
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ["input_ids", "attention_mask"]}, "the graph reads"),
        ({"inputs": ["input_ids", "pixels"]}, "which this version cannot give"),
        ({"labels": ["open", "closed"]}, "the graph gives 3 logits for 2 labels"),
        ({"format_version": 2}, "not a valid BundleInfo"),
    ],
)
def test_files_that_do_not_belong_together(copy: Path, change: dict[str, Any], message: str) -> None:
    path = copy / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match=message):
        Predictor(copy)


def test_threads_follow_the_affinity() -> None:
    assert session_options().intra_op_num_threads == usable_cores()
    assert session_options(3).intra_op_num_threads == 3


def test_batches_stay_within_the_budget() -> None:
    lengths = [5, 1, 9, 3, 3, 20, 0]
    found = list(batches(lengths, max_tokens=12))
    assert sorted(int(position) for batch in found for position in batch) == list(range(7))
    for batch in found:
        longest = max(lengths[position] for position in batch)
        assert len(batch) == 1 or longest * len(batch) <= 12
    assert [len(batch) for batch in batches(lengths, max_tokens=1, batch_size=3)] == [3, 3, 1]


def test_padding_on_either_side() -> None:
    class Row:
        def __init__(self, ids: list[int]) -> None:
            self.ids = ids
            self.type_ids = [1] * len(ids)

    names = ("token_type_ids", "input_ids", "attention_mask")
    sides: list[tuple[Literal["right", "left"], slice]] = [("right", slice(0, 1)), ("left", slice(2, 3))]
    for side, place in sides:
        arrays = pad([Row([7, 8, 9]), Row([7])], names, pad_token_id=4, pad_token_type_id=3, side=side)
        assert tuple(arrays) == names
        expected = np.full(3, 4)
        expected[place] = 7
        assert arrays["input_ids"].tolist() == [[7, 8, 9], expected.tolist()]
        assert arrays["attention_mask"].sum(axis=1).tolist() == [3, 1]
        assert arrays["token_type_ids"][1].sum() == 1 + 3 + 3


def test_softmax_of_large_logits() -> None:
    result = softmax(np.array([[1e4, 0.0, -1e4]], dtype=np.float32))
    assert result.dtype == np.float64
    assert result.tolist() == [[1.0, 0.0, 0.0]]


def test_serving_loads_nothing_heavy(bundle: Path) -> None:
    program = (
        "import sys\n"
        "from retrainer.serve import Classifier\n"
        "Classifier.from_folder(sys.argv[1])('the trail is open')\n"
        "heavy = {'torch', 'transformers', 'airflow', 'pandas', 'scipy', 'sklearn', 'boto3', 'onnx', 'datasets'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "print([name for name in sys.modules if name.startswith('retrainer.work')])\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(bundle)], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "[]"]
    assert result.stderr == ""
