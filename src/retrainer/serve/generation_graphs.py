"""The graphs of a model that writes text, run with numpy: a batch of rows is begun, and grows by a token a row.

Rows of different lengths share a batch: a decoder that reads the text itself is padded on the left, and told so by its
attention mask and position ids; an encoder is padded on the right. Not here: which token comes (``decoding.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrainer.errors import IntegrityError
from retrainer.serve.engine import ENGINE_ERRORS, Brake, load_session
from retrainer.store.bundle import BundleInfo, PrecisionEntry

LOGITS = "logits"
ENCODED = "last_hidden_state"
# Beside the past.
INPUTS = ("input_ids", "attention_mask", "position_ids", "encoder_hidden_states", "encoder_attention_mask")
PAST = "past_key_values."
PRESENT = "present."

Array = npt.NDArray[Any]


@dataclass(slots=True)
class Batch:
    """Rows that are under way.

    :ivar inputs: what the graph read last, beside the past; each array has the rows first.
    :ivar past: keys and values, in the graph's order.
    :ivar logits: of the next token, float32 ``[rows, vocabulary]``.
    :ivar cached: whether the past is kept. Otherwise all tokens are read anew each time; for measuring.
    """

    inputs: dict[str, Array]
    past: list[Array]
    logits: Array
    cached: bool = True

    def __len__(self) -> int:
        return len(self.logits)

    def select(self, rows: npt.NDArray[np.int64]) -> None:
        """Keep those rows, in that order; a row may be kept more than once."""
        self.inputs = {name: value[rows] for name, value in self.inputs.items()}
        self.past = [value[rows] for value in self.past]
        self.logits = self.logits[rows]


class DecoderGraph:
    """One graph that reads text and continues it.

    :param entry: says where the graph is.
    :raises IntegrityError: it cannot be run, or is not the one that ``bundle.json`` describes.
    """

    def __init__(self, folder: Path, info: BundleInfo, entry: PrecisionEntry, brake: Brake) -> None:
        self._path = folder / entry.file
        self._info = info
        self._running = brake.running
        self._session = load_session(self._path, brake.loading)
        read = tuple(value.name for value in self._session.get_inputs())
        unknown = [name for name in read if name not in INPUTS and not name.startswith(PAST)]
        if unknown:
            raise IntegrityError(
                f"the graph reads {', '.join(unknown)}, which this version cannot give",
                where=str(self._path),
                hint="update airflow-retrainer",
            )
        if read != info.inputs:
            raise IntegrityError(
                f"the graph reads {', '.join(read)}, and bundle.json says {', '.join(info.inputs)}",
                where=str(self._path),
            )
        past = [value for value in self._session.get_inputs() if value.name.startswith(PAST)]
        given = {value.name for value in self._session.get_outputs()}
        self._outputs = [LOGITS, *(PRESENT + value.name.removeprefix(PAST) for value in past)]
        missing = [name for name in self._outputs if name not in given]
        if missing or not past:
            raise IntegrityError(f"the graph gives no {missing[0] if missing else 'past'}", where=str(self._path))
        self._past_names = [value.name for value in past]
        # Heads and their width; batch and length vary.
        self._past_shapes = [(value.shape[1], value.shape[3]) for value in past]

    def begin(self, rows: Sequence[Sequence[int]], *, cached: bool = True) -> Batch:
        """Read the texts.

        :param rows: token ids of each text.
        :raises IntegrityError: the graph fails.
        """
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self._info.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for position, row in enumerate(rows):
            ids[position, longest - len(row) :] = row
            mask[position, longest - len(row) :] = 1
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
        return self._begun({"input_ids": ids, "attention_mask": mask, "position_ids": positions}, cached)

    def advance(self, batch: Batch, tokens: npt.NDArray[np.int64]) -> None:
        """Let each row go on with a token.

        :raises IntegrityError: the graph fails.
        """
        ones = np.ones((len(batch), 1), dtype=np.int64)
        inputs = dict(batch.inputs)
        inputs["attention_mask"] = np.concatenate([inputs["attention_mask"], ones], axis=1)
        new = {"input_ids": tokens[:, None], "position_ids": inputs["position_ids"][:, -1:] + 1}
        self._go_on(batch, inputs, new)

    def _begun(self, inputs: dict[str, Array], cached: bool) -> Batch:
        batch = Batch(inputs, [], np.empty((len(inputs["input_ids"]), 0), np.float32), cached)
        self._run(batch)
        return batch

    def _go_on(self, batch: Batch, inputs: dict[str, Array], new: dict[str, Array]) -> None:
        if not batch.cached:
            new = {name: np.concatenate([inputs[name], value], axis=1) for name, value in new.items()}
        batch.inputs = inputs | new
        self._run(batch)

    def _run(self, batch: Batch) -> None:
        rows = len(batch.inputs["input_ids"])
        past = batch.past or [np.zeros((rows, heads, 0, width), np.float32) for heads, width in self._past_shapes]
        feed = {name: value for name, value in batch.inputs.items() if name in self._info.inputs}
        logits, *present = self._ask(
            self._session, self._outputs, feed | dict(zip(self._past_names, past, strict=True))
        )
        if logits.ndim != 3 or len(logits) != rows:
            raise IntegrityError(
                f"the graph gives logits {list(logits.shape)} for {rows} rows",
                where=str(self._path),
                hint="publish the model again",
            )
        batch.logits = np.ascontiguousarray(logits[:, -1])
        # Of some tokens they may be -inf, and of one of them not.
        if not np.isfinite(batch.logits.max(axis=1)).all():
            raise IntegrityError(
                "the graph gives logits that are not numbers",
                where=str(self._path),
                hint="roll the channel back to a version that answers such texts, or use another precision",
            )
        batch.past = present if batch.cached else []

    def _ask(self, session: Any, outputs: Sequence[str], feed: dict[str, Array]) -> list[Array]:
        try:
            answers: list[Array] = session.run(outputs, feed, self._running)
        except ENGINE_ERRORS as error:
            raise IntegrityError(
                f"the graph fails on {len(feed['input_ids'])} rows: {error}",
                where=str(self._path),
                hint="it does not fit its inputs, or memory ran out",
            ) from error
        return answers


class EncoderDecoderGraphs(DecoderGraph):
    """An encoder that reads text, and a decoder that writes another.

    :ivar start: what the decoder is given to begin with.
    :raises IntegrityError: one of them cannot be run, or is not the one that ``bundle.json`` describes.
    """

    def __init__(self, folder: Path, info: BundleInfo, entry: PrecisionEntry, brake: Brake) -> None:
        super().__init__(folder, info, entry, brake)
        if info.decoder_start_token_id is None or entry.encoder_file is None:
            raise IntegrityError("bundle.json does not say what the decoder begins with", where=str(folder))
        self.start = (info.decoder_start_token_id,)
        self._encoder = load_session(folder / entry.encoder_file, brake.loading)

    def begin(self, rows: Sequence[Sequence[int]], *, cached: bool = True) -> Batch:
        """Read the texts with the encoder, and begin to write."""
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self._info.pad_token_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for position, row in enumerate(rows):
            ids[position, : len(row)] = row
            mask[position, : len(row)] = 1
        (encoded,) = self._ask(self._encoder, [ENCODED], {"input_ids": ids, "attention_mask": mask})
        start = np.tile(np.array(self.start, dtype=np.int64), (len(rows), 1))
        inputs = {"input_ids": start, "encoder_hidden_states": encoded, "encoder_attention_mask": mask}
        return self._begun(inputs, cached)

    def advance(self, batch: Batch, tokens: npt.NDArray[np.int64]) -> None:
        """Let each row go on with a token."""
        self._go_on(batch, batch.inputs, {"input_ids": tokens[:, None]})


def open_graphs(folder: Path, info: BundleInfo, entry: PrecisionEntry, brake: Brake) -> DecoderGraph:
    """The graphs of a precision, whichever kind they are.

    :raises IntegrityError: they cannot be run, or are not those that ``bundle.json`` describes.
    """
    kind = DecoderGraph if entry.encoder_file is None else EncoderDecoderGraphs
    return kind(folder, info, entry, brake)
