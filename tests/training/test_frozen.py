"""``training.freeze_layers``: kept states give the same answers, what is frozen stays, and the checkpoint is whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DataCollatorWithPadding,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    MPNetConfig,
    RobertaConfig,
    Trainer,
    TrainingArguments,
    set_seed,
)

from retrainer.artifacts.training import TrainingRecord
from retrainer.chain import StepRef
from retrainer.errors import PipelineError
from retrainer.spec import parse_pipeline
from retrainer.work.reporter import Reporter
from retrainer.work.train.encoding import EncodedRows
from retrainer.work.train.frozen import STATES, FrozenLayers, KeptRows, PadStates, keep_states
from retrainer.work.train.trainer import FineTuner
from tests.training.conftest import MakePipeline, train_here

SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "num_labels": 3}
CONFIGS: dict[str, Any] = {
    "bert": (BertConfig, SMALL),
    "roberta": (RobertaConfig, SMALL),
    "electra": (ElectraConfig, {**SMALL, "embedding_size": 8}),
    "mpnet": (MPNetConfig, SMALL),
    "distilbert": (DistilBertConfig, {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "num_labels": 3}),
}


def rows_of(lengths: list[int], names: tuple[str, ...]) -> EncodedRows:
    chance = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    columns = {name: np.zeros(offsets[-1], dtype=np.int32) for name in names}
    columns["input_ids"] = chance.integers(5, 90, offsets[-1], dtype=np.int32)
    return EncodedRows(columns, offsets, np.arange(len(lengths), dtype=np.int64) % 3)


def fitted(
    kind: str, tmp_path: Path, tokenizer: Any, rows: EncodedRows, **training: Any
) -> tuple[Trainer, Any, list[str]]:
    """A trainer with frozen layers of such a model, its model, and what was logged."""
    config, values = CONFIGS[kind]
    set_seed(1)
    model = AutoModelForSequenceClassification.from_config(config(vocab_size=100, max_position_embeddings=64, **values))
    content = {
        "name": "t",
        "dataset": {"train": "none"},
        "model": {"base": "none"},
        "publish": {"store": "none"},
        "training": {"freeze_layers": 2, **training},
    }
    pipeline = parse_pipeline(content, where="test", base_folder=tmp_path)
    frozen = FrozenLayers(model, pipeline.training.freeze_layers or 0, where="t")
    trainer = FineTuner(
        checkpoints=None,  # type: ignore[arg-type]  # nothing is saved
        where="t",
        frozen=frozen,
        model=model,
        args=TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", per_device_eval_batch_size=2),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    keep_states(pipeline, frozen, trainer, tmp_path, Reporter(tmp_path / "messages.jsonl"))
    return trainer, model, (tmp_path / "messages.jsonl").read_text().splitlines()


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_bert)


@pytest.mark.parametrize("kind", CONFIGS)
def test_kept_states_give_the_same_logits_and_gradients(kind: str, tmp_path: Path, tokenizer: Any) -> None:
    rows = rows_of([7, 3, 12, 1, 5], ("input_ids", "token_type_ids", "attention_mask"))
    rows.columns["attention_mask"][:] = 1
    trainer, model, _ = fitted(kind, tmp_path, tokenizer, rows)
    names = list(model.state_dict())
    plain = DataCollatorWithPadding(tokenizer)([rows[at] for at in range(5)])
    if kind == "distilbert":
        plain.pop("token_type_ids")
    kept = trainer.data_collator([trainer.train_dataset[at] for at in range(5)])
    assert STATES in kept
    for module in model.modules():  # what is left to learn has dropout, and this compares answers
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    results = []
    for batch in (plain, kept):
        model.zero_grad()
        loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
        loss.backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        results.append((outputs.logits.detach(), gradients))
    (logits, gradients), (of_kept, gradients_of_kept) = results
    assert torch.allclose(logits, of_kept, atol=1e-6)
    assert gradients.keys() == gradients_of_kept.keys()
    assert all(torch.allclose(gradients[name], gradients_of_kept[name], atol=1e-5) for name in gradients)
    # Nothing before the third layer learns, and the model is whole again.
    assert not any("embeddings" in name or "layer.0." in name or "layer.1." in name for name in gradients)
    assert any("layer.2." in name for name in gradients)
    assert list(model.state_dict()) == names


def test_states_are_kept_whole_where_they_fit_and_not_at_all_where_they_do_not(tmp_path: Path, tokenizer: Any) -> None:
    rows = rows_of([7, 3], ("input_ids", "attention_mask"))
    rows.columns["attention_mask"][:] = 1
    whole = 2 * 10 * 16 * 4 / 10**9
    for name, room, fits in (("one", whole, True), ("two", whole * 0.99, False)):
        (tmp_path / name).mkdir()
        trainer, _, log = fitted("bert", tmp_path / name, tokenizer, rows, freeze_cache_gb=room)
        assert isinstance(trainer.train_dataset, KeptRows) == fits
        assert bool(list((tmp_path / name).glob("frozen-*"))) == fits
        assert ("is kept" if fits else "compute in every epoch") in log[-1]


def test_files_of_an_earlier_try_are_not_in_the_way(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of([7, 3], ("input_ids", "attention_mask"))
    rows.columns["attention_mask"][:] = 1
    size = 10 * 16 * 4

    def usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=4 * size - sum(path.stat().st_size for path in folder.glob("frozen-*")))

    monkeypatch.setattr(shutil, "disk_usage", usage)
    for _ in range(2):
        trainer, _, _ = fitted("bert", tmp_path, tokenizer, rows)
        assert isinstance(trainer.train_dataset, KeptRows)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device on which every write finds a full disk")
def test_a_full_disk_ends_the_keeping_and_not_the_training(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of([7, 3], ("input_ids", "attention_mask"))
    rows.columns["attention_mask"][:] = 1
    plain = Path.unlink

    def full(path: Path, **options: Any) -> None:
        """Where the files of an earlier try are deleted, that of the validation rows comes to lie on a full disk."""
        plain(path, **options)
        if path.name.startswith("frozen-validation") and not path.is_symlink() and not deleted:
            path.symlink_to("/dev/full")
            deleted.append(path)

    deleted: list[Path] = []
    monkeypatch.setattr(Path, "unlink", full)
    trainer, _, log = fitted("bert", tmp_path, tokenizer, rows)
    assert trainer.train_dataset is rows
    assert "cannot be written: No space left on device" in log[-1]
    assert not list(tmp_path.glob("frozen-*"))


def test_weights_that_are_not_of_the_base_are_not_frozen() -> None:
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SMALL))
    new = {"bert.embeddings.LayerNorm.weight", "bert.pooler.dense.weight"}
    with pytest.raises(PipelineError, match=r"1 weights .* first bert.embeddings.LayerNorm.weight"):
        FrozenLayers(model, 1, new=new, where="t")


def test_frozen_layers_have_no_dropout_and_the_others_do(tmp_path: Path, tokenizer: Any) -> None:
    rows = rows_of([7, 3], ("input_ids", "attention_mask"))
    rows.columns["attention_mask"][:] = 1
    trainer, model, _ = fitted("bert", tmp_path, tokenizer, rows, freeze_cache_gb=0)
    model.train()
    trainer.compute_loss(model, dict(DataCollatorWithPadding(tokenizer)([rows[0], rows[1]])))
    assert not model.bert.embeddings.training
    assert [layer.training for layer in model.bert.encoder.layer] == [False, False, True]


DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 8, **SMALL}


@pytest.mark.parametrize(
    ("config", "behind"),
    [
        (DebertaV2Config(vocab_size=50, **SMALL), set()),
        (DebertaConfig(vocab_size=50, **DEBERTA), {"rel_embeddings.weight"}),
        (
            DebertaV2Config(vocab_size=50, norm_rel_ebd="layer_norm", conv_kernel_size=3, conv_act="gelu", **DEBERTA),
            {
                "rel_embeddings.weight",
                "LayerNorm.weight",
                "LayerNorm.bias",
                "conv.conv.weight",
                "conv.conv.bias",
                "conv.LayerNorm.weight",
                "conv.LayerNorm.bias",
            },
        ),
        (GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=2, num_labels=3, pad_token_id=0), set()),
    ],
    ids=["deberta-v2, plain", "deberta", "deberta-v2", "gpt2"],
)
def test_of_other_models_all_that_frozen_layers_read_is_frozen_and_nothing_is_kept(
    config: Any, behind: set[str]
) -> None:
    set_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    frozen = FrozenLayers(model, "half", where="t")
    assert (frozen.count, frozen.can_be_kept) == (1, False)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    first, learnt = ("h.0.", "h.1.") if config.model_type == "gpt2" else ("layer.0.", "layer.1.")
    assert not any("embeddings.word" in name or "wte" in name or first in name for name in learning)
    assert any(learnt in name for name in learning)
    still = {f"deberta.encoder.{name}" for name in behind}
    assert still <= {name for name, _ in model.named_parameters()}
    assert not still & learning
    # Whatever learns, what the first layer that does is given stays the same.
    given: list[torch.Tensor] = []
    layer = next(part for name, part in model.named_modules() if name.endswith(learnt[:-1]))
    layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].detach().clone()))
    ids = torch.arange(5, 12)[None]
    for _ in range(2):
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in learning:
                    weight.add_(1.0)
    assert torch.equal(*given)
    model.train()
    frozen.rest()
    assert layer.training


@pytest.mark.parametrize(
    ("config", "said"), [(BertConfig(**SMALL), "3 layers"), (AlbertConfig(embedding_size=8, **SMALL), "of a albert")]
)
def test_layers_that_are_not_there_are_refused(config: Any, said: str) -> None:
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(PipelineError, match=said) as caught:
        FrozenLayers(model, 3, where="t")
    assert caught.value.where == "t: training.freeze_layers"


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_states_are_where_the_tokens_are(lengths: list[int]) -> None:
    longest = max(lengths)

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        assert all(STATES not in row for row in rows)
        ids = torch.zeros((len(rows), longest + 2), dtype=torch.long)
        for at, row in enumerate(rows):
            count = len(row["input_ids"])
            ids[at, :count] = torch.tensor(row["input_ids"])
        return {"input_ids": ids}

    rows = [
        {"input_ids": [at + 1] * count, STATES: torch.full((count, 4), at + 1.0)} for at, count in enumerate(lengths)
    ]
    batch = PadStates(collate)(rows)
    assert torch.equal(batch[STATES], batch["input_ids"][:, :, None].expand(-1, -1, 4).float())


def test_a_training_with_frozen_layers_leaves_a_whole_model(
    make_pipeline: MakePipeline, snapshot: StepRef, tiny_bert: Path, tmp_path: Path
) -> None:
    arguments = {"freeze_layers": "half", "num_train_epochs": 1}
    checkpoint, trained = train_here(make_pipeline(arguments), snapshot, tmp_path / "kept")
    again, _ = train_here(make_pipeline({**arguments, "freeze_cache_gb": 0}), snapshot, tmp_path / "not_kept")
    own, other, base = (load_file(folder / "model.safetensors") for folder in (checkpoint, again, tiny_bert))
    learnt = 0
    for name, weight in own.items():
        assert np.allclose(weight, other[name], atol=1e-4), name
        if "embeddings" in name or "layer.0." in name:
            assert np.array_equal(weight, base[name.removeprefix("bert.")]), name
        else:
            learnt += weight.size
    assert trained.trained_parameters == learnt == TrainingRecord.load(checkpoint.parent).trained_parameters
    assert trained.trained_parameters < trained.parameters
