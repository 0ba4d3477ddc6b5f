"""A checkpoint that writes text to a bundle folder: graphs, tokenizer, golden rows, all checked against the checkpoint.

With an encoder it holds ``onnx/encoder_model.onnx`` and ``onnx/decoder_model_merged.onnx``, without one
``onnx/model.onnx``: where other runtimes of the ecosystem look for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from retrainer.artifacts.parity import ParityReport
from retrainer.errors import ExportError
from retrainer.precisions import PRECISIONS, REFERENCE
from retrainer.serve.encoding import load_tokenizer
from retrainer.serve.generation import GenerationPredictor
from retrainer.serve.generation_golden import agreement
from retrainer.serve.generation_rules import GENERATION_CONFIG
from retrainer.serve.golden import GOLDEN, read_golden
from retrainer.serve.processor import cpu_features
from retrainer.store.bundle import BundleInfo, GoldenRow, PrecisionEntry
from retrainer.work.export import generation_parity as parity
from retrainer.work.export.bundle import GOLDEN_ROWS, write_tokenizer
from retrainer.work.export.checkpoint import load_model
from retrainer.work.export.generation_config import as_transformers, published
from retrainer.work.export.generation_graph import EXPORTER, export_decoder, export_encoder_decoder
from retrainer.work.export.graph import input_names, weight_types
from retrainer.work.export.parity import CONFIG
from retrainer.work.export.sample import Row, Sample, choose, thin
from retrainer.work.portable import portable, write_config
from retrainer.work.snapshot_texts import TRAIN_ROWS, pack_row_ids

DECODER = "decoder_model_merged"
ENCODER = "encoder_model"
# Tokens of an answer that a client asks again where it loads the model: it should not take long.
GOLDEN_TOKENS = 8


def export_bundle(
    checkpoint_folder: Path,
    rows: Sequence[Row],
    folder: Path,
    *,
    task: str,
    max_length: int,
    max_new_tokens: int,
    precisions: Sequence[str] = (REFERENCE,),
    train_row_ids: Iterable[str] = (),
    on_stage: Callable[[str], None] = lambda stage: None,
) -> ParityReport:
    """Fill an empty folder with the bundle of a checkpoint. The same input gives the same bytes.

    :param rows: real rows to compare graphs and checkpoint on, of the validation split.
    :param max_length: tokens after which a text is cut.
    :param max_new_tokens: after which an answer ends.
    :param train_row_ids: text keys of the rows the model was trained on, 16 hex digits each.
    :param on_stage: is told what is being done.
    :return: how well the graphs agree with the checkpoint.
    :raises ModelError: the checkpoint cannot be read, or not be published.
    :raises ExportError: it cannot be traced, or the graphs write something else, or its generation config asks for what
        is not honoured.
    """
    on_stage("loading the checkpoint")
    model, tokenizer = load_model(checkpoint_folder, task)
    _check_positions(model, max_length + max_new_tokens, checkpoint_folder)
    generation = published(model, tokenizer, max_new_tokens, checkpoint_folder)
    if generation.dropped:
        on_stage(f"left to whoever asks: {', '.join(generation.dropped)} of {GENERATION_CONFIG}")
    folder.mkdir(parents=True, exist_ok=True)
    names = (DECODER, ENCODER) if model.config.is_encoder_decoder else ("model",)
    on_stage(f"tracing the {REFERENCE} graph")
    traced = [folder / PRECISIONS[REFERENCE].graph(name) for name in names]
    _export(model, traced)
    for precision in sorted(precisions):
        if precision != REFERENCE:
            on_stage(f"making the {precision} graph")
            for name, graph in zip(names, traced, strict=True):
                PRECISIONS[precision].maker()(graph, folder / PRECISIONS[precision].graph(name))
    write_tokenizer(tokenizer, folder, max_length)
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    write_config(folder / CONFIG, portable(config))
    write_config(folder / GENERATION_CONFIG, generation.config)
    info = BundleInfo(
        task=task,
        labels=(),
        max_length=max_length,
        inputs=input_names(traced[0]),
        pad_token_id=tokenizer.pad_token_id,
        padding_side="right" if model.config.is_encoder_decoder else "left",
        precisions={name: _entry(folder, name, names) for name in sorted(precisions)},
        tie_margin=parity.TIE_MARGIN,
        max_new_tokens=max_new_tokens,
        decoder_start_token_id=generation.decoder_start_token_id,
        eos_token_ids=generation.eos_token_ids,
    )
    info.save(folder)
    (folder / TRAIN_ROWS).write_bytes(pack_row_ids(train_row_ids))

    on_stage("asking the checkpoint")
    sample = choose(rows, load_tokenizer(folder, None), max_length=max_length, count=parity.ROWS)
    texts = [str(text) for text in sample.texts]
    answers = parity.reference_answers(model, tokenizer, texts, as_transformers(generation), max_length)
    on_stage("comparing the graphs with it")
    report = parity.check_bundle(folder, sample, answers, exporter=EXPORTER)
    _write_golden(folder, sample, info)
    return report


def _check_positions(model: PreTrainedModel, tokens: int, folder: Path) -> None:
    most = getattr(model.config, "max_position_embeddings", None)
    if not model.config.is_encoder_decoder and most is not None and tokens > most:
        raise ExportError(
            f"a text and its answer have up to {tokens} tokens, and the model reads {most}",
            where=str(folder),
            hint="lower model.max_length or model.max_new_tokens",
        )


def _export(model: PreTrainedModel, graphs: Sequence[Path]) -> None:
    if model.config.is_encoder_decoder:
        decoder, encoder = graphs
        export_encoder_decoder(model, encoder, decoder)
    else:
        export_decoder(model, graphs[0])


def _entry(folder: Path, precision: str, names: Sequence[str]) -> PrecisionEntry:
    files = [PRECISIONS[precision].graph(name) for name in names]
    counted: dict[str, int] = {}
    for file in files:
        for kind, count in weight_types(folder / file).items():
            counted[kind] = counted.get(kind, 0) + count
    return PrecisionEntry(
        file=files[0],
        encoder_file=files[1] if len(files) > 1 else None,
        weight_types=counted,
        cpu_features=cpu_features() if PRECISIONS[precision].depends_on_processor else None,
    )


def _write_golden(folder: Path, sample: Sample, info: BundleInfo) -> None:
    """Rows from shortest to longest with the beginning of each graph's answer, asked one at a time."""
    texts = [str(sample.rows[position].text) for position in thin(sample, GOLDEN_ROWS)]
    predictors = {name: GenerationPredictor(folder, precision=name) for name in info.precisions}
    answers = {name: _decided(predictor, texts) for name, predictor in predictors.items()}
    lines = [
        GoldenRow(text=text, tokens={name: found[index] for name, found in answers.items()})
        for index, text in enumerate(texts)
    ]
    (folder / GOLDEN).write_bytes(b"".join(line.to_json() + b"\n" for line in lines))
    golden = read_golden(folder)
    for name, predictor in predictors.items():
        found = agreement(predictor, golden)
        if not found.holds:
            raise ExportError(f"{name} does not repeat its own answers: {found}", where=str(folder))


def _decided(predictor: GenerationPredictor, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The tokens that each answer begins with, up to one that another host may well choose otherwise.

    That nothing would be left of all answers is no reason to ask nothing: then it is the most decided first token.
    """
    margin = 2 * PRECISIONS[predictor.precision].golden_tolerance
    leads: list[list[float]] = [[] for _ in texts]

    def lead(row: int, scores: npt.NDArray[np.float32]) -> int:
        second, best = np.partition(scores, -2)[-2:]
        leads[row].append(float(best - second))
        return int(scores.argmax())

    tokens = predictor.choose(texts, lead, most=GOLDEN_TOKENS, batch_size=1)
    decided = [
        tuple(answer[: next((place for place, value in enumerate(row) if value <= margin), len(row))])
        for answer, row in zip(tokens, leads, strict=True)
    ]
    if not any(decided):
        surest = int(np.argmax([row[0] for row in leads]))
        decided[surest] = (tokens[surest][0],)
    return decided
