"""Two exported tiny bundles that write text, one with an encoder and one without: made once a session, read-only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from retrainer.artifacts.parity import ParityReport
from retrainer.work.export.generation import export_bundle
from tests.export import tiny
from tests.export.tiny_writers import MAX_LENGTH, MAX_NEW_TOKENS, TASKS, save_writer
from tests.made_once import made_once

BOTH = ("gpt2", "t5")
ROWS = tiny.rows(70, longest=10)


@dataclass(frozen=True)
class Writer:
    architecture: str
    checkpoint: Path
    bundle: Path
    report: ParityReport


def writer(factory: pytest.TempPathFactory, architecture: str) -> Writer:
    """With fp32 and int8."""

    def make(folder: Path) -> None:
        report = export_bundle(
            save_writer(folder / "checkpoint", architecture),
            ROWS,
            folder / "bundle",
            task=TASKS[architecture],
            max_length=MAX_LENGTH,
            max_new_tokens=MAX_NEW_TOKENS,
            precisions=("fp32", "int8"),
            train_row_ids=[row.row_id for row in ROWS],
        )
        (folder / "report.json").write_bytes(report.to_json())

    folder = made_once(factory, f"writer_{architecture}", make)
    report = ParityReport.from_json((folder / "report.json").read_bytes(), where="report.json")
    return Writer(architecture, folder / "checkpoint", folder / "bundle", report)


def torch_answers(checkpoint: Path, texts: Sequence[str], **settings: Any) -> list[tuple[int, ...]]:
    """What transformers generates, one text at a time and with nothing of ours."""
    config = GenerationConfig.from_pretrained(checkpoint)
    names = AutoTokenizer.from_pretrained(checkpoint)
    with_encoder = (checkpoint / "config.json").read_text().find('"is_encoder_decoder": true') >= 0
    auto = AutoModelForSeq2SeqLM if with_encoder else AutoModelForCausalLM
    model = auto.from_pretrained(checkpoint).eval()
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    answers = []
    for text in texts:
        encoded = names(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        ids = {"input_ids": encoded.input_ids, "attention_mask": encoded.attention_mask}
        with torch.inference_mode():
            found = model.generate(**ids, **{"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS, **settings})[0]
        tokens = found[1 if with_encoder else encoded.input_ids.shape[1] :].tolist()
        length = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
        answers.append(tuple(tokens[:length]))
    return answers
