"""Classifier: what a service hands in and gets back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrainer.errors import DataError, IntegrityError, UserError
from retrainer.serve import Classifier
from tests.export import tiny


@pytest.fixture(scope="session")
def classify(bundle: Path) -> Classifier:
    return Classifier.from_folder(bundle, precision="fp32")


@pytest.fixture(scope="session")
def classify_pairs(pair_bundle: Path) -> Classifier:
    return Classifier.from_folder(pair_bundle)


def test_one_text_gives_its_best_label(classify: Classifier) -> None:
    (best,) = classify("the trail is open")
    assert best["label"] in tiny.LABELS
    assert 1 / 3 < best["score"] <= 1


def test_all_labels_ranked(classify: Classifier) -> None:
    ranked = classify("the trail is open", top_k=None)
    assert {item["label"] for item in ranked} == set(tiny.LABELS)
    scores = [item["score"] for item in ranked]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1.0)
    assert classify("the trail is open", top_k=2) == ranked[:2]
    assert classify("the trail is open", top_k=99) == ranked


def test_a_list_gives_one_answer_for_each(classify: Classifier) -> None:
    texts = ["the trail is open", "closed until monday"]
    assert classify(texts) == [classify(text)[0] for text in texts]
    assert classify(texts, top_k=None) == [classify(text, top_k=None) for text in texts]


def test_nothing_gives_nothing(classify: Classifier) -> None:
    assert classify([]) == []
    assert classify([], top_k=None) == []


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\0", "Ω≈ç 😀", "open " * 5000])
def test_any_text_has_an_answer(classify: Classifier, text: str) -> None:
    assert len(classify(text)) == 1


def test_a_generator_is_a_list(classify: Classifier) -> None:
    texts: Any = (text for text in ["open", "closed"])
    assert classify(texts) == classify(["open", "closed"])


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(tiny.WORDS), max_size=40).map(" ".join), max_size=25),
    budget=st.integers(1, 200),
)
def test_batches_keep_the_order(classify: Classifier, texts: list[str], budget: int) -> None:
    """However rows are grouped, each gets the answer it gets alone."""
    assert classify._served is not None
    predictor = classify._served.predictor
    together = predictor.logits(texts, max_batch_tokens=budget)
    assert together.shape == (len(texts), 3)
    for row, text in zip(together, texts, strict=True):
        assert row == pytest.approx(predictor.logits([text])[0], abs=1e-5)


def test_pairs(classify_pairs: Classifier) -> None:
    pairs = [("the trail is open", "yes"), ("rain fell", "the trail is closed")]
    assert classify_pairs(pairs) == [classify_pairs(pair)[0] for pair in pairs]
    assert classify_pairs(("", "")) != []
    assert classify_pairs(pairs[1], top_k=None) != classify_pairs(pairs[1][::-1], top_k=None)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (3, "got an int"),
        (None, "got None"),
        (b"open", "got a bytes"),
        (["open", 3], r"texts\[1\]: expected a str, got an int"),
        (["open", None], r"texts\[1\]: expected a str, got None"),
        (("a", "b"), "this model reads single texts"),
        ([("a", "b")], "this model reads single texts"),
        (["open", "\ud800"], r"texts\[1\]: not valid Unicode"),
    ],
)
def test_what_is_no_text_is_refused(classify: Classifier, texts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        classify(texts)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("open", "this model reads pairs"),
        (["open", "closed"], r"texts\[0\]: expected a pair"),
        ([("a", "b"), ("a",)], r"texts\[1\]: expected a pair of str"),
        ([("a", "b"), ("a", 1)], r"texts\[1\]: expected a pair of str, got \(str, int\)"),
        ([("a", "\ud800")], r"texts\[0\]: not valid Unicode"),
    ],
)
def test_what_is_no_pair_is_refused(classify_pairs: Classifier, texts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        classify_pairs(texts)


@pytest.mark.parametrize("texts", ["open", b"open", bytearray(b"open"), {"open": "closed"}])
def test_what_is_no_list_is_not_taken_for_one(classify: Classifier, classify_pairs: Classifier, texts: Any) -> None:
    """Each can be gone through, by letters or keys, and would be answered piece by piece."""
    for model in (classify, classify_pairs):
        with pytest.raises(DataError, match=r"expected a list of texts, got a .*give a list: \[text\]"):
            model.respond(texts)
    with pytest.raises(DataError, match=r"got a (str|bytes|bytearray|dict)"):
        classify_pairs(texts)
    if not isinstance(texts, str):
        with pytest.raises(DataError, match=r"got a (bytes|bytearray|dict)"):
            classify(texts)


FRAME = pd.DataFrame({"text": ["open", "closed"], "other": ["dry", "muddy"]}, index=["columns", "b"])


@pytest.mark.parametrize(
    "texts",
    [
        FRAME["text"],  # with 'columns' among its attributes
        FRAME["text"].astype("string"),
        FRAME["text"].astype("category"),
        pd.Index(["open", "closed"]),
        FRAME["text"].array,
        FRAME["text"].to_numpy(),
        np.array(["open", "closed"]),
        datasets.Dataset.from_dict({"text": ["open", "closed"]})["text"],
        {"open": 1, "closed": 2}.keys(),
        iter(["open", "closed"]),
    ],
    ids=lambda texts: type(texts).__name__,
)
def test_columns_are_read_as_lists(classify: Classifier, texts: Any) -> None:
    expected = classify(["open", "closed"], top_k=None)
    assert list(classify.respond(texts).predictions) == expected


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (FRAME, r"got a table, a DataFrame.*give its column: frame\['text'\]"),
        (FRAME[[]], "got a table"),
        (pa.table({"text": ["open"]}), "got a table, a Table"),
        (pa.chunked_array([["open"]]), r"texts\[0\]: expected a str, got a StringScalar.*to_pylist"),
        (datasets.Dataset.from_dict({"text": ["open"]}), r"texts\[0\]: expected a str, got a dict"),
        (np.array("open"), "expected a text or a list of texts, got a ndarray"),
        (np.array(3), "got a ndarray"),
        (torch.tensor(3), "got a Tensor"),
        (np.array([["open", "closed"]]), r"texts\[0\]: expected a str, got a ndarray"),
        (np.array(["open", None], dtype=object), r"texts\[1\]: expected a str, got None.*a text is missing"),
        (pd.Series(["open", float("nan")]), r"texts\[1\]: expected a str, got nan.*a text is missing"),
        (pd.Series(["open", None], dtype="string"), r"texts\[1\]: expected a str, got a"),
        (np.array([b"open"]), r"texts\[0\]: expected a str, got a bytes_"),
        ({"open", "closed"}, "got a set.*it has no order"),
        (frozenset({"open"}), "got a frozenset.*it has no order"),
        (memoryview(b"open"), "got a memoryview"),
        ({"text": "open"}, "got a dict"),
        ([["open"]], "this model reads single texts"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_only_looks_like_a_list_of_texts(classify: Classifier, texts: Any, message: str) -> None:
    """A frame gives the names of its columns when it is gone through, and would be answered for them."""
    for ask in (classify, classify.respond):
        with pytest.raises(DataError, match=message):
            ask(texts)


def test_numpy_texts_are_texts(classify: Classifier, classify_pairs: Classifier) -> None:
    text: Any = np.str_("open")
    assert classify(text) == classify("open")
    assert classify_pairs((text, text)) == classify_pairs(("open", "open"))


@pytest.mark.parametrize(
    "pairs",
    [
        zip(FRAME["text"], FRAME["other"], strict=True),
        FRAME.itertuples(index=False),
        FRAME.to_records(index=False).tolist(),
        pd.MultiIndex.from_frame(FRAME),
        {"open": "dry", "closed": "muddy"}.items(),
    ],
    ids=lambda pairs: type(pairs).__name__,
)
def test_columns_of_pairs_are_read_as_lists(classify_pairs: Classifier, pairs: Any) -> None:
    assert classify_pairs(pairs) == classify_pairs([("open", "dry"), ("closed", "muddy")])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (FRAME, r"got a table, a DataFrame.*zip\(frame\['first'\], frame\['second'\]\)"),
        (FRAME.to_numpy(), r"texts\[0\]: expected a pair of texts, got a ndarray.*give \(first, second\)"),
        ([["open", "dry"]], "expected a pair of texts, got a list"),
        ([{"text": "open", "text_pair": "dry"}], "expected a pair of texts, got a dict"),
        (np.array("open"), "got a ndarray"),
        ({("open", "dry")}, "got a set"),
        ([("open", None)], r"expected a pair of str, got \(str, NoneType\)"),
        (FRAME["text"], "expected a pair of texts, got a str"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_what_only_looks_like_a_list_of_pairs(classify_pairs: Classifier, pairs: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        classify_pairs(pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be a whole number from 1"),
        ({"threads": -1}, "threads must"),
        ({"threads": True}, "threads must"),
        ({"threads": 2.0}, "threads must"),
        ({"threads": "2"}, "threads must"),
        ({"threads": 1025}, "threads must be a whole number from 1 to 1,024, or None for the usable cores; got 1025"),
        ({"precision": "fp16"}, "precision must be one of auto, fp32, int8; got 'fp16'"),
        ({"precision": None}, "precision must"),
        ({"verify": "server"}, "verify must be one of all, served; got 'server'"),
        ({"verify": True}, "verify must"),
        (
            {"load_timeout": 0},
            "load_timeout must be a number of seconds above 0, and up to a year",
        ),
        ({"load_timeout": 1e12}, "load_timeout must"),
        ({"store_timeout": 1e12}, "store_timeout must"),
        ({"load_timeout": "5"}, "load_timeout must be .* as int or float; got '5'"),
        ({"store_timeout": None}, "store_timeout must"),
        ({"store_timeout": float("nan")}, "store_timeout must"),
    ],
)
def test_options_that_make_no_sense(bundle: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """Said before the store is asked, which there is none of."""
    with pytest.raises(UserError, match=message):
        Classifier.from_store(tmp_path / "none", "trails", cache_dir=tmp_path / "cache", **options)
    if not {"verify", "store_timeout"} & options.keys():
        with pytest.raises(UserError, match=message):
            Classifier.from_folder(bundle, **options)


@pytest.mark.parametrize("wrong", [None, 5, b"trails"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("url", "the address must be text or a path; got"),
        ("model", "the name of a model must be text; got"),
        ("channel", "the name of a channel must be text; got"),
        ("version", "the name of a version must be text; got"),
        ("cache_dir", "cache_dir must be a path; got"),
    ],
)
def test_what_is_not_even_text(tmp_path: Path, name: str, message: str, wrong: Any) -> None:
    """None is what ``os.environ.get`` gives."""
    if wrong is None and name in {"version", "cache_dir"}:
        pytest.skip("None has a meaning there")
    arguments = {"url": tmp_path, "model": "trails", "cache_dir": tmp_path / "cache", name: wrong}
    with pytest.raises(UserError, match=message):
        Classifier.from_store(**arguments)


def test_a_folder_must_be_a_path() -> None:
    nothing: Any = None
    with pytest.raises(UserError, match="folder must be a path; got None"):
        Classifier.from_folder(nothing)


@pytest.mark.parametrize("top_k", [0, -1, True, 1.5, "2", np.int64(0), np.bool_(True), np.array([2])])
def test_top_k_must_make_sense(classify: Classifier, top_k: Any) -> None:
    with pytest.raises(UserError, match="top_k must be a whole number from 1, or None for all labels"):
        classify("open", top_k=top_k)


def test_numbers_of_numpy_are_numbers(bundle: Path) -> None:
    one: Any = np.int64(1)
    two: Any = np.int64(2)
    classify = Classifier.from_folder(bundle, threads=two)
    for texts in ("open", ["open", "closed"]):
        assert classify(texts, top_k=one) == classify(texts, top_k=1)
        assert classify(texts, top_k=two) == classify(texts, top_k=2)
    assert classify.respond(["open"], top_k=one) == classify.respond(["open"], top_k=1)


def test_calls_from_threads_do_not_mix(classify: Classifier) -> None:
    texts = [str(row.text) for row in tiny.rows(24)]
    expected = [classify(text, top_k=None) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: classify(text, top_k=None), texts * 4))
    assert answers == expected * 4


def test_what_it_says_of_itself(classify: Classifier, classify_pairs: Classifier) -> None:
    assert classify.labels == tiny.LABELS
    assert classify.version == "unpublished"
    assert classify.manifest is None
    assert classify.precision == "fp32"
    assert (classify.task, classify_pairs.task) == ("text-classification", "text-pair-classification")
    status = classify_pairs.status
    assert (status.version, status.labels, status.task) == ("unpublished", tiny.LABELS, "text-pair-classification")
    assert status.max_length is None


def test_a_folder_without_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="no golden rows") as caught:
        Classifier.from_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)
