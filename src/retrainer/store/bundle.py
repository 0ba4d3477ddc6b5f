"""What a bundle folder says about itself: ``bundle.json`` and ``golden.jsonl``.

Export writes them, the store carries them, the client reads them. Not here: how a graph is run.
"""

from __future__ import annotations

from operator import not_
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from retrainer.records import FileRecord, Record, unset
from retrainer.store.names import FileName


class PrecisionEntry(Record):
    """One graph of a bundle.

    :ivar file: its path in the bundle: ``onnx/model.onnx``, ``onnx/model_int8.onnx``; of a model with an encoder the
        decoder's.
    :ivar encoder_file: the encoder's, of a model that writes text and has one.
    :ivar weight_types: ONNX type name -> number of initializers of that type, as counted in the file.
    :ivar temperature: what logits are divided by before they become probabilities; ``None`` where it was not fitted.
    :ivar thresholds: for each label, the probability from which on it applies; only of a model that gives any number of
        them, and ``None`` where nobody chose: then it is 0.5.
    :ivar cpu_features: of the processor on which the graph was verified, those that int8 products depend on; ``None``
        where they do not matter.
    """

    file: FileName
    encoder_file: FileName | None = Field(None, exclude_if=unset)
    weight_types: dict[str, int]
    temperature: Annotated[FiniteFloat, Field(gt=0.0)] | None = Field(None, exclude_if=unset)
    thresholds: tuple[Annotated[FiniteFloat, Field(gt=0.0, lt=1.0)], ...] | None = Field(None, exclude_if=unset)
    cpu_features: tuple[str, ...] | None = Field(None, exclude_if=unset)

    @property
    def files(self) -> tuple[str, ...]:
        """Its graph, or both of its graphs, the decoder's first."""
        return (self.file,) if self.encoder_file is None else (self.file, self.encoder_file)


class BundleInfo(FileRecord):
    """``bundle.json``: all that a client needs to feed the graphs and to name their outputs.

    :ivar labels: in the order of the logits; none of a model that writes text.
    :ivar max_length: tokens a text is cut to, special tokens included.
    :ivar inputs: names of the graph's inputs, in order; of a model with an encoder the decoder's.
    :ivar precisions: ``fp32``, ``int8`` -> graph.
    :ivar tie_margin: difference of the two best probabilities below which the golden rows do not ask which label won.
    :ivar max_new_tokens: tokens after which an answer ends, of a model that writes text; ``None`` of others.
    :ivar decoder_start_token_id: what a decoder begins with; ``None`` where there is no encoder.
    :ivar eos_token_ids: each of these ends an answer.
    """

    file: ClassVar[str] = "bundle.json"
    format_version: Literal[1] = 1
    task: str
    labels: tuple[str, ...]
    max_length: int = Field(ge=1)
    inputs: tuple[str, ...]
    pad_token_id: int
    pad_token_type_id: int = 0
    padding_side: Literal["right", "left"] = "right"
    precisions: dict[str, PrecisionEntry]
    tie_margin: FiniteFloat
    max_new_tokens: Annotated[int, Field(ge=1)] | None = Field(None, exclude_if=unset)
    decoder_start_token_id: int | None = Field(None, exclude_if=unset)
    eos_token_ids: tuple[int, ...] = Field((), exclude_if=not_)

    @model_validator(mode="after")
    def _has_an_answer(self) -> Self:
        if bool(self.labels) is (self.max_new_tokens is not None):
            raise ValueError("a model either has labels or writes text of up to max_new_tokens")
        for name, entry in self.precisions.items():
            if entry.thresholds is not None and len(entry.thresholds) != len(self.labels):
                raise ValueError(f"{name} has {len(entry.thresholds)} thresholds for {len(self.labels)} labels")
        return self


class GoldenRow(Record):
    """One line of ``golden.jsonl``: a real text and what each graph answered when the bundle was made.

    :ivar text_pair: the second text, for pairs.
    :ivar logits: precision -> one value a label; empty of a model that writes text.
    :ivar tokens: precision -> the first token ids of the answer, of a model that writes text.
    """

    text: str
    text_pair: str | None = None
    logits: dict[str, tuple[FiniteFloat, ...]] = Field(default_factory=dict, exclude_if=not_)
    tokens: dict[str, tuple[int, ...]] = Field(default_factory=dict, exclude_if=not_)
