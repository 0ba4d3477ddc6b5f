"""TF-IDF with logistic regression: what it learns, that it is the same every time, and what it cannot be fitted on."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrainer.errors import DataError
from retrainer.work.evaluate import baseline
from retrainer.work.evaluate.baseline import fit_baseline
from retrainer.work.snapshot_texts import Text


def write(path: Path, texts: list[Text], labels: list[int]) -> Path:
    pairs = [text if isinstance(text, tuple) else (text, "") for text in texts]
    columns = {
        "row_id": [hashlib.blake2b(repr(text).encode(), digest_size=8).hexdigest() for text in texts],
        "text": [first for first, _ in pairs],
        **({"text_pair": [second for _, second in pairs]} if isinstance(texts[0], tuple) else {}),
        "label": pa.array(labels, pa.int64()),
    }
    pq.write_table(pa.table(columns), path)
    return path


def weather(rows: int) -> tuple[list[Text], list[int]]:
    words = (["sun", "warm", "dry"], ["rain", "cold", "wet"])
    labels = [row % 2 for row in range(rows)]
    return [
        f"day {row} {words[label][row % 3]} and {words[label][row % 2]}" for row, label in enumerate(labels)
    ], labels


def test_it_learns_what_words_say(tmp_path: Path) -> None:
    texts, labels = weather(60)
    fitted = fit_baseline(write(tmp_path / "train.parquet", texts, labels), ("dry", "wet", "unseen"))
    predictions, scores = fitted.answers(["a warm sun", "cold rain", "warm", "wet"])
    assert predictions.tolist() == [0, 1, 0, 1]
    assert predictions.dtype == np.int64
    assert scores.shape == (4, 3)
    assert (scores[:, 2] == 0).all()
    assert scores.sum(axis=1) == pytest.approx(1)
    assert (scores.argmax(axis=1) == predictions).all()
    assert fitted.rows == 60


def test_labels_of_the_rows_need_not_begin_at_nought(tmp_path: Path) -> None:
    texts, labels = weather(60)
    fitted = fit_baseline(write(tmp_path / "train.parquet", texts, [1 + 2 * label for label in labels]), tuple("abcd"))
    predictions, scores = fitted.answers(["warm sun", "cold rain"])
    assert predictions.tolist() == [1, 3]
    assert (scores[:, [0, 2]] == 0).all()


def test_the_same_rows_in_any_order_give_the_same_scores(tmp_path: Path) -> None:
    texts, labels = weather(80)
    backwards = write(tmp_path / "backwards.parquet", texts[::-1], labels[::-1])
    first = fit_baseline(write(tmp_path / "forwards.parquet", texts, labels), ("dry", "wet"))
    second = fit_baseline(backwards, ("dry", "wet"))
    for again in (second, fit_baseline(backwards, ("dry", "wet"))):
        assert (first.answers(texts)[1] == again.answers(texts)[1]).all()


def test_pairs_are_told_apart_by_what_they_share(tmp_path: Path) -> None:
    """Neither text alone says anything: the label is whether the second repeats the first."""
    words = np.array([f"word{number}" for number in range(40)])
    random = np.random.default_rng(0)
    texts: list[Text] = []
    labels = []
    for row in range(400):
        first, other = random.choice(words, 6, replace=False), random.choice(words, 6, replace=False)
        texts.append((" ".join(first), " ".join(random.permutation(first) if row % 2 else other)))
        labels.append(row % 2)
    fitted = fit_baseline(write(tmp_path / "train.parquet", texts[:300], labels[:300]), ("other", "same"))
    predictions, _ = fitted.answers(texts[300:])
    assert (predictions == labels[300:]).mean() > 0.95


def test_texts_without_spaces_have_words(tmp_path: Path) -> None:
    texts: list[Text] = [f"今日は{'晴れ' if row % 2 else '大雨'}です{row}" for row in range(40)]
    fitted = fit_baseline(write(tmp_path / "train.parquet", texts, [row % 2 for row in range(40)]), ("rain", "sun"))
    assert fitted.analyzer == "word"
    assert fitted.answers(["明日は大雨", "明日は晴れ"])[0].tolist() == [0, 1]


def test_texts_without_words_are_counted_by_characters(tmp_path: Path) -> None:
    texts: list[Text] = [(":-)" if row % 2 else ":-(") * (1 + row % 5) for row in range(40)]
    fitted = fit_baseline(write(tmp_path / "train.parquet", texts, [row % 2 for row in range(40)]), ("sad", "glad"))
    assert fitted.analyzer == "char"
    assert fitted.answers([":-(", ":-)"])[0].tolist() == [0, 1]


def test_what_cannot_be_fitted_is_said(tmp_path: Path) -> None:
    texts, labels = weather(20)
    with pytest.raises(DataError, match="same label"):
        fit_baseline(write(tmp_path / "one.parquet", texts, [1] * 20), ("dry", "wet"))
    with pytest.raises(DataError, match="neither words nor characters"):
        fit_baseline(write(tmp_path / "blank.parquet", [""] * 20, labels), ("dry", "wet"))
    with pytest.raises(DataError, match="no train row"):
        schema = pa.schema([("row_id", pa.string()), ("text", pa.string()), ("label", pa.int64())])
        pq.write_table(schema.empty_table(), tmp_path / "none.parquet")
        fit_baseline(tmp_path / "none.parquet", ("dry", "wet"))


def test_text_that_holds_nothing_known_still_gets_probabilities(tmp_path: Path) -> None:
    texts, labels = weather(40)
    fitted = fit_baseline(write(tmp_path / "train.parquet", texts, labels), ("dry", "wet"))
    _, scores = fitted.answers(["", "???", "zebra"])
    assert np.isfinite(scores).all()
    assert scores.sum(axis=1) == pytest.approx(1)
    assert fitted.answers([])[1].shape == (0, 2)


def test_many_rows_are_sampled_by_their_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MOST_ROWS", 50)
    texts, labels = weather(200)
    forwards = fit_baseline(write(tmp_path / "forwards.parquet", texts, labels), ("dry", "wet"))
    backwards = fit_baseline(write(tmp_path / "backwards.parquet", texts[::-1], labels[::-1]), ("dry", "wet"))
    assert forwards.rows == backwards.rows == 50
    assert (forwards.answers(texts)[1] == backwards.answers(texts)[1]).all()


def test_long_texts_are_cut_and_take_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MOST_CHARACTERS", 2_000)
    monkeypatch.setattr(baseline, "LONGEST_TEXT", 30)
    texts: list[Text] = [f"{text} {'rain cold wet ' * 10}" for text in weather(100)[0]]
    fitted = fit_baseline(write(tmp_path / "train.parquet", texts, weather(100)[1]), ("dry", "wet"))
    assert 10 <= fitted.rows < 20
    assert fitted.answers([f"warm sun sun sun warm warm dry {'rain ' * 50}"])[0].tolist() == [0]


def test_five_hundred_labels(tmp_path: Path) -> None:
    labels = [row % 500 for row in range(1500)]
    texts: list[Text] = [f"topic{label} row {row % 7}" for row, label in enumerate(labels)]
    fitted = fit_baseline(write(tmp_path / "train.parquet", texts, labels), tuple(f"t{label}" for label in range(500)))
    predictions, scores = fitted.answers([f"topic{label}" for label in range(500)])
    assert scores.shape == (500, 500)
    assert (predictions == np.arange(500)).mean() > 0.98


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "test", "columns", "least"),
    [("mrpc", "validation", ("sentence1", "sentence2"), 0.70), ("ag_news", "test", ("text",), 0.83)],
)
def test_on_real_data_it_is_a_baseline_worth_the_name(
    name: str, test: str, columns: tuple[str, ...], least: float, public_data: Path, tmp_path: Path
) -> None:
    splits = {}
    for split in ("train", test):
        with (public_data / name / f"{split}.csv").open(newline="") as stream:
            splits[split] = list(csv.DictReader(stream))[:4000]
    names = tuple(sorted({row["label"] for row in splits["train"]}))

    def texts(split: str) -> list[Text]:
        rows = splits[split]
        return [row["text"] if len(columns) == 1 else (row[columns[0]], row[columns[1]]) for row in rows]

    train = write(tmp_path / "train.parquet", texts("train"), [names.index(row["label"]) for row in splits["train"]])
    predictions, _ = fit_baseline(train, names).answers(texts(test))
    right = np.mean([names[at] == row["label"] for at, row in zip(predictions, splits[test], strict=True)])
    assert right > least
