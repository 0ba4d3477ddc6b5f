"""The threshold of each label: no other gives a better F1 on the same rows; where few rows have it, it stays a half."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from retrainer.artifacts.calibration import CalibrationReport
from retrainer.errors import DataError, IntegrityError
from retrainer.serve.predictor import BUNDLE, Predictor, load_info, sigmoid
from retrainer.store.bundle import BundleInfo
from retrainer.work.export.calibrate import FEWEST_ROWS, calibrate, fit_temperature
from retrainer.work.export.sample import Row, read_rows
from retrainer.work.export.thresholds import FEWEST_POSITIVES, best_threshold, f1_of, fit_thresholds
from tests.label_sets.conftest import LABELS

# Steps of 0.01, so that some are equal.
STEPS = st.integers(1, 99)


@given(st.lists(st.tuples(STEPS, st.booleans()), min_size=1, max_size=60).filter(lambda rows: any(r[1] for r in rows)))
def test_no_threshold_gives_a_better_f1(rows: list[tuple[int, bool]]) -> None:
    probabilities, truth = np.array([step / 100 for step, _ in rows]), np.array([has for _, has in rows])
    found = best_threshold(probabilities, truth)
    assert 0.0 < found < 1.0
    best = f1_of(probabilities >= found, truth)
    others = [(2 * step + 1) / 200 for step in range(100)]
    scores = [f1_of(probabilities >= other, truth) for other in others]
    assert best == pytest.approx(max(scores))
    assert best == pytest.approx(f1_score(truth, probabilities >= found))
    # Where a half is as good as any, it gives the same.
    if f1_of(probabilities >= 0.5, truth) == best:
        assert (probabilities >= found).tolist() == (probabilities >= 0.5).tolist()


# Near 0, 0.5, 1 and between, down to neighbouring floats, the ends themselves included.
NEAR, DIGITS = st.sampled_from([0.0, 1e-7, 0.1237, 0.5, 0.51236, 0.99994, 1.0]), st.sampled_from([1, 4, 5, 6, 7, 9, 16])
CLOSE = st.tuples(NEAR, DIGITS, st.integers(-9, 9))


@given(st.lists(st.tuples(CLOSE, st.booleans()), min_size=FEWEST_POSITIVES, max_size=60))
@example([((0.99999, 7, 0), True)] * 20 + [((0.99994, 7, 0), False)] * 80)
@example([((0.51239, 7, 0), True)] * 20 + [((0.51233, 7, 0), False)] * 80)
@example([((1.0, 7, 0), True)] * 20 + [((1.0, 16, -1), False)] * 80)
@example([((0.0, 7, 0), True)] * 20)
def test_rounding_takes_a_threshold_over_no_row(rows: list[tuple[tuple[float, int, int], bool]]) -> None:
    probabilities = np.array([min(1.0, max(0.0, near + steps * 10.0**-digits)) for (near, digits, steps), _ in rows])
    truth = np.array([has for _, has in rows])
    (fitted,) = fit_thresholds(probabilities[:, None], truth[:, None], ("mud",)).values()
    assert 0.0 < fitted.threshold < 1.0
    assert fitted.f1 >= fitted.f1_at_half
    if fitted.why_not_fitted is None:
        reachable = [min(max(value, 5e-324), np.nextafter(1.0, 0.0)) for value in probabilities]
        assert fitted.f1 == max(f1_of(probabilities >= value, truth) for value in [*reachable, 0.5])


def test_of_two_as_good_the_one_nearer_to_a_half_is_taken() -> None:
    probabilities, truth = np.array([0.9, 0.6, 0.2, 0.1]), np.array([True, False, False, True])
    # With 0.75 one of the two is found without a mistake, and with 0.05 both with two: 2/3 either way.
    assert f1_of(probabilities >= 0.75, truth) == f1_of(probabilities >= 0.05, truth)
    assert best_threshold(probabilities, truth) == 0.75


def test_a_label_that_few_rows_have_keeps_a_half_and_says_so() -> None:
    source = np.random.default_rng(0)
    probabilities = source.random((200, 2))
    truth = np.zeros((200, 2), dtype=np.bool_)
    truth[: FEWEST_POSITIVES - 1, 0] = truth[:FEWEST_POSITIVES, 1] = True
    few, enough = fit_thresholds(probabilities, truth, ("few", "enough")).values()
    assert (few.threshold, few.f1, few.positives) == (0.5, few.f1_at_half, FEWEST_POSITIVES - 1)
    assert few.why_not_fitted == f"{FEWEST_POSITIVES - 1} validation rows have it, and it takes {FEWEST_POSITIVES}"
    assert enough.why_not_fitted is None
    assert enough.f1 > enough.f1_at_half


@given(st.floats(0.4, 6.0), st.integers(0, 2**16))
def test_the_temperature_of_sets_is_found_too(sharpness: float, seed: int) -> None:
    source = np.random.default_rng(seed)
    honest = source.normal(scale=1.5, size=(2000, 4)).astype(np.float32)
    truth = (source.random(honest.shape) < sigmoid(honest)).astype(np.int64)
    fit = fit_temperature(honest * np.float32(sharpness), truth)
    assert fit.why_not is None
    assert fit.temperature == pytest.approx(sharpness, rel=0.15)


def test_where_no_temperature_can_be_fitted_it_says_why() -> None:
    logits = np.tile(np.array([[3.0, -3.0]], dtype=np.float32), (FEWEST_ROWS, 1))
    truth = np.tile(np.array([[1, 0]]), (FEWEST_ROWS, 1))
    assert "the same labels" in str(fit_temperature(logits, truth).why_not)
    truth[0] = [0, 1]
    logits[0] = [-3.0, 3.0]
    assert "are right" in str(fit_temperature(logits, truth).why_not)
    assert "too few" in str(fit_temperature(logits[1:], truth[1:]).why_not)


def test_thresholds_go_into_the_bundle_also_without_a_temperature(exported: Path, bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    rows = read_rows(exported / "ingest" / "validation.parquet")
    report = calibrate(copy, rows, temperature=False)
    info = load_info(copy)
    for precision, entry in info.precisions.items():
        assert entry.temperature is None
        assert report.graphs[precision].why_not_fitted == "export.calibration is none"
        predictor = Predictor(copy, precision=precision)
        assert predictor.thresholds is not None
        truth = np.array([[at in row.label for at in range(len(LABELS))] for row in rows])  # type: ignore[operator]
        applies = predictor.probabilities([row.text for row in rows]) >= predictor.thresholds
        for at, fitted in enumerate((report.graphs[precision].thresholds or {}).values()):
            assert f1_of(applies[:, at], truth[:, at]) == pytest.approx(fitted.f1)
    assert CalibrationReport.from_json(report.to_json(), where="here") == report
    with pytest.raises(DataError, match="a row without a label"):
        calibrate(copy, [Row("0" * 16, "a text")])


def test_a_bundle_has_a_threshold_for_each_label_or_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    content = json.loads((copy / BUNDLE).read_bytes())
    content["precisions"]["fp32"]["thresholds"] = [0.5]
    (copy / BUNDLE).write_text(json.dumps(content))
    with pytest.raises(IntegrityError, match="1 thresholds for 3 labels"):
        load_info(copy)
    content["precisions"]["fp32"] = {"file": "onnx/model.onnx", "weight_types": {}}
    (copy / BUNDLE).write_text(json.dumps(content))
    untold = Predictor(copy).thresholds
    assert untold is not None
    assert untold.tolist() == [0.5] * 3


def test_other_bundles_keep_their_bytes(bundle: Path) -> None:
    of_sets = load_info(bundle)
    one = of_sets.precisions["fp32"].model_copy(update={"thresholds": None})
    plain = of_sets.model_copy(update={"precisions": {"fp32": one}})
    assert "thresholds" not in json.loads(plain.to_json())["precisions"]["fp32"]
    assert BundleInfo.from_json(plain.to_json(), where="here") == plain
