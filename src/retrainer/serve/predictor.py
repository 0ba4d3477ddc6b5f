"""A bundle folder to logits: the one way in which a published model is run.

The client, the check of the export and the evaluation all use it, so what was checked is what is served.
Not here: labels and scores for people (``classifier.py``), where a bundle comes from (``cache.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrainer.errors import IntegrityError, UserError
from retrainer.precisions import REFERENCE
from retrainer.regular_files import read_regular
from retrainer.serve import forks
from retrainer.serve.batching import batches, pad
from retrainer.serve.encoding import TextEncoder, load_tokenizer
from retrainer.serve.engine import ENGINE_ERRORS, Brake, load_session
from retrainer.serve.texts import Text
from retrainer.store.bundle import BundleInfo, PrecisionEntry
from retrainer.tasks import known_task

BUNDLE = "bundle.json"
OUTPUT = "logits"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

# From where on a label applies, if nobody chose.
NO_THRESHOLD = 0.5
# More tokens in a batch gain nothing on a CPU: the matrices are large enough, and caches are not larger.
MAX_BATCH_TOKENS = 1024
# Rows that are tokenised and sorted together; bounds the memory that token rows take.
WINDOW_ROWS = 8192


class Predictor:
    """One graph of a bundle, ready to answer. Calls from several threads are safe.

    :param folder: a bundle.
    :param precision: which of its graphs.
    :param threads: threads of one call; the usable cores when ``None``.
    :param brake: made with these threads; ends the loading and all calls.
    :ivar thresholds: float64 ``[labels]``, of a model that gives any number of labels: one applies where its
        probability is not below its threshold. ``None`` of a model that gives one label.
    :raises IntegrityError: a file is missing or damaged, or files do not belong together.
    """

    def __init__(
        self, folder: Path, *, precision: str = REFERENCE, threads: int | None = None, brake: Brake | None = None
    ) -> None:
        self.folder = Path(folder)
        self.info = load_info(self.folder)
        self.precision = precision
        entry = precision_entry(self.info, precision, where=self.folder)
        # 1 where none was fitted, or could be.
        self.temperature = entry.temperature if entry.temperature is not None else 1.0
        self.thresholds = thresholds_of(self.info, entry, where=self.folder / BUNDLE)
        self._texts = TextEncoder(load_tokenizer(self.folder, self.info.max_length), self.info.max_length)
        brake = brake or Brake(threads)
        self._running = brake.running
        self._session = load_session(self.folder / entry.file, brake.loading)
        self._check_graph(self.folder / entry.file)
        self._generation = forks.generation()

    def logits(
        self,
        texts: Sequence[Text],
        *,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        batch_size: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """Logits of each text as the graph gives them, float32 ``[texts, labels]``, in the order of the texts.

        :param texts: each a ``str``, or each a pair of them.
        :param max_batch_tokens: most tokens in a batch, padding included.
        :param batch_size: rows of a batch, whatever their length; for measuring.
        :raises DataError: a text is not valid Unicode, or not one that the tokenizer can read.
        :raises IntegrityError: the graph fails, or does not give a row of logits for each text.
        :raises UserError: the process was forked since the model was loaded.
        """
        if self._generation != forks.generation():
            raise UserError(
                "this model was loaded before the process was forked, and its threads are not here",
                where=str(self.folder),
                hint="load it after the fork, in each process",
            )
        result = np.empty((len(texts), len(self.info.labels)), dtype=np.float32)
        for start in range(0, len(texts), WINDOW_ROWS):
            rows = self._texts.encode(texts[start : start + WINDOW_ROWS], start)
            lengths = [len(row.ids) for row in rows]
            for positions in batches(lengths, max_tokens=max_batch_tokens, batch_size=batch_size):
                result[start + positions] = self._run([rows[position] for position in positions])
        return result

    def probabilities(
        self,
        texts: Sequence[Text],
        *,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        batch_size: int | None = None,
    ) -> npt.NDArray[np.float64]:
        """Probability of each label, float64 ``[texts, labels]``. The temperature is applied.

        Rows sum to 1 where one label is given; where any number of them is, each is decided by itself.

        Errors as of ``logits``, and:

        :raises IntegrityError: a logit is not a finite number, so there is no probability.
        """
        logits = self.logits(texts, max_batch_tokens=max_batch_tokens, batch_size=batch_size)
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            raise IntegrityError(
                f"the graph gives logits that are not finite numbers for {int((~finite).sum())} of {len(texts)} texts",
                where=self._graph,
                hint="roll the channel back to a version that answers such texts, or use another precision",
            )
        return self.probabilities_of(logits)

    def probabilities_of(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """What logits of this graph mean, ``[texts, labels]``: see :meth:`probabilities`."""
        probabilities = softmax if self.thresholds is None else sigmoid
        return probabilities(logits, self.temperature)

    @property
    def _graph(self) -> str:
        """Its path, for errors."""
        return str(self.folder / self.info.precisions[self.precision].file)

    def _run(self, rows: Sequence[Any]) -> npt.NDArray[np.float32]:
        feed = pad(
            rows,
            self.info.inputs,
            pad_token_id=self.info.pad_token_id,
            pad_token_type_id=self.info.pad_token_type_id,
            side=self.info.padding_side,
        )
        try:
            logits: npt.NDArray[np.float32] = self._session.run([OUTPUT], feed, self._running)[0]
        except ENGINE_ERRORS as error:
            longest = max(len(row.ids) for row in rows)
            raise IntegrityError(
                f"the graph fails on {len(rows)} rows of up to {longest} tokens: {error}",
                where=self._graph,
                hint="it does not fit its inputs, or memory ran out",
            ) from error
        if logits.shape != (len(rows), len(self.info.labels)):
            # A single row would be taken for the answer to all of them.
            raise IntegrityError(
                f"the graph gives logits {list(logits.shape)} for {len(rows)} rows and {len(self.info.labels)} labels",
                where=self._graph,
                hint="publish the model again",
            )
        return logits

    def _check_graph(self, path: Path) -> None:
        inputs = tuple(value.name for value in self._session.get_inputs())
        if inputs != self.info.inputs:
            raise IntegrityError(
                f"the graph reads {', '.join(inputs)}, and {BUNDLE} says {', '.join(self.info.inputs)}",
                where=str(path),
            )
        # Of that output only: what else a graph gives is not read, and may have any shape.
        shape = next((value.shape for value in self._session.get_outputs() if value.name == OUTPUT), None)
        width = shape[-1] if shape else "no"
        if width != len(self.info.labels):
            raise IntegrityError(
                f"the graph gives {width} logits for {len(self.info.labels)} labels",
                where=str(path),
            )


def softmax(logits: npt.NDArray[np.float32], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Probabilities from logits divided by a temperature, along the last axis."""
    shifted = logits.astype(np.float64) / temperature
    shifted -= shifted.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def sigmoid(logits: npt.NDArray[np.float32], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Probabilities from logits divided by a temperature, each by itself."""
    scaled = logits.astype(np.float64) / temperature
    # Of numbers that are not positive only: their exponentials never overflow.
    small = np.exp(-np.abs(scaled))
    probabilities: npt.NDArray[np.float64] = np.where(scaled >= 0, 1.0, small) / (1.0 + small)
    return probabilities


def thresholds_of(info: BundleInfo, entry: PrecisionEntry, *, where: Path) -> npt.NDArray[np.float64] | None:
    """From which probability on each label applies, ``[labels]``; ``None`` of a model that gives one label.

    :param where: its ``bundle.json``.
    :raises IntegrityError: it has thresholds and gives one label.
    """
    if known_task(info.task, where=str(where)).writes == "labels":
        return np.array(entry.thresholds or [NO_THRESHOLD] * len(info.labels), dtype=np.float64)
    if entry.thresholds is not None:
        raise IntegrityError(f"has thresholds, and {info.task} gives one label", where=str(where))
    return None


def load_info(folder: Path) -> BundleInfo:
    """The ``bundle.json`` of a folder.

    :raises IntegrityError: the folder is no bundle, or one that this version cannot feed.
    """
    path = folder / BUNDLE
    try:
        data = read_regular(path)
    except OSError as error:
        raise IntegrityError(f"no bundle: {error.strerror}", where=str(path)) from None
    info = BundleInfo.from_json(data, where=str(path))
    unknown = sorted(set(info.inputs) - set(INPUTS))
    if info.labels and unknown:
        raise IntegrityError(
            f"the graph reads {', '.join(unknown)}, which this version cannot give",
            where=str(path),
            hint="update airflow-retrainer",
        )
    return info


def precision_entry(info: BundleInfo, precision: str, *, where: Path) -> PrecisionEntry:
    """What a bundle says of one of its precisions.

    :param where: the bundle's folder.
    :raises IntegrityError: it does not have that one; names those that it has.
    """
    entry = info.precisions.get(precision)
    if entry is None:
        raise IntegrityError(
            f"has no {precision} graph", where=str(where), hint=f"it has {', '.join(sorted(info.precisions))}"
        )
    return entry
