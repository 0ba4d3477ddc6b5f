"""The names and values that ``training`` may hold: those of ``transformers.TrainingArguments``, and ours.

The names come from ``training_arguments.json``, which ``tests/spec/list_training_arguments.py`` writes from the
installed transformers; nothing here imports it. Not here: combinations of values (``training_combinations.py``).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retrainer.spec.problems import MOST_PROBLEMS, Problem, found, listed, nearest, suggestion
from retrainer.spec.renamed_arguments import ELSEWHERE, OWNED, REMOVED, RENAMED

# What a pipeline gets unless it says otherwise. Grouping by length costs nothing and leaves hardly any padding.
DEFAULTS: Mapping[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
    "logging_steps": 10,
    "save_total_limit": 2,
    "report_to": "none",
}
# Defaults that follow from the rest of the pipeline, in words (``training_combinations.worked_out``).
WORKED_OUT: Mapping[str, str] = {
    "eval_strategy": "By default 'epoch', or 'steps' where save_strategy alone is given as 'steps'. Without validation "
    "rows nothing is evaluated.",
    "eval_steps": "By default save_steps, where eval_strategy follows a save_strategy of 'steps'.",
    "save_strategy": "By default that of eval_strategy, so that the best checkpoint is one that was evaluated; "
    "'epoch' where nothing is evaluated.",
    "load_best_model_at_end": "By default true where checkpoints are evaluated and saved.",
    "metric_for_best_model": "One of metrics, or 'loss'. By default the first of metrics, or 'loss' where that "
    "is not measured in training.",
    "greater_is_better": "By default what is right for the metric.",
    "use_cpu": "By default true where the training has no GPU.",
    "dataloader_pin_memory": "By default true on a GPU.",
}

LISTING = Path(__file__).with_name("training_arguments.json")
OURS = (
    "early_stopping_patience",
    "class_weights",
    "blend_with_champion",
    "warm_start",
    "freeze_layers",
    "freeze_cache_gb",
    "peft",
    "callbacks",
    "trainer",
    "auto",
    "unpadded",
)

_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "a list of texts",
    "mapping": "a mapping",
}
# Smallest values that make sense; transformers accepts less and then fails late or trains nothing.
_AT_LEAST: Mapping[str, float] = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "save_total_limit": 1,
    "warmup_steps": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "label_smoothing_factor": 0,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "ddp_bucket_cap_mb": 1,
    "ddp_timeout": 1,
    "eval_accumulation_steps": 1,
    "eval_delay": 0,
    "max_steps": 1,
    "neftune_noise_alpha": 0,
    "torch_empty_cache_steps": 1,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "seed": 0,
    "data_seed": 0,
}
_ABOVE: Mapping[str, float] = {
    "learning_rate": 0,
    "num_train_epochs": 0,
    "logging_steps": 0,
    "eval_steps": 0,
    "save_steps": 0,
    "adam_epsilon": 0,
}
# NumPy takes no larger seed. A larger number of anything else is a slip, and more than some library takes.
_AT_MOST: Mapping[str, float] = {
    "seed": 2**32 - 1,
    "data_seed": 2**32 - 1,
    "num_train_epochs": 1e6,
    "dataloader_num_workers": 1024,
}
_LARGEST = 2**31 - 1
_BELOW: Mapping[str, float] = {"label_smoothing_factor": 1, "adam_beta1": 1, "adam_beta2": 1}


@functools.cache
def known_arguments() -> Mapping[str, Mapping[str, Any]]:
    """Name to ``{kinds, null, default, choices}``, for every field of TrainingArguments."""
    arguments: dict[str, dict[str, Any]] = json.loads(LISTING.read_text(encoding="utf-8"))["arguments"]
    return arguments


def bounds(name: str) -> dict[str, float]:
    """The bounds of an argument, as JSON Schema has them."""
    said = {"minimum": _AT_LEAST, "exclusiveMinimum": _ABOVE, "maximum": _AT_MOST, "exclusiveMaximum": _BELOW}
    return {word: limits[name] for word, limits in said.items() if name in limits}


@functools.cache
def settable_arguments() -> tuple[str, ...]:
    """The names that a pipeline may give, ours included, sorted."""
    named = (name for name, argument in known_arguments().items() if name not in OWNED and argument["kinds"])
    return tuple(sorted((*named, *OURS)))


def check_training_arguments(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Check names and values of arguments of TrainingArguments.

    :return: the values, each of the type that transformers expects, and what is wrong.
    """
    checked: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in values.items():
        if len(problems) == MOST_PROBLEMS:
            break
        complaint = _complaint_about_name(name)
        if complaint is None:
            try:
                checked[name] = _value(name, value)
            except _Refused as refused:
                complaint = str(refused)
        if complaint is not None:
            problems.append(Problem((name,), complaint))
    return checked, problems


def _complaint_about_name(name: str) -> str | None:
    if name in OWNED:
        return f"retrainer sets '{name}' itself: {OWNED[name]}"
    if name in RENAMED:
        return f"'{name}' is an old name; today it is {RENAMED[name]}"
    if name in REMOVED:
        return f"transformers no longer has '{name}': {REMOVED[name]}"
    if name in ELSEWHERE:
        return f"'{name}' is not a training argument; write {ELSEWHERE[name]}"
    argument = known_arguments().get(name)
    if argument is None:
        near = nearest(name, settable_arguments())
        if near is None:
            near = RENAMED.get(str(nearest(name, RENAMED)))
            return f"'{name}' is not an argument of TrainingArguments" + (f"; did you mean {near}?" if near else "")
        return f"'{name}' is not an argument of TrainingArguments; did you mean '{near}'?"
    if not argument["kinds"]:
        return f"'{name}' cannot be written in a file"
    return None


class _Refused(Exception):
    """A value does not fit; the message says why."""


def _value(name: str, value: Any) -> Any:
    argument = known_arguments()[name]
    kinds: list[str] = argument["kinds"]
    choices: list[str] = argument["choices"]
    # Where transformers also takes the path of a JSON file: its content would not be part of the run's identity.
    kinds = [kind for kind in kinds if kind != "str"] if "mapping" in kinds else kinds
    if value is None:
        if argument["null"]:
            return None
        raise _Refused(f"expected {_expected(kinds, choices)}, found nothing (null)")
    # A string last: 'yes' is a bool where a bool will do.
    for kind in sorted(kinds, key=["bool", "int", "float", "list", "mapping", "str"].index):
        converted = _CONVERT[kind](value)
        if converted is not None:
            if choices and isinstance(converted, str) and converted not in choices:
                near = suggestion(converted, choices)
                raise _Refused(f"'{converted}' is not one of {listed(choices)}{near}")
            _check_range(name, converted)
            return converted
    raise _Refused(f"expected {_expected(kinds, choices)}, found {found(value)}")


def _expected(kinds: list[str], choices: list[str]) -> str:
    if choices:
        return f"one of {listed(choices)}" + (", or true or false" if "bool" in kinds else "")
    return " or ".join(_WORDS[kind] for kind in kinds)


def _check_range(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    most = _AT_MOST.get(name, _LARGEST if "int" in known_arguments()[name]["kinds"] else math.inf)
    if abs(value) > most:
        raise _Refused(f"must be at most {most:,.0f}, found {found(value)}")
    if name == "max_steps" and value == -1:
        return  # transformers' own word for what num_train_epochs gives
    if name in _AT_LEAST and value < _AT_LEAST[name]:
        raise _Refused(f"must be at least {_AT_LEAST[name]:g}, found {value:g}")
    if name in _ABOVE and value <= _ABOVE[name]:
        raise _Refused(f"must be above {_ABOVE[name]:g}, found {value:g}")
    if name in _BELOW and value >= _BELOW[name]:
        raise _Refused(f"must be below {_BELOW[name]:g}, found {value:g}")


def _bool(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    return words.get(value.strip().lower()) if isinstance(value, str) else None


def _int(value: Any) -> int | None:
    number = _float(value)
    return number if isinstance(number, int) else None


def _float(value: Any) -> int | float | None:
    """A number; whole ones as ``int``, so that 3 and 3.0 are the same training."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value.strip())
        except ValueError:
            return None
    if isinstance(value, int):
        return value
    if not isinstance(value, float) or not math.isfinite(value):
        return None
    return int(value) if value.is_integer() else value


def _str(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _list(value: Any) -> list[str] | None:
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return list(value)
    return None


def _mapping(value: Any) -> dict[str, Any] | None:
    return dict(value) if isinstance(value, Mapping) and all(isinstance(key, str) for key in value) else None


_CONVERT: Mapping[str, Callable[[Any], Any]] = {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": _str,
    "list": _list,
    "mapping": _mapping,
}
