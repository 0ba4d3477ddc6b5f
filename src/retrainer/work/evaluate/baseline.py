"""The sanity baseline: word counts and a linear model, fitted in seconds on the snapshot's own train rows.

A fine-tuned model that is no better is not worth serving. Not here: judging that (``retrainer.gate.baseline``).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from threadpoolctl import threadpool_limits

from retrainer.errors import DataError
from retrainer.work.snapshot_texts import Text, label_matrix, parts, read_split, text_columns

# What keeps it at seconds: of more rows, of longer texts or of more labels fewer rows are taken, of more labels fewer
# words too. Rows with the least ids are taken: ids are hashes, so they are a random sample, always the same one.
MOST_ROWS = 100_000
LEAST_ROWS_TAKEN = 10_000
MOST_CELLS = 2_000_000  # rows times labels
MOST_CHARACTERS = 30_000_000  # of all rows taken
LONGEST_TEXT = 10_000  # characters; the rest of a longer text is cut off
MOST_FEATURES = 30_000
MOST_WEIGHTS = 3_000_000  # features times labels: the solver keeps 20 copies of them

# Below this many rows a word that one row alone holds may tell something.
FEW_ROWS = 1_000
# Inverse of the regularisation; of 1, 5 and 10 the best or near it on AG News, IMDB, MRPC and RTE.
STRENGTH = 5.0
MOST_ITERATIONS = 100
BATCH_ROWS = 20_000

# A word is a run of letters and digits; where scripts put no space between words, each character is one, so that
# pairs of words are pairs of characters: Thai, Lao, Burmese, Khmer, Japanese, Chinese.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = rf"(?u)[{_UNSPACED}]|[^\W_{_UNSPACED}]+"


@dataclass(frozen=True, slots=True)
class Baseline:
    """TF-IDF with logistic regression, fitted.

    :param labels: of the snapshot, in order.
    :param rows: train rows it was fitted on.
    :param features: words and pairs of words; or runs of characters, where the texts have no words.
    """

    labels: tuple[str, ...]
    rows: int
    features: int
    analyzer: str
    _vectorizer: Any
    _model: Any

    def answers(self, texts: Sequence[Text]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Predict.

        :return: index of the predicted label of each row; and :meth:`probabilities`.
        """
        scores = self.probabilities(texts)
        return scores.argmax(axis=1).astype(np.int64), scores

    def probabilities(self, texts: Sequence[Text]) -> npt.NDArray[np.float64]:
        """Of each label, ``[rows, labels]``, 0 for one that no train row has; rows with one label sum to 1."""
        scores = np.zeros((len(texts), len(self.labels)))
        for start in range(0, len(texts), BATCH_ROWS):
            batch = texts[start : start + BATCH_ROWS]
            with threadpool_limits(limits=1):
                found = self._model.predict_proba(_features(self._vectorizer, batch))
            whole = 1.0 if isinstance(self._model, OneVsRestClassifier) else found.sum(axis=1, keepdims=True)
            scores[start : start + len(batch), self._model.classes_] = found / whole
        return scores


def fit_baseline(train: Path, labels: tuple[str, ...]) -> Baseline:
    """Fit on a snapshot's train split. The same rows in any order give the same model.

    :param train: the parquet file.
    :param labels: names in the order that the label column indexes. Where a row has any number of them each is fitted
        by itself, one against the rest.
    :raises DataError: nothing can be fitted: all rows have the same label, or the texts hold no character to count.
    """
    texts, target = _read(train, len(labels))
    if not texts:
        raise DataError("there is no train row to fit a baseline on", where=str(train))
    if len(np.unique(target, axis=0)) < 2:
        raise DataError("all train rows have the same label: there is no baseline to fit", where=str(train))
    vectorizer, matrix = fit_vectorizer(texts, len(labels), train)
    model: Any = LogisticRegression(C=STRENGTH, max_iter=MOST_ITERATIONS)
    if target.ndim == 2:
        model = OneVsRestClassifier(model)
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # Cut short it is as good. One thread: threads would change the last digits, and only slow down products that
        # are sparse.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # A label that all rows have, or none, always or never applies.
        warnings.filterwarnings("ignore", message="Label .* is present in all training examples")
        model.fit(matrix, target)
    fitted = model.estimators_ if target.ndim == 2 else [model]
    if not all(np.isfinite(one.coef_).all() for one in fitted if hasattr(one, "coef_")):
        raise DataError("the baseline did not converge to finite weights", where=str(train))
    return Baseline(labels, len(texts), len(vectorizer.vocabulary_), vectorizer.analyzer, vectorizer, model)


def _read(train: Path, label_count: int) -> tuple[list[Text], npt.NDArray[np.int64]]:
    """Rows in the order of their ids, as many as can be afforded, and the label of each; or for each label whether it
    has that, ``[rows, labels]``, where it has any number of them.
    """
    table = read_split(train)
    names = text_columns(table.column_names)
    characters = sum(pc.sum(pc.utf8_length(table.column(name))).as_py() or 0 for name in names)
    rows = min(MOST_ROWS, max(LEAST_ROWS_TAKEN, MOST_CELLS // max(label_count, 1)))
    rows = min(rows, int(MOST_CHARACTERS / max(characters, 1) * table.num_rows) + 1)
    order = pc.sort_indices(table.column("row_id"))[:rows]
    taken = table.select([*names, "label"]).take(order)
    columns = [pc.utf8_slice_codeunits(taken.column(name), 0, LONGEST_TEXT).to_pylist() for name in names]
    texts: list[Text] = list(zip(*columns, strict=True)) if len(columns) == 2 else columns[0]
    labels = taken.column("label")
    if not pa.types.is_list(labels.type):
        return texts, labels.to_numpy().astype(np.int64)
    return texts, label_matrix(labels, label_count).astype(np.int64)


def fit_vectorizer(texts: list[Text], label_count: int, train: Path) -> tuple[Any, Any]:
    """A fitted vectoriser of words and pairs of words, or, where there are none, of runs of one to three characters;
    and the features of the texts.

    :param train: for the error.
    :raises DataError: the texts hold nothing that can be counted.
    """
    settings = {
        "sublinear_tf": True,
        "min_df": 2 if len(texts) >= FEW_ROWS else 1,
        "max_features": min(MOST_FEATURES, MOST_WEIGHTS // label_count),
        "dtype": np.float64,
    }
    choices: list[dict[str, Any]] = [
        {"analyzer": "word", "token_pattern": _WORD, "ngram_range": (1, 2)},
        {"analyzer": "char", "ngram_range": (1, 3)},
    ]
    for choice in choices:
        vectorizer = TfidfVectorizer(**settings, **choice)
        try:
            matrix = vectorizer.fit_transform(part for text in texts for part in parts(text))
        except ValueError as error:
            # How the library says that nothing was found, or nothing twice.
            if "empty vocabulary" not in str(error) and "no terms remain" not in str(error):
                raise
            continue
        return vectorizer, matrix if isinstance(texts[0], str) else _paired(matrix[0::2], matrix[1::2])
    raise DataError("the train texts hold neither words nor characters that recur", where=str(train))


def _features(vectorizer: Any, texts: Sequence[Text]) -> Any:
    matrix = vectorizer.transform(part[:LONGEST_TEXT] for text in texts for part in parts(text))
    return matrix if isinstance(texts[0], str) else _paired(matrix[0::2], matrix[1::2])


def _paired(first: Any, second: Any) -> Any:
    """Features of pairs: of the first text, of the second, what they have in common, and how much that is."""
    common = first.multiply(second).tocsr()
    sizes = [np.diff(matrix.indptr).astype(np.float64) for matrix in (first, second, common)]
    overlap = np.column_stack(
        [
            np.asarray(common.sum(axis=1)).ravel(),
            sizes[2] / np.maximum(sizes[0] + sizes[1] - sizes[2], 1),
            sizes[2] / np.maximum(sizes[0], 1),
            sizes[2] / np.maximum(sizes[1], 1),
        ]
    )
    return sparse.hstack([first, second, common, sparse.csr_matrix(overlap)], format="csr")
