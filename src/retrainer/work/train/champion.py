"""The champion's checkpoint as weights that a training can start from or be blended with, or why there are none.

From the store, every file checked, and safetensors only: nothing of it is unpickled. Not here: blending
(``blending.py``), and how the champion answers when it is judged (``evaluate/champion.py``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, PreTrainedModel

from retrainer.chain import StepRequest
from retrainer.chain.model_store import model_of
from retrainer.chain.steps.train import CHECKPOINT, WEIGHTS
from retrainer.errors import first_line
from retrainer.work.near import NEAR_ROWS
from retrainer.work.reporter import Reporter
from retrainer.work.snapshot_texts import TRAIN_ROWS, trained_on
from retrainer.work.train.encoding import EncodedRows, logits_of
from retrainer.work.train.loading import Base

# What a configuration says beside how the model computes.
_NOT_OF_THE_ARCHITECTURE = frozenset(
    {
        "_name_or_path",
        "architectures",
        "dtype",
        "id2label",
        "label2id",
        "problem_type",
        "transformers_version",
        "use_cache",
    }
)
_SAMPLE_ROWS = 16


@dataclass(frozen=True, slots=True, eq=False)
class ChampionWeights:
    """A champion whose weights mean the same as those of the new model.

    :param weights: name to tensor, on the CPU, with the labels in the order of the new model's.
    :param seen_validation: which validation rows it was trained on, ``[rows]``.
    :param about_its_rows: the files of its bundle about the rows that it was trained on: name to content.
    """

    version: str
    weights: dict[str, Any]
    seen_validation: npt.NDArray[np.bool_]
    about_its_rows: dict[str, bytes]


def read_champion_weights(
    request: StepRequest,
    version: str,
    base: Base,
    labels: tuple[str, ...],
    rows: EncodedRows,
    validation_keys: Sequence[str],
    collate: Any,
    reporter: Reporter,
) -> ChampionWeights | str:
    """The weights of the champion that the training was planned against; or why it cannot use them.

    :param version: the champion's.
    :param labels: none of a task that writes text.
    :param rows: any that the models can be tried with.
    :raises IntegrityError: a file of the version is damaged or missing.
    :raises NotFoundError: the version is no longer there.
    """
    store = model_of(request.pipeline)
    with tempfile.TemporaryDirectory(prefix="retrainer-champion-") as scratch:
        folder = Path(scratch)
        there = store.manifest(version).files
        if TRAIN_ROWS not in there:
            return "the champion's version does not say which rows it was trained on"
        about_rows = [name for name in (TRAIN_ROWS, NEAR_ROWS) if name in there]
        checkpoint = [name for name in there if name.startswith(CHECKPOINT) and name.endswith((WEIGHTS, ".json"))]
        reporter.log(f"fetching the checkpoint of the champion, version {version}")
        store.fetch(version, folder, [*about_rows, *checkpoint])
        seen = trained_on(validation_keys, folder)
        # So that the training draws the same numbers as without a champion.
        with torch.random.fork_rng(devices=[]):
            weights = _weights(folder / CHECKPOINT, base, labels, rows, collate)
        if isinstance(weights, str):
            return weights
        return ChampionWeights(version, weights, seen, {name: (folder / name).read_bytes() for name in about_rows})


def _weights(
    folder: Path, base: Base, labels: tuple[str, ...], rows: EncodedRows, collate: Any
) -> dict[str, Any] | str:
    """The weights of a checkpoint, if they mean the same as those of the new model; else what differs."""
    try:
        if _tokens(Tokenizer.from_file(str(folder / "tokenizer.json"))) != _tokens(base.tokenizer.backend_tokenizer):
            return "the champion has another tokenizer"
        config = AutoConfig.from_pretrained(folder)
        if different := _different_architecture(config, base.model):
            return different
        # A configuration has labels also where the task has none: those that transformers makes up.
        names = tuple(str(config.id2label[index]) for index in range(config.num_labels)) if labels else ()
        if set(names) != set(labels) or len(names) != len(labels):
            return f"the champion knows other labels: {', '.join(sorted(set(names) ^ set(labels))[:5])}"
        model, loaded = type(base.model).from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  whole files, and still of another release of transformers
        return f"the champion's checkpoint cannot be loaded: {first_line(error)}"
    if problem := next(
        (f"{kind.replace('_', ' ')}: {min(map(str, keys))}" for kind, keys in loaded.items() if keys), None
    ):
        return f"the champion's checkpoint does not fit its configuration, {problem}"
    order = [names.index(label) for label in labels]
    if order != sorted(order) and not _put_labels_in_order(model, order, rows, collate):
        return "the champion has its labels in another order, and which of its weights are theirs cannot be told"
    weights = model.state_dict()
    return _different_shapes(weights, base.model.state_dict()) or weights


def _tokens(tokenizer: Any) -> str:
    """How it makes tokens of texts; what was last cut and padded does not matter."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    text: str = copy.to_str()
    return text


def _different_architecture(config: Any, model: PreTrainedModel) -> str | None:
    said = (config.architectures or ["nothing"])[0]
    if said != type(model).__name__:
        return f"the champion is a {said}, the new model a {type(model).__name__}"
    theirs, own = config.to_dict(), model.config.to_dict()
    for key in sorted((theirs.keys() | own.keys()) - _NOT_OF_THE_ARCHITECTURE):
        if theirs.get(key) != own.get(key):
            return f"the champion has another architecture: {key} is {theirs.get(key)!r}, here {own.get(key)!r}"
    return None


def _different_shapes(theirs: dict[str, Any], own: dict[str, Any]) -> str | None:
    for name in sorted(theirs.keys() | own.keys()):
        first, second = theirs.get(name), own.get(name)
        if first is None or second is None or first.shape != second.shape:
            return f"the champion has weights of other shapes, first {name}"
    return None


def _put_labels_in_order(model: PreTrainedModel, order: list[int], rows: EncodedRows, collate: Any) -> bool:
    """Give the head's outputs another order, in place; ``False`` where it did not do that and nothing else.

    The head's own weights are outside of the encoder and have a row for each label. Whether these were all and the
    only ones is seen by what the model answers.
    """
    sample = rows.first(_SAMPLE_ROWS)
    before = logits_of(model, sample, collate, _SAMPLE_ROWS)
    inside = f"{model.base_model_prefix}."
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith(inside) and weight.shape[:1] == (len(order),):
                weight.copy_(weight[order].clone())
    after = logits_of(model, sample, collate, _SAMPLE_ROWS)
    return bool(np.allclose(after, before[:, order], atol=1e-4))
