"""The int8 graph: weights in eight bits, activations quantised while the graph runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from retrainer.errors import ExportError
from retrainer.work.export import graph
from retrainer.work.export.graph import graph_bytes, quiet, weight_types


def quantize(source: Path, target: Path) -> None:
    """Write the int8 graph of an fp32 graph. The same input gives the same bytes.

    One scale per output channel: a single one for a whole matrix costs a classifier much more.

    :raises ExportError: it has no weight that could be quantised.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="retrainer-int8-") as folder, quiet():
        plain = Path(folder) / "model.onnx"
        proto = onnx.load(str(source))
        # The quantiser transposes weights and infers shapes again; shapes noted before then contradict it.
        del proto.graph.value_info[:]
        size = graph_bytes(source)
        onnx.save(proto, str(plain), save_as_external_data=size > graph.SINGLE_FILE_BYTES)
        del proto
        quantize_dynamic(
            plain,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            use_external_data_format=size > 4 * graph.SINGLE_FILE_BYTES,
            # For values whose type it cannot infer, behind operators that are onnxruntime's own.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    if not weight_types(target).get("INT8"):
        raise ExportError("no weight of the graph could be turned into int8", where=str(target))
