"""A model that writes text to ONNX: one graph that reads a text at once or goes on by a token, whichever it is given.

The past goes in as ``past_key_values.N.key`` and comes out as ``present.N.key``, as runtimes of the ecosystem have it,
and there is no ``If`` in the graph: it begins with a past of no length. Nothing here is believed:
``generation_parity.py`` measures what comes out.
"""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter
from transformers.modeling_outputs import BaseModelOutput

from retrainer.errors import ExportError, first_line
from retrainer.serve.generation_graphs import ENCODED, LOGITS, PAST, PRESENT
from retrainer.work.export.graph import TRACE_ERRORS, quiet, save, strip

EXPORTER = "transformers"

# How many tokens the traced example has behind it, reads now, and of what text it was. All differ, and none is 0 or 1,
# so that each is seen to vary.
_PAST, _NOW, _TEXT = 5, 3, 9
_ROWS = 2

_SELF = ("key", "value")
_BOTH = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")


def export_decoder(model: PreTrainedModel, path: Path) -> None:
    """Write the graph of a model without an encoder.

    :raises ExportError: it cannot be traced.
    """
    with quiet():
        module = _Decoder(_to_trace(model))
        with torch.no_grad():
            ids = torch.arange(_ROWS * _PAST).reshape(_ROWS, _PAST) % model.config.vocab_size
            cache = module.model(input_ids=ids, use_cache=True).past_key_values
        past = [tensor for layer in _layers(cache, model) for tensor in (layer.keys, layer.values)]
        now = torch.ones(_ROWS, _NOW, dtype=torch.long)
        inputs = {"input_ids": now, "attention_mask": torch.ones(_ROWS, _PAST + _NOW, dtype=torch.long)}
        if module.positions:
            inputs["position_ids"] = torch.arange(_PAST, _PAST + _NOW).repeat(_ROWS, 1)
        save(_trace(module, inputs, past, _SELF), path)


def export_encoder_decoder(model: PreTrainedModel, encoder: Path, decoder: Path) -> None:
    """Write both graphs of a model with an encoder.

    :raises ExportError: it cannot be traced.
    """
    with quiet():
        traced = _to_trace(model)
        now = torch.ones(_ROWS, _NOW, dtype=torch.long)
        text = torch.ones(_ROWS, _TEXT, dtype=torch.long)
        with torch.no_grad():
            answer = traced(input_ids=text, decoder_input_ids=now, use_cache=True)
        encoded, cache = answer.encoder_last_hidden_state, answer.past_key_values
        # Of the text's past as if the encoder had given a part of it before: that is how the rest is seen to be new.
        past = [
            tensor
            for own, of_text in zip(
                _layers(cache.self_attention_cache, model), _layers(cache.cross_attention_cache, model), strict=True
            )
            for tensor in (own.keys, own.values, of_text.keys[:, :, :_PAST], of_text.values[:, :, :_PAST])
        ]
        inputs = {"encoder_attention_mask": text, "input_ids": now, "encoder_hidden_states": encoded}
        save(_trace(_Encoder(traced), {"input_ids": text, "attention_mask": text}, [], ()), encoder)
        save(_trace(_DecoderOfEncoder(traced), inputs, past, _BOTH), decoder)


def _to_trace(model: PreTrainedModel) -> PreTrainedModel:
    """A copy, for tracing alters the module; with the attention that is traced to the plainest operators."""
    traced = copy.deepcopy(model).eval()
    traced.set_attn_implementation("eager")
    return traced


def _layers(cache: Any, model: PreTrainedModel) -> list[Any]:
    layers = list(getattr(cache, "layers", []))
    if not layers or any(getattr(layer, "keys", None) is None for layer in layers):
        raise _untraceable(model, "its cache is not one of keys and values")
    return layers


class _Decoder(torch.nn.Module):  # type: ignore[misc]  # torch's types are not followed
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        accepted = inspect.signature(model.forward).parameters
        self.positions = "position_ids" in accepted
        # A long text times a large vocabulary is more than memory has, and only the last token is read.
        self.more = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def forward(self, past: list[torch.Tensor], **inputs: torch.Tensor) -> dict[str, Any]:
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        answer = self.model(**inputs, past_key_values=cache, use_cache=True, **self.more)
        present = [tensor for layer in answer.past_key_values.layers for tensor in (layer.keys, layer.values)]
        return {LOGITS: answer.logits[:, -1:], "present": present}


class _Encoder(torch.nn.Module):  # type: ignore[misc]  # likewise
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {ENCODED: self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state}


class _DecoderOfEncoder(torch.nn.Module):  # type: ignore[misc]  # likewise
    """Keys and values of the text are made of what the encoder gave beyond those that there are: of all of it at first,
    and of nothing later. So one graph without a branch serves both, and nothing is computed twice."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        past: list[torch.Tensor],
        encoder_attention_mask: torch.Tensor,
        input_ids: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
    ) -> dict[str, Any]:
        own, of_text = zip(past[0::4], past[1::4], strict=True), zip(past[2::4], past[3::4], strict=True)
        cache = EncoderDecoderCache(DynamicCache(list(own)), DynamicCache(list(of_text)))
        cache.is_updated = {}
        new = encoder_hidden_states[:, past[2].shape[2] :]
        hidden = 1 - encoder_attention_mask[:, None, None, :].to(new.dtype)
        answer = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=new),
            attention_mask=hidden * torch.finfo(new.dtype).min,
            decoder_input_ids=input_ids,
            past_key_values=cache,
            use_cache=True,
        )
        present = [
            tensor
            for own_layer, text_layer in zip(
                answer.past_key_values.self_attention_cache.layers,
                answer.past_key_values.cross_attention_cache.layers,
                strict=True,
            )
            for tensor in (own_layer.keys, own_layer.values, text_layer.keys, text_layer.values)
        ]
        return {LOGITS: answer.logits[:, -1:], "present": present}


def _trace(
    module: torch.nn.Module, inputs: dict[str, torch.Tensor], past: list[torch.Tensor], parts: tuple[str, ...]
) -> onnx_ir.Model:
    """The graph of a module, with the names of its inputs and outputs.

    :param parts: names of a layer's part of the past, in order.
    """
    dynamic, inferred = torch.export.Dim.DYNAMIC, torch.export.Dim.AUTO
    # The mask's length is that of the past and the present together.
    shapes: dict[str, Any] = {name: {0: dynamic, 1: inferred if "mask" in name else dynamic} for name in inputs}
    arguments: dict[str, Any] = {name: tensor.clone() for name, tensor in inputs.items()}
    if past:
        arguments["past"] = [tensor.detach().clone() for tensor in past]
        shapes["past"] = [{0: dynamic, 2: dynamic} for _ in past]
    try:
        graph: onnx_ir.Model = (
            OnnxExporter().export(module, arguments, config=OnnxConfig(dynamic=True, dynamic_shapes=shapes)).program
        )
    except TRACE_ERRORS as error:
        raise _untraceable(getattr(module, "model", None), first_line(error)) from error
    _name(graph, list(inputs), [f"{index // len(parts)}.{parts[index % len(parts)]}" for index in range(len(past))])
    strip(graph)
    return graph


def _name(model: onnx_ir.Model, inputs: list[str], past: list[str]) -> None:
    graph = model.graph
    by_name = {value.name: value for value in graph.inputs}
    for name in inputs:
        if name not in by_name:
            raise ExportError(f"the traced graph does not read {name}")
        value = by_name[name]
        length = "total_length" if name == "attention_mask" and past else "length"
        length = "text_length" if name.startswith("encoder_") else length
        value.shape = onnx_ir.Shape(["batch", length, *list(value.shape)[2:]])
    outputs = {value.name: value for value in graph.outputs}
    for index, name in enumerate(past):
        reads, gives = by_name.get(f"past.{index}"), outputs.get(f"present.{index}")
        if reads is None or gives is None:
            raise ExportError(f"the traced graph has no past {name}")
        of_text = name.partition(".")[2].startswith("encoder")
        _, heads, _, width = reads.shape
        reads.name, gives.name = PAST + name, PRESENT + name
        reads.shape = onnx_ir.Shape(["batch", heads, "past_text_length" if of_text else "past_length", width])
        gives.shape = onnx_ir.Shape(["batch", heads, "text_length" if of_text else "total_length", width])
    for value in graph.outputs:
        if value.name in {LOGITS, ENCODED}:
            width = value.shape[-1]
            value.shape = onnx_ir.Shape(["batch", 1 if value.name == LOGITS else "length", width])


def _untraceable(model: Any, why: str) -> ExportError:
    kind = getattr(getattr(model, "config", None), "model_type", "unknown")
    return ExportError(
        f"a model of type '{kind}' cannot be traced: {why}",
        hint="choose a base model of another type, such as t5, gpt2 or llama",
    )
