"""What of a checkpoint's ``generation_config.json`` is published: what changes the tokens is honoured, or refused.

Never left out in silence: a model that is served without a rule that its own configuration names answers otherwise
than it was judged. How an answer is chosen (beams, drawing) is no such rule: whoever asks says that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from retrainer.errors import ExportError
from retrainer.serve.generation_rules import Rules

# Named by whoever asks, or by the bundle.
_ASKED = {
    "do_sample",
    "epsilon_cutoff",
    "eta_cutoff",
    "max_length",
    "max_new_tokens",
    "min_p",
    "num_beams",
    "num_return_sequences",
    "temperature",
    "top_h",
    "top_k",
    "top_p",
    "typical_p",
}
_IDS = {"bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id"}
# How transformers computes; the tokens stay the same.
_HOW = {
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_ensemble_weight",
    "assistant_lookbehind",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "continuous_batching_config",
    "disable_compile",
    "is_assistant",
    "low_memory",
    "max_cache_len",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "remove_invalid_values",
    "return_dict_in_generate",
    "speculation_type",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
}
# Values with which others do nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "diversity_penalty": (0.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "guidance_scale": (1.0,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0.0,),
    "renormalize_logits": (False,),
    "token_healing": (False,),
    "use_mtp": (False,),
}


@dataclass(frozen=True, slots=True)
class Generation:
    """How a published model generates.

    :param config: the content of its ``generation_config.json``.
    :param dropped: keys of the checkpoint's that name what whoever asks says, for people.
    """

    config: dict[str, Any]
    eos_token_ids: tuple[int, ...]
    decoder_start_token_id: int | None
    dropped: tuple[str, ...]


def published(model: PreTrainedModel, tokenizer: Any, max_new_tokens: int, folder: Path) -> Generation:
    """What is published of a checkpoint's configuration.

    :param folder: of the checkpoint, for errors.
    :raises ExportError: it names a rule that this version does not honour, or nothing ends an answer, or begins one.
    """
    where = str(folder / "generation_config.json")
    given: dict[str, Any] = {
        key: value for key, value in model.generation_config.to_dict().items() if value is not None and value != []
    }
    rules = {key: given[key] for key in given if key in Rules.model_fields}
    unknown = [
        f"{key}: {value!r}"
        for key, value in sorted(given.items())
        if key not in _ASKED | _IDS | _HOW | rules.keys() and value not in _NEUTRAL.get(key, ())
    ]
    if unknown:
        raise ExportError(
            f"it asks for {', '.join(unknown)}, and what is served does not do that",
            where=where,
            hint="take it out, or choose a base model without it; rules that are kept: "
            f"{', '.join(sorted(Rules.model_fields))}",
        )
    Rules.of(rules, where=where)
    ends = _ids(given.get("eos_token_id"))
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ends:
        ends = (*ends, tokenizer.eos_token_id)  # what the rows of the training end with
    if not ends:
        raise ExportError("nothing ends an answer: there is no eos_token_id", where=where, hint="set it")
    start = None
    if model.config.is_encoder_decoder:
        start = next((found for found in _starts(model, given) if found is not None), None)
        if start is None:
            raise ExportError("there is no decoder_start_token_id", where=where, hint="set it")
    config = {
        **rules,
        **{key: given[key] for key in ("bos_token_id",) if key in given},
        "do_sample": False,
        "eos_token_id": list(ends) if len(ends) > 1 else ends[0],
        "max_new_tokens": max_new_tokens,
        "num_beams": 1,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if start is not None:
        config["decoder_start_token_id"] = start
    dropped = tuple(key for key in sorted(given) if key in _ASKED and config.get(key, given[key]) != given[key])
    return Generation(config, ends, start, dropped)


def _starts(model: PreTrainedModel, given: dict[str, Any]) -> list[int | None]:
    of_config = getattr(model.config, "decoder_start_token_id", None)
    return [given.get("decoder_start_token_id"), of_config, given.get("bos_token_id")]


def _ids(value: Any) -> tuple[int, ...]:
    return () if value is None else (value,) if isinstance(value, int) else tuple(value)


def as_transformers(generation: Generation) -> GenerationConfig:
    """The published configuration for ``generate``, which gives the scores, too."""
    return GenerationConfig(**generation.config, return_dict_in_generate=True, output_scores=True)
