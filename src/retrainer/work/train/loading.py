"""The base model and its tokenizer, ready for the task, or one clear error."""

from __future__ import annotations

import inspect
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from retrainer.errors import ModelError, first_line
from retrainer.sources.base_models import local_folder, require_positions
from retrainer.spec.model import Pipeline
from retrainer.storage import is_s3, open_storage
from retrainer.tasks import TASKS, TaskDefinition, trainable_task
from retrainer.work.reporter import Reporter


@dataclass(frozen=True, slots=True)
class Base:
    """A pretrained model with a fresh head for the task.

    :param new: names of the weights that did not come from the base, and so are random: of the head, and of a pooler
        where the base was trained on masks.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    new: frozenset[str] = frozenset()


def load_base(pipeline: Pipeline, labels: tuple[str, ...], reporter: Reporter, *, fingerprint: str = "") -> Base:
    """Load the base model with a head for these labels. The head's start depends on ``training.seed`` alone.

    :param fingerprint: what the step was planned for; of a model on the hub ``ID@COMMIT``, and that commit is loaded.

    :raises ModelError: it cannot be read, or not be used for the task.
    :raises PipelineError: ``model.max_length`` is more than it can take, or the task cannot be trained.
    """
    task = trainable_task(pipeline.task, where=pipeline.name)
    model_class = task.part("model_class")
    with ExitStack() as stack:
        source, revision = _resolve(pipeline, fingerprint, stack, reporter)
        set_seed(int(pipeline.training.arguments.get("seed", 42)))
        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()  # its table of new head weights alarms people for nothing
        try:
            config = AutoConfig.from_pretrained(source, revision=revision, **task.part("head")(labels))
            _check_encoder(config, task, pipeline)
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
            model, loaded = model_class.from_pretrained(
                source,
                revision=revision,
                config=config,
                dtype=torch.float32,
                # A base that is a classifier already has a head of another width.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except (MemoryError, ModelError):
            raise
        # Files of a model can be damaged in any way, and the hub's client has errors of its own.
        except Exception as error:
            raise _unreadable(pipeline, model_class, error) from error
        finally:
            transformers_logging.set_verbosity_warning()
    _check_weights(model, loaded, pipeline.model.base)
    _check_tokenizer(tokenizer, model, pipeline.model.base)
    _add_padding(tokenizer, model)
    random = {*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])}
    base = Base(model, tokenizer, frozenset(name for name, _ in model.named_parameters() if name in random))
    task.part("ready")(base, loaded, pipeline)
    require_positions(pipeline, pipeline.model.base, lambda name: getattr(config, name, None))
    return base


def without_weights(pipeline: Pipeline) -> PreTrainedModel | None:
    """The base model with a head for some labels, its layers without numbers: they take no memory, and no file of
    weights is read. ``None`` where its configuration is not here, or says nothing that can be built: loading it tells.
    """
    base = pipeline.model.base
    folder = None if is_s3(base) else local_folder(base) or _cached(base, pipeline.model.revision)
    if folder is None:
        return None
    task = trainable_task(pipeline.task, where=pipeline.name)
    with suppress(Exception), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, **task.part("head")(("one", "another")))
        model: PreTrainedModel = task.part("model_class").from_config(config)
        return model
    return None


def single_label_head(labels: tuple[str, ...]) -> dict[str, Any]:
    """What the configuration of a model says of a head that chooses one of these labels."""
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
    }


def multi_label_head(labels: tuple[str, ...]) -> dict[str, Any]:
    """The same of a head that decides each label by itself: its loss is the binary cross entropy of all of them."""
    return {**single_label_head(labels), "problem_type": "multi_label_classification"}


def ready_to_classify(base: Base, loaded: dict[str, Any], pipeline: Pipeline) -> None:
    """Let rows be padded where that does not change an answer; a head that is not in the base is new.

    :param loaded: what transformers says of the weights.
    """
    _prefer_padding_at_the_end(base.tokenizer, base.model)


def _resolve(pipeline: Pipeline, fingerprint: str, stack: ExitStack, reporter: Reporter) -> tuple[str, str | None]:
    base = pipeline.model.base
    if is_s3(base):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retrainer-base-")))
        storage = open_storage(base)
        reporter.log(f"downloading {base}")
        for entry in storage.list():
            storage.download(entry.key, folder / entry.key)
        return str(folder), None
    local = local_folder(base)
    if local is not None:
        return str(local), None
    commit = fingerprint.rpartition("@")[2] or pipeline.model.revision
    cached = _cached(base, commit)
    return (str(cached), None) if cached is not None else (base, commit)


def base_folder(pipeline: Pipeline, fingerprint: str, stack: ExitStack, reporter: Reporter) -> str:
    """A folder here that holds the base model, for somebody else's code to load.

    :param fingerprint: see :func:`load_base`.
    :param stack: ends what was downloaded for the moment.
    :raises ModelError: it cannot be had.
    """
    source, revision = _resolve(pipeline, fingerprint, stack, reporter)
    if Path(source).is_dir():
        return source
    try:
        return snapshot_download(source, revision=revision)
    except Exception as error:  # the hub's client has errors of its own
        raise _unreadable(pipeline, PreTrainedModel, error) from error


def _cached(base: str, commit: str | None) -> Path | None:
    """The folder of a whole model in the local hub cache. By its name transformers would ask the hub for each file that
    it may have as well, and wait for minutes where that is out of reach."""
    try:
        folder = Path(snapshot_download(base, revision=commit, local_files_only=True))
    except Exception:  # noqa: BLE001  not cached, or no name of the hub: loading it says what is wrong
        return None
    needed = [("config.json",), ("tokenizer.json",), ("model.safetensors", "pytorch_model.bin")]
    return folder if all(any((folder / name).is_file() for name in names) for names in needed) else None


def _unreadable(pipeline: Pipeline, model_class: type, error: Exception) -> ModelError:
    return ModelError(
        f"cannot be loaded for {pipeline.task}: {first_line(error)}",
        where=f"model.base: {pipeline.model.base}",
        hint=f"check that it is complete, and a model that {model_class.__name__} knows",
    )


def _check_encoder(config: Any, task: TaskDefinition, pipeline: Pipeline) -> None:
    """A decoder of a pair can be loaded by itself, and a model of another kind would be an error of transformers."""
    has = bool(config.is_encoder_decoder)
    if task.has_encoder in (None, has):
        return
    other = [one.name for one in TASKS.values() if one.has_encoder == has]
    raise ModelError(
        f"a {config.model_type} has {'an' if has else 'no'} encoder, and task {task.name} is for models "
        f"{'without' if has else 'with'} one",
        where=f"model.base: {pipeline.model.base}",
        hint=f"write task: {' or '.join(other)}, or name another base",
    )


def _check_weights(model: PreTrainedModel, loaded: dict[str, Any], base: str) -> None:
    """The head may be new; all else must come from the base. transformers fills what does not with random numbers."""
    inside = f"{model.base_model_prefix}."
    altered = sorted(key for key, *_ in loaded["mismatched_keys"] if key.startswith(inside))
    if altered:
        raise ModelError(
            f"{len(altered)} weights do not have the shape that config.json says, first {altered[0]}",
            where=f"model.base: {base}",
            hint="its config.json and its weights belong to different models; save both together",
        )
    absent = sorted(key for key in loaded["missing_keys"] if key.startswith(inside))
    expected = sum(1 for key in model.state_dict() if key.startswith(inside))
    # Some of it is always lawful: a base that was trained on masks has no pooler.
    if len(absent) > expected / 2:
        raise ModelError(
            f"{len(absent)} of {expected} weights of a {model.config.model_type} are not in it, first {absent[0]}",
            where=f"model.base: {base}",
            hint="its config.json and its weights belong to different models; save both together",
        )


def _check_tokenizer(tokenizer: Any, model: PreTrainedModel, base: str) -> None:
    if not isinstance(tokenizer, PreTrainedTokenizerFast) and not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            "has no fast tokenizer, and the published model needs a tokenizer.json",
            where=f"model.base: {base}",
            hint="save the tokenizer with its tokenizer.json",
        )
    # Where there is no tokenizer file, transformers makes one of special tokens alone, and all text is unknown to it.
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) <= len(tokenizer.all_special_tokens):
        raise ModelError("has no tokenizer", where=f"model.base: {base}", hint="save it there with its tokenizer.json")
    rows = model.get_input_embeddings().weight.shape[0]
    if max(vocabulary.values()) >= rows:
        raise ModelError(
            f"the tokenizer has token ids up to {max(vocabulary.values()):,}, the model takes {rows:,} tokens",
            where=f"model.base: {base}",
            hint="the tokenizer is that of another model, or the model's embeddings were not resized to it",
        )


def _add_padding(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel) -> None:
    """Decoder-only models come without a padding token, and classify the last token that is not one."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def _prefer_padding_at_the_end(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel) -> None:
    """Decoders often come with padding in front, as generation needs it, which shifts their positions, and so answers.

    One that reads the last place of a row, as XLNet does, cannot have padding there, and keeps its own.
    """
    if tokenizer.padding_side == "right":
        return
    tokenizer.padding_side = "right"
    row = tokenizer("a text to try it with")
    padded = tokenizer.pad(row, padding="max_length", max_length=len(row["input_ids"]) + 4)
    read = inspect.signature(model.forward).parameters
    with torch.inference_mode():
        plain, filled = (
            model(**{name: torch.tensor([values]) for name, values in one.items() if name in read}).logits
            for one in (row, padded)
        )
    if not torch.allclose(plain, filled, atol=1e-3):
        tokenizer.padding_side = "left"
