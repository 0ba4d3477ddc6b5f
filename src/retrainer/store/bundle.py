"""What a bundle folder says about itself: ``bundle.json`` and ``golden.jsonl``.

Export writes them, the store carries them, the client reads them. Not here: how a graph is run.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, FiniteFloat, SerializerFunctionWrapHandler, model_serializer

from retrainer.records import FileRecord, Record
from retrainer.store.names import FileName


class PrecisionEntry(Record):
    """One graph of a bundle.

    :ivar file: its path in the bundle: ``onnx/model.onnx``, ``onnx/model_int8.onnx``.
    :ivar encoder_file: the other graph of a model that reads with one and writes with the other.
    :ivar weight_types: ONNX type name -> number of initializers of that type, as counted in the file.
    :ivar temperature: what logits are divided by before they become probabilities; ``None`` where it was not fitted.
    :ivar cpu_features: of the processor on which the graph was verified, those that int8 products depend on; ``None``
        where they do not matter.
    """

    file: FileName
    weight_types: dict[str, int]
    temperature: Annotated[FiniteFloat, Field(gt=0.0)] | None = None
    cpu_features: tuple[str, ...] | None = None
    encoder_file: FileName | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Its graph, or both of its graphs, the decoder's first."""
        return (self.file,) if self.encoder_file is None else (self.file, self.encoder_file)

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A version is named by the digest of its manifest, so those without these fields keep their names."""
        written: dict[str, Any] = handler(self)
        return {key: value for key, value in written.items() if value is not None}


class BundleInfo(FileRecord):
    """``bundle.json``: all that a client needs to feed the graphs and to name their outputs.

    :ivar labels: in the order of the logits; none where the task writes text.
    :ivar max_length: tokens a text is cut to, special tokens included.
    :ivar inputs: names of the graph's inputs, in order.
    :ivar precisions: ``fp32``, ``int8`` -> graph.
    :ivar tie_margin: difference of the two best probabilities below which the golden rows do not ask which label won.
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


class GoldenRow(Record):
    """One line of ``golden.jsonl``: a real text and what each graph answered when the bundle was made.

    :ivar text_pair: the second text, for pairs.
    :ivar logits: precision -> one value a label.
    """

    text: str
    text_pair: str | None = None
    logits: dict[str, tuple[FiniteFloat, ...]]
