"""Labels of train and test rows that may be wrong: confident learning on out-of-fold probabilities.

Each row is judged by models that have not seen its label: two linear models of words fitted on the other folds, and on
test rows the bundles that were scored on them. One of the two is logistic regression on TF-IDF, the other on TF-IDF
times each word's log-count ratio (S. Wang, C. D. Manning, Baselines and bigrams: simple, good sentiment and topic
classification, ACL 2012, 90-94). They err on different rows, so that their mean is better than either. Pairs are
judged by the first alone.

Suspects are the rows whose likeliest label is another than the given one, ranked by the probability of the given one.
About how many labels are wrong is confident learning's estimate, by cleanlab: the rows that look like another label
with at least the confidence usual for it (C. Northcutt, L. Jiang, I. Chuang, Confident learning: estimating uncertainty
in dataset labels, Journal of Artificial Intelligence Research 70 (2021) 1373-1411). On few rows it is low, since many a
wrong row is less typical than usual; so the list is longer.

Challenger and champion count alike: if only one of the two had a say, it would be the other one's errors that turn out
to be wrong labels. Nothing is removed for being a suspect: a person decides (``retrainer relabel``).

Not here: which of them move the comparison (``gate/overturn.py``), what is shown (``report/labels.py``).
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from cleanlab.filter import find_label_issues
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from retrainer.artifacts.evaluation import SUSPECT_COLUMNS, Suspects
from retrainer.artifacts.snapshot import SplitName, split_file
from retrainer.errors import DataError
from retrainer.work.evaluate.baseline import LONGEST_TEXT, MOST_CELLS, MOST_CHARACTERS, MOST_ITERATIONS, fit_vectorizer
from retrainer.work.snapshot_texts import Text, parts, read_split, text_columns

FOLDS = 5
# Stronger than the baseline's: what has been learnt from a wrong label should not be learnt by heart. Of 1 and 5 the
# better on AG News with flipped labels, and as good on IMDB; of the ratios 3 is the better of 3, 10 and 30.
STRENGTH = 1.0
RATIO_STRENGTH = 3.0
SPLITS: tuple[SplitName, ...] = ("test", "train")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Doubts:
    """What is thought of the labels of rows.

    :param splits: of each row; ``row_ids`` and ``texts``, too.
    :param labels: as given, ``[n]``.
    :param names: of the labels.
    :param probabilities: of each label, by models that have not seen the row's own, ``[n, labels]``.
    :param suspects: positions of the rows whose label may be wrong, the most suspicious first.
    :param confident: whether a row counts as wrong in confident learning's estimate, bool ``[n]``.
    """

    splits: tuple[SplitName, ...]
    row_ids: tuple[str, ...]
    texts: tuple[Text, ...]
    labels: Ints
    names: tuple[str, ...]
    probabilities: Floats
    suspects: Ints
    confident: npt.NDArray[np.bool_]

    @property
    def scores(self) -> Floats:
        """The probability of each row's own label: small where it may be wrong."""
        own: Floats = self.probabilities[np.arange(self.labels.size), self.labels]
        return own

    @property
    def suggested(self) -> Ints:
        """The likeliest label other than the given one."""
        others = self.probabilities.copy()
        others[np.arange(self.labels.size), self.labels] = -1.0
        likeliest: Ints = others.argmax(axis=1)
        return likeliest

    @property
    def noise(self) -> float:
        """The share of labels that are wrong, by confident learning's estimate; of one row at least."""
        return max(float(self.confident.mean()), 1 / self.labels.size)

    def summary(self) -> Suspects:
        """The same, counted."""
        listed = [self.splits[at] for at in self.suspects]
        counted = [self.splits[at] for at in np.flatnonzero(self.confident)]
        return Suspects(
            rows={split: self.splits.count(split) for split in SPLITS},
            suspects={split: listed.count(split) for split in SPLITS},
            wrong={split: counted.count(split) for split in SPLITS},
            agreement=float((self.probabilities.argmax(axis=1) == self.labels).mean()),
        )

    def write(self, path: Path, rows: Sequence[int] | Ints, more: Mapping[str, Sequence[str]] | None = None) -> None:
        """Write rows for a person to look at, with an empty column ``label`` for the one that is right.

        :param rows: positions, in the order in which they are written.
        :param more: further columns, one value for each of these rows.
        """
        more, suggested, scores = more or {}, self.suggested, self.scores
        first, second = SUSPECT_COLUMNS[:2], SUSPECT_COLUMNS[2:]
        pair = ("text", "text_pair") if self.texts and not isinstance(self.texts[0], str) else ("text",)
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([*first, *pair, *second, *more, "label"])
            for number, at in enumerate(rows):
                given, other = self.names[self.labels[at]], self.names[suggested[at]]
                further = [values[number] for values in more.values()]
                said = [self.splits[at], self.row_ids[at], *parts(self.texts[at]), given, other, f"{scores[at]:.4f}"]
                writer.writerow([*said, *further, ""])


def doubt_labels(
    snapshot: Path, names: tuple[str, ...], most_rows: int, answers: Mapping[str, Floats] | None = None
) -> Doubts:
    """Judge the labels of a snapshot's test and train rows. The same rows in any order give the same.

    :param names: the labels, in the order that the label column indexes.
    :param most_rows: that are looked at, test rows first; fewer where texts are long or labels many.
    :param answers: row_id to what models, none of which has seen the row's label, say on average, ``[labels]``.
    :raises DataError: too few rows or labels to judge by, or texts without anything to count.
    """
    splits, table = _read(snapshot, min(most_rows, MOST_CELLS // max(len(names), 1)))
    columns = [table.column(name).to_pylist() for name in text_columns(table.column_names)]
    texts: list[Text] = list(zip(*columns, strict=True)) if len(columns) == 2 else columns[0]
    labels = table.column("label").to_numpy().astype(np.int64)
    row_ids = tuple(table.column("row_id").to_pylist())
    probabilities = _out_of_fold(texts, labels, len(names), snapshot)
    for at, row_id in enumerate(row_ids if answers else ()):
        said = answers.get(row_id) if answers and splits[at] == "test" else None
        if said is not None:
            probabilities[at] = (probabilities[at] + said) / 2
    suspects = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    scores = probabilities[suspects, labels[suspects]]
    confident = find_label_issues(
        labels, probabilities, filter_by="confident_learning", min_examples_per_class=0, n_jobs=1
    )
    return Doubts(
        splits,
        row_ids,
        tuple(texts),
        labels,
        names,
        probabilities,
        suspects[np.argsort(scores, kind="stable")],
        np.asarray(confident, dtype=np.bool_),
    )


def _read(snapshot: Path, most: int) -> tuple[tuple[SplitName, ...], pa.Table]:
    """Test rows, then train rows, each in the order of their ids: as many as can be afforded."""
    splits: list[SplitName] = []
    tables: list[pa.Table] = []
    characters = MOST_CHARACTERS
    for split in SPLITS:
        table = _of_known_types(read_split(split_file(snapshot, split)))
        table = table.take(pc.sort_indices(table.column("row_id"))[: max(most - len(splits), 0)])
        lengths = sum(
            np.minimum(pc.utf8_length(table.column(name)).to_numpy(), LONGEST_TEXT)
            for name in text_columns(table.column_names)
        )
        fits = int(np.searchsorted(np.cumsum(lengths), characters, side="right"))
        table = table.slice(0, fits)
        characters -= int(np.sum(np.asarray(lengths)[:fits]))
        tables.append(table)
        splits += [split] * table.num_rows
    return tuple(splits), pa.concat_tables(tables)


def _of_known_types(table: pa.Table) -> pa.Table:
    """The columns that are looked at. Where a split has no rows, their types may have been left open."""
    texts = [(name, pa.string()) for name in text_columns(table.column_names)]
    schema = pa.schema([("row_id", pa.string()), *texts, ("label", pa.int64())])
    return table.select(schema.names).cast(schema)


def _out_of_fold(texts: list[Text], labels: Ints, label_count: int, where: Path) -> Floats:
    """Each row's probabilities by models fitted on the other folds; 0 for a label that they lack."""
    if int((np.bincount(labels, minlength=label_count) >= 2).sum()) < 2:
        raise DataError("fewer than two labels with two rows: nothing tells which are wrong", where=str(where))
    cut: list[Text] = [_cut(text) for text in texts]
    # What words there are says nothing of the labels, so all rows give the features.
    _, matrix = fit_vectorizer(cut, label_count, where)
    # Rows come in the order of hashes of their texts, so that this deals those of each label out at random.
    folds = np.empty(labels.size, dtype=np.int64)
    folds[np.argsort(labels, kind="stable")] = np.arange(labels.size) % FOLDS
    probabilities = np.zeros((labels.size, label_count))
    model = LogisticRegression(C=STRENGTH, max_iter=MOST_ITERATIONS)
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for fold in np.unique(folds):
            held = np.flatnonzero(folds == fold)
            rest = np.flatnonzero(folds != fold)
            model.fit(matrix[rest], labels[rest])
            found = model.predict_proba(matrix[held])
            # Of a pair what the two have in common tells, not how often a label has a word: there the ratios do harm.
            if isinstance(texts[0], str):
                found = (found + _by_ratios(matrix[rest], labels[rest], model.classes_, matrix[held])) / 2
            probabilities[np.ix_(held, model.classes_)] = found
    return probabilities


def _by_ratios(matrix: Any, labels: Ints, classes: Ints, asked: Any) -> Floats:
    """Probabilities of each of ``classes``: fitted one against the rest, each word weighed by the log of how much more
    often rows of the label hold it than rows of the rest do.
    """
    found = np.empty((asked.shape[0], classes.size))
    holds = matrix > 0
    rows_of_word = _rows_of_word(holds)
    for at, label in enumerate(classes):
        own = labels == label
        inside = _rows_of_word(holds[own])
        within, beyond = inside + 1.0, rows_of_word - inside + 1.0
        ratios = sparse.diags(np.log(within / within.sum()) - np.log(beyond / beyond.sum()))
        # This solver draws nothing at random.
        model = LogisticRegression(C=RATIO_STRENGTH, max_iter=MOST_ITERATIONS, solver="liblinear")
        model.fit(matrix @ ratios, own)
        found[:, at] = model.predict_proba(asked @ ratios)[:, 1]
    shares: Floats = found / found.sum(axis=1, keepdims=True)
    return shares


def _rows_of_word(holds: Any) -> Ints:
    counts: Ints = np.asarray(holds.sum(axis=0)).ravel()
    return counts


def _cut(text: Text) -> Text:
    return text[:LONGEST_TEXT] if isinstance(text, str) else (text[0][:LONGEST_TEXT], text[1][:LONGEST_TEXT])
