"""LoRA on models that write text: what is served is what torch writes with the matrices merged into the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from retrainer.chain import StepRef
from retrainer.serve.generation import GenerationPredictor
from retrainer.work.export.generation import export_bundle
from retrainer.work.export.sample import Row
from tests.export.writer_bundles import torch_answers
from tests.generation import tiny
from tests.generation.conftest import MakeWriter
from tests.training.conftest import train_here

LORA = {"r": 4, "alpha": 16, "target_modules": "all-linear"}


@pytest.mark.parametrize("kind", ["gpt2", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("t5", "umt5"))])
def test_a_merged_model_is_served_as_torch_runs_it(
    kind: str, make_writer: MakeWriter, bases: dict[str, Path], snapshots: dict[str, StepRef], tmp_path: Path
) -> None:
    task = "text-generation" if kind == "gpt2" else "text2text-generation"
    base = tiny.save_t5(tmp_path / "base", kind=kind) if kind == "umt5" else bases[task]
    pipeline = make_writer(
        task,
        {"peft": LORA, "max_steps": 40, "lr_scheduler_type": "constant"},
        model={"base": str(base), "max_length": 8, "max_new_tokens": 6},
    )
    checkpoint, _ = train_here(pipeline, snapshots[task], tmp_path / "here")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, checkpoint))
    assert before.keys() == after.keys(), "the matrices are still beside the weights"
    learnt = {name for name, weight in after.items() if not np.array_equal(weight, before[name])}
    assert learnt
    assert all(after[name].ndim == 2 for name in learnt), "only what has matrices learns"

    rows = [Row(f"{at:016x}", text) for at, (text, _) in enumerate(tiny.rows(64, seed=9))]
    export_bundle(checkpoint, rows, tmp_path / "bundle", task=task, max_length=8, max_new_tokens=6)
    texts = [str(row.text) for row in rows]
    served = [answer.tokens for answer in GenerationPredictor(tmp_path / "bundle").generate(texts)]
    assert served == torch_answers(checkpoint, texts, max_new_tokens=6)
    assert served != torch_answers(base, texts, max_new_tokens=6), "nothing was learnt that is seen"
