"""A checkpoint to ONNX: traced, cleaned, in fp32 or int8, the same bytes for the same checkpoint.

transformers' exporter is tried first, torch's older one where that cannot trace an architecture. Neither is
believed: ``parity.py`` measures what comes out.
"""

from __future__ import annotations

import gc
import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal

import onnx
import onnx_ir
import torch
import torch.fx.config
from onnx_ir.passes import common as common_passes
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

from retrainer.errors import ExportError, first_line
from retrainer.serve.predictor import OUTPUT
from retrainer.work.export.checkpoint import Checkpoint

ExporterName = Literal["transformers", "torch-legacy"]

# protobuf ends at 2 GiB; past this the weights go to a second file.
SINGLE_FILE_BYTES = 1_900_000_000
DATA_SUFFIX = ".data"

# Two rows of different length, so that both dimensions are seen to vary and padding occurs. Fixed, so that
# the traced graph depends on the checkpoint alone.
SAMPLE_TEXTS = ("one two three four five six seven eight nine ten eleven twelve", "one two three")

# What tracing raises for an architecture that it cannot trace.
TRACE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def export_graph(checkpoint: Checkpoint, path: Path, *, max_length: int) -> ExporterName:
    """Write the fp32 graph of a checkpoint: inputs by name, one output, ``logits``, every shape dynamic.

    :return: which exporter made it.
    :raises ExportError: none could.
    """
    sample = _sample(checkpoint, max_length)
    with quiet():
        try:
            graph = _trace(checkpoint, sample)
            name: ExporterName = "transformers"
        except TRACE_ERRORS as first:
            try:
                graph = _trace_legacy(checkpoint, sample)
            except TRACE_ERRORS as second:
                raise _untraceable(checkpoint, first, second) from first
            name = "torch-legacy"
        _clean(graph, checkpoint)
        save(graph, path)
    return name


def load_exporters() -> None:
    """Load what the exporters load only when they trace: a second, of which a process that waits has many."""
    from transformers.exporters.utils import apply_patches  # which imports the models that it patches

    size = torch.export.Dim.DYNAMIC
    with quiet(), apply_patches("dynamo"), apply_patches("onnx"):
        torch.onnx.export(torch.nn.Linear(1, 1), (torch.zeros(2, 1),), dynamo=True, dynamic_shapes=({0: size},))


def save(graph: onnx_ir.Model, path: Path) -> None:
    """Write a graph in one file, or with its weights in a second where one cannot hold them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = sum(
        value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None
    )
    external = f"{path.name}{DATA_SUFFIX}" if weights > SINGLE_FILE_BYTES else None
    onnx_ir.save(graph, str(path), external_data=external)


def quantize(source: Path, target: Path) -> None:
    """Write the int8 graph of an fp32 graph: weights in eight bits, activations quantised while the graph runs.

    The same input gives the same bytes. One scale per output channel: a single one for a whole matrix costs a
    classifier much more.

    :raises ExportError: it has no weight that could be quantised.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="retrainer-int8-") as folder, quiet():
        plain = Path(folder) / "model.onnx"
        proto = onnx.load(str(source))
        # The quantiser transposes weights and infers shapes again; shapes noted before then contradict it.
        del proto.graph.value_info[:]
        size = graph_bytes(source)
        onnx.save(proto, str(plain), save_as_external_data=size > SINGLE_FILE_BYTES)
        del proto
        quantize_dynamic(
            plain,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            use_external_data_format=size > 4 * SINGLE_FILE_BYTES,
            # For values whose type it cannot infer, behind operators that are onnxruntime's own.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    if not weight_types(target).get("INT8"):
        raise ExportError("no weight of the graph could be turned into int8", where=str(target))


def graph_bytes(path: Path) -> int:
    """Size of a graph on disk, its weights included where they lie in a second file."""
    data = path.with_name(f"{path.name}{DATA_SUFFIX}")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def weight_types(path: Path) -> dict[str, int]:
    """ONNX type name to the number of initializers of that type in a file."""
    proto = onnx.load(str(path), load_external_data=False)
    counts = Counter(onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in proto.graph.initializer)
    return dict(sorted(counts.items()))


def input_names(path: Path) -> tuple[str, ...]:
    """What a graph reads, in order."""
    return tuple(value.name for value in onnx.load(str(path), load_external_data=False).graph.input)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters from talking over our own progress: no warnings, no log records below error, no standard output.

    What they say is about their own versions and about operators that are not used. Whether the graph is
    right is not read off their messages: it is measured.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _sample(checkpoint: Checkpoint, max_length: int) -> dict[str, torch.Tensor]:
    encoded = checkpoint.tokenizer(
        list(SAMPLE_TEXTS), padding=True, truncation=True, max_length=max_length, return_tensors="pt"
    )
    return {name: encoded[name] for name in checkpoint.inputs}


def _trace(checkpoint: Checkpoint, sample: dict[str, torch.Tensor]) -> onnx_ir.Model:
    dynamic = torch.export.Dim.DYNAMIC
    config = OnnxConfig(dynamic=True, dynamic_shapes={name: {0: dynamic, 1: dynamic} for name in sample})
    with _without_stack_traces(), _uncollected():
        return OnnxExporter().export(checkpoint.model, dict(sample), config=config).program


@contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Trace without noting for each node which code it came from; ``strip`` would drop that again."""
    before = torch.fx.config.do_not_emit_stack_traces
    torch.fx.config.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        torch.fx.config.do_not_emit_stack_traces = before


@contextmanager
def _uncollected() -> Iterator[None]:
    """Trace without looking for garbage: of the very many objects that a trace makes nearly all stay until its end."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Positional(torch.nn.Module):  # type: ignore[misc]  # torch's types are not followed
    """The model with its inputs by position and its logits alone, as torch's older exporter wants it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.model = checkpoint.model
        self.names = checkpoint.inputs

    def forward(self, *values: torch.Tensor) -> Any:
        """The logits."""
        return self.model(**dict(zip(self.names, values, strict=True))).logits


def _trace_legacy(checkpoint: Checkpoint, sample: dict[str, torch.Tensor]) -> onnx_ir.Model:
    with tempfile.TemporaryDirectory(prefix="retrainer-export-") as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            _Positional(checkpoint).eval(),
            tuple(sample[name] for name in checkpoint.inputs),
            str(path),
            dynamo=False,
            input_names=list(checkpoint.inputs),
            output_names=[OUTPUT],
            dynamic_axes={
                **{name: {0: "batch", 1: "sequence"} for name in checkpoint.inputs},
                OUTPUT: {0: "batch"},
            },
            opset_version=17,
        )
        return onnx_ir.from_proto(onnx.load(str(path)))


def _clean(model: onnx_ir.Model, checkpoint: Checkpoint) -> None:
    """Name the interface, and drop what depends on where and when the graph was made."""
    graph = model.graph
    by_name = {value.name: value for value in graph.inputs}
    # An exporter may leave out an input that the model ignores, such as type ids where there is one type.
    if "input_ids" not in by_name or not set(by_name) <= set(checkpoint.inputs):
        raise ExportError(
            f"the traced graph reads {', '.join(map(str, by_name))} instead of {', '.join(checkpoint.inputs)}",
            where=str(checkpoint.folder),
        )
    for value in graph.inputs:
        value.shape = onnx_ir.Shape(["batch", "sequence"])
    outputs = [value for value in graph.outputs if value.name == OUTPUT]
    if len(outputs) != 1:
        raise ExportError("the traced graph gives no logits", where=str(checkpoint.folder))
    # Others are states for generation, such as XLNet's memories; nobody reads them here.
    if len(graph.outputs) > 1:
        graph.outputs[:] = outputs
        common_passes.RemoveUnusedNodesPass()(model)
    outputs[0].shape = onnx_ir.Shape(["batch", len(checkpoint.labels)])
    strip(model)


def strip(model: onnx_ir.Model) -> None:
    """Drop what depends on where and when a graph was made.

    Exporters write stack traces into the nodes, with the paths of this installation. The shapes that they
    infer carry dimension names which no longer fit the inputs; onnxruntime infers its own.
    """
    graph = model.graph
    outputs = list(graph.outputs)
    for node in graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.doc_string = None
            value.metadata_props.clear()
            if not any(value is output for output in outputs):
                value.shape, value.type = None, None
    for value in (*graph.inputs, *graph.initializers.values()):
        value.doc_string = None
        value.metadata_props.clear()
    model.doc_string = graph.doc_string = None
    model.metadata_props.clear()
    graph.metadata_props.clear()
    graph.name = "retrainer"
    for function in model.functions.values():
        function.doc_string = None
        function.metadata_props.clear()


def _untraceable(checkpoint: Checkpoint, first: Exception, second: Exception) -> ExportError:
    return ExportError(
        f"a model of type '{checkpoint.model.config.model_type}' cannot be traced: {first_line(first)}; "
        f"torch's older exporter: {first_line(second)}",
        where=str(checkpoint.folder),
        hint="choose a base model of another type, such as bert, roberta, distilbert, electra or deberta-v2",
    )
