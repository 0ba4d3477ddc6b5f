"""What must hold between the keys of a pipeline, beyond each key's own type.

Pure functions that return every problem they find. Not here: anything that needs the data or the model.
"""

from __future__ import annotations

import re
import zoneinfo
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from retrainer.label_names import means_no_label, position, spelled
from retrainer.spec.known_metrics import KNOWN_METRICS, METRIC_NAMES, OF_ONE_LABEL, meant, names_of
from retrainer.spec.paths import TEMPLATE
from retrainer.spec.problems import MOST_PROBLEMS, Place, Problem, listed, suggestion
from retrainer.spec.resources import resource_problems
from retrainer.spec.training_arguments import OURS
from retrainer.spec.training_combinations import combinations, measured_in_training
from retrainer.tasks import TASKS, TaskDefinition, that_writes

if TYPE_CHECKING:
    from retrainer.spec.dataset import Dataset
    from retrainer.spec.model import Pipeline


def dataset(spec: Dataset) -> list[Problem]:
    """Columns and labels of a dataset."""
    problems: list[Problem] = []
    columns = spec.text_columns
    if len(set(columns)) < len(columns):
        problems.append(Problem(("text",), f"the two texts of a pair are both column '{columns[0]}'"))
    if texts := [name for name in spec.label_columns if name in columns]:
        problems.append(Problem(("label",), f"column '{texts[0]}' is already the text"))
    if twice := [name for name, count in Counter(spec.label_columns).items() if count > 1]:
        problems.append(Problem(("label",), f"list each column only once, found {listed(twice)} again"))
    problems += _several_columns(spec)
    if spec.labels is not None:
        twice = [name for name, count in Counter(spec.labels).items() if count > 1]
        if twice:
            problems.append(Problem(("labels",), f"list each label only once, found {listed(twice)} again"))
        elif len(spec.labels) < 2:
            problems.append(Problem(("labels",), "a classifier needs at least two labels"))
    # What a mapping is to names may be called so.
    of_data = spec.label_values or spec.labels or ()
    problems += [
        Problem(
            ("labels",),
            f"{spelled(name)} in the data means that a row has no label, so it cannot be one; call it otherwise there",
        )
        for name in islice(filter(means_no_label, of_data), 1)
    ]
    if not set(spec.label_values.values()) <= set(spec.labels or ()):
        problems.append(Problem(("label_values",), "write a mapping in place of labels: {0: CLOSED, 1: OPEN}"))
    if spec.train_rows is not None and spec.train_rows < spec.checks.min_rows:
        detail = f"is below checks.min_rows ({spec.checks.min_rows}), so nothing would ever be trained"
        problems.append(Problem(("train_rows",), detail))
    if spec.test is None and spec.split.test == 0.0:
        problems.append(
            Problem(
                ("split", "test"),
                "no row would be left to judge the model; name a test file or raise the share",
            )
        )
    return problems


def _several_columns(spec: Dataset) -> list[Problem]:
    """What does not go together with a column for each label."""
    if isinstance(spec.label, str):
        return []
    if spec.label_separator is not None:
        detail = "is for one column that holds all labels of a row, and label names several; drop one of them"
        return [Problem(("label_separator",), f"label_separator {detail}")]
    columns, named = {*spec.label}, spec.label_values or spec.labels
    if named is None or (len(named) == len(spec.label) and (not spec.label_values or {*named} == columns)):
        return []
    return [Problem(("labels",), f"name each of the {len(columns)} columns of label, in their order")]


def pipeline(spec: Pipeline) -> list[Problem]:
    """Everything that one section says about another."""
    problems = _task_and_columns(spec) + _of_other_tasks(spec)
    if TASKS[spec.task].metrics is not None:
        problems += _metrics(spec)
    problems += _training(spec)
    problems += _never_published(spec)
    problems += _schedule(spec)
    problems += _decay(spec)
    problems += _validation_rows(spec)
    problems += resource_problems(spec.resources)
    return problems


def _never_published(spec: Pipeline) -> list[Problem]:
    """What would train, and then never do what was asked for."""
    problems = []
    if not spec.gate.floors and spec.gate.against_champion is None:
        detail = (
            "without floors and against_champion it has nothing to judge by, and publishes nothing; set one of them"
        )
        problems.append(Problem(("gate",), detail))
    return problems


def _schedule(spec: Pipeline) -> list[Problem]:
    """What would start otherwise than was asked for, or never."""
    schedule = spec.schedule
    problems = []
    checked = spec.decay is not None and spec.decay.cron is not None
    if schedule.cron is None and schedule.timezone != "UTC" and not checked:
        problems.append(Problem(("schedule", "timezone"), "says nothing without schedule.cron"))
    for key, default in (("min_new_rows", 1), ("queue", None)):
        if getattr(schedule, key) != default and not schedule.on_new_data:
            problems.append(Problem(("schedule", key), "says nothing without on_new_data: true"))
    if not schedule.on_new_data:
        return problems
    place: Place = ("schedule", "on_new_data")
    paths = spec.dataset.train if isinstance(spec.dataset.train, tuple) else ()
    if not paths:
        problems.append(Problem(place, "needs files: nothing tells when a dataset on the hub changes; give cron"))
    if any(TEMPLATE in path for path in paths):
        problems.append(Problem(place, "a run that new data starts has no date for the template in dataset.train"))
    if schedule.queue and not all(path.startswith("s3://") for path in paths):
        problems.append(Problem(("schedule", "queue"), "only a bucket tells a queue; dataset.train names other files"))
    return problems


def _decay(spec: Pipeline) -> list[Problem]:
    """What the check of the champion could not do."""
    if spec.decay is None:
        silent = Problem(("notify", "on_decay"), "says nothing without a section decay: nobody looks for it")
        return [silent] if spec.notify.on_decay else []
    problems = []
    metric, measured = spec.decay_check.metric, {*spec.metrics, *spec.gate_metrics}
    if metric not in measured:
        detail = f"'{metric}' is not measured when a model is judged; name one of {listed(sorted(measured))}"
        problems.append(Problem(("decay", "metric"), f"{detail}, or add it to metrics"))
    if isinstance(spec.decay.data, tuple) and any(TEMPLATE in path for path in spec.decay.data):
        problems.append(Problem(("decay", "data"), "a check has no date for a template; name a folder or a glob"))
    return problems


def _task_and_columns(spec: Pipeline) -> list[Problem]:
    columns, task = spec.dataset.text_columns, TASKS[spec.task]
    if len(columns) == task.texts:
        return []
    place: Place = ("dataset", "text")
    if len(columns) == 1:
        return [Problem(place, f"task {task.name} reads two columns, found '{columns[0]}'; write [first, second]")]
    for other in TASKS.values():
        if other.metrics == task.metrics and other.texts == len(columns):
            return [Problem(place, f"two columns are a pair; write task: {other.name}")]
    return [Problem(place, f"task {task.name} reads one column, found two")]


def _of_other_tasks(spec: Pipeline) -> list[Problem]:
    """Keys that say something about what a model of this task does not have."""
    task = TASKS[spec.task]
    problems = _of_label_sets(spec, task)
    if task.answers_with == "label":
        if spec.model.max_new_tokens == type(spec.model).model_fields["max_new_tokens"].default:
            return problems
        return [*problems, Problem(("model", "max_new_tokens"), f"a {task.model} writes nothing; drop it")]
    slices = spec.gate.slices.by if spec.gate.slices else ()
    given: list[tuple[Place, str, bool]] = [
        (("dataset", "labels"), "labels", spec.dataset.labels is not None),
        (("dataset", "corrections"), "corrections", spec.dataset.corrections is not None),
        (("positive_label",), "positive_label", spec.positive_label is not None),
        (("training", "blend_with_champion"), "blend_with_champion", spec.training.blend_with_champion != "none"),
        (("training", "class_weights"), "class_weights", spec.training.class_weights != "none"),
        (("export", "calibration"), "calibration", spec.export.calibration != "none"),
        (("gate", "slices", "by"), "'label'", "label" in slices),
        (("gate", "baseline"), "'floor'", spec.gate.baseline == "floor"),
        (("gate", "drift", "block", "labels"), "'labels'", "labels" in spec.gate.drift.block),
    ]
    detail = f"is for tasks with labels, and task {task.name} has none; drop it"
    return problems + [Problem(place, f"{name} {detail}") for place, name, is_given in given if is_given]


def _of_label_sets(spec: Pipeline, task: TaskDefinition) -> list[Problem]:
    """Keys that are only for rows with any number of labels, or only for others."""
    if task.writes != "labels":
        detail = f"is for rows with any number of labels; write task: {that_writes('labels')}"
        problems = []
        if not isinstance(spec.dataset.label, str):
            problems.append(Problem(("dataset", "label"), f"a column for each label {detail}"))
        if spec.dataset.label_separator is not None:
            problems.append(Problem(("dataset", "label_separator"), f"label_separator {detail}"))
        return problems
    given: list[tuple[Place, str, Any]] = [
        (("positive_label",), "scores one label of two", spec.positive_label),
        (
            ("training", "label_smoothing_factor"),
            "gives a share of one label to the others",
            spec.training.arguments.get("label_smoothing_factor"),
        ),
    ]
    detail = f"and rows of task {task.name} have any number of labels; drop it"
    return [Problem(place, f"{place[-1]} {does}, {detail}") for place, does, value in given if value]


def _metrics(spec: Pipeline) -> list[Problem]:
    places: list[tuple[Place, str]] = [(("metrics", at), name) for at, name in enumerate(spec.metrics)]
    places += [(("gate", "floors", name), name) for name in spec.gate.floors]
    if spec.gate.against_champion is not None:
        places.append((("gate", "against_champion", "metric"), spec.gate.against_champion.metric))
    if spec.model.choose_by is not None:
        places.append((("model", "choose_by"), spec.model.choose_by))
    task = TASKS[spec.task]
    unknown = (Problem(place, complaint) for place, name in places if (complaint := _unknown_metric(name, task)))
    problems = list(islice(unknown, MOST_PROBLEMS))
    twice = [name for name, count in Counter(spec.metrics).items() if count > 1]
    if twice:
        problems.append(Problem(("metrics",), f"list each metric only once, found {listed(twice)} again"))
    problems += _two_labels(spec, places)
    for name, floor in spec.gate.floors.items():
        known = KNOWN_METRICS.get(name)
        if known is not None and not known.lowest <= floor <= known.highest:
            detail = f"{floor:g} is out of reach: {name} is {known.range} (85 % is 0.85)"
            problems.append(Problem(("gate", "floors", name), detail))
    return problems


def _two_labels(spec: Pipeline, places: Sequence[tuple[Place, str]]) -> list[Problem]:
    """Metrics of one label: which one it is must not hang on the alphabet."""
    labels, positive = spec.dataset.labels, spec.positive_label
    asked = [(place, name) for place, name in places if name in OF_ONE_LABEL]
    if labels is not None and len(labels) != 2:
        return [Problem(place, _not_two_labels(name, len(labels))) for place, name in asked]
    if labels is not None and positive is not None and position(positive, labels) is None:
        return [Problem(("positive_label",), _not_a_label(positive, labels))]
    if labels is None and positive is None:
        detail = "is the score of one of the two labels; name that label with positive_label"
        return [Problem(place, f"{name} {detail}") for place, name in asked]
    return []


def labels_found(spec: Pipeline, labels: Sequence[str]) -> str | None:
    """What the data's labels say against the pipeline, where it does not name them itself; ``None`` for nothing."""
    if spec.of_one_label and len(labels) != 2:
        return _not_two_labels(spec.of_one_label[0], len(labels))
    if spec.positive_label is not None and position(spec.positive_label, labels) is None:
        return _not_a_label(spec.positive_label, labels)
    return None


def _not_two_labels(metric: str, count: int) -> str:
    return f"{metric} is for two labels, this dataset has {count}; f1 is for any number"


def _not_a_label(positive: str, labels: Sequence[str]) -> str:
    return f"{spelled(positive)} is not a label{suggestion(positive, labels)} (labels: {listed(labels[:20])})"


def _unknown_metric(name: str, task: TaskDefinition) -> str | None:
    names = names_of(task.metrics)
    if name in names:
        return None
    other = meant(name, task.metrics)
    hint = f"; did you mean '{other}'?" if other in names else suggestion(name, names)
    if name in METRIC_NAMES:
        asked = hint if other in names else ""
        return f"{name} does not judge what a {task.model} answers{asked}; {task.name} has {listed(names)}"
    return f"unknown metric '{name}'{hint} (metrics: {listed(names)})"


def _training(spec: Pipeline) -> list[Problem]:
    problems: list[Problem] = []
    arguments = spec.training.arguments
    best = arguments.get("metric_for_best_model")
    if best is not None:
        known = ("loss", *measured_in_training(spec))
        name = str(best).removeprefix("eval_")
        if name in spec.metrics and name not in known:
            detail = f"'{best}' is not measured during a training of this task, only after it; use {' or '.join(known)}"
            problems.append(Problem(("training", "metric_for_best_model"), detail))
        elif name not in known:
            other = meant(name, TASKS[spec.task].metrics)
            hint = f"; did you mean '{other}'?" if other in known else suggestion(name, known)
            more = " (add it to metrics)" if name in METRIC_NAMES or other else ""
            problems.append(
                Problem(
                    ("training", "metric_for_best_model"),
                    f"'{best}' is neither loss nor one of metrics ({listed(spec.metrics)}){hint}{more}",
                )
            )
    if spec.training.trainer is not None:
        detail = "is done by the training that training.trainer takes the place of; drop one of them"
        problems += [
            Problem(("training", name), f"{name} {detail}")
            for name in OURS
            if name not in {"early_stopping_patience", "freeze_cache_gb", "trainer"}
            and getattr(spec.training, name) != type(spec.training).model_fields[name].default
        ]
    return problems + combinations(spec)


def _validation_rows(spec: Pipeline) -> list[Problem]:
    """What cannot do without validation rows: test rows must not choose or tune what they judge."""
    if spec.dataset.validates:
        return []
    problems = []
    if spec.model.candidates:
        problems.append(
            Problem(
                ("model", "base"),
                "the best of several base models is chosen on validation rows, and dataset.split.validation is 0",
            )
        )
    if spec.export.calibration != "none":
        problems.append(
            Problem(
                ("export", "calibration"),
                "the temperature is fitted on validation rows, and dataset.split.validation is 0",
            )
        )
    if spec.training.blend_with_champion != "none":
        problems.append(
            Problem(
                ("training", "blend_with_champion"),
                "the champion's share is chosen on validation rows, and dataset.split.validation is 0",
            )
        )
    return problems


_PRESETS = ("@once", "@continuous", "@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)
_CRON_PART = re.compile(r"(\*|\?|l|[0-9a-z]+(?:-[0-9a-z]+)?)(?:#[1-5]|l)?(?:/([0-9]+))?")


def timezone(name: str) -> str | None:
    """What is wrong with the name of a time zone, or ``None``."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return f"no time zone '{name}'{suggestion(name, zoneinfo.available_timezones())}"
    return None


def cron(expression: str) -> str | None:
    """What is wrong with a cron expression, or ``None``.

    A light check, so that a slip is found where the file is read; Airflow reads the expression by itself.
    """
    if expression.startswith("@"):
        if expression in _PRESETS:
            return None
        return f"unknown '{expression}'{suggestion(expression, _PRESETS)} (known: {listed(_PRESETS)})"
    fields = expression.split()
    if len(fields) != len(_CRON):
        return f"a cron expression has five fields (minute hour day month weekday), found {len(fields)}: '{expression}'"
    for field, (what, low, high, names) in zip(fields, _CRON, strict=True):
        for part in field.lower().split(","):
            match = _CRON_PART.fullmatch(part)
            if match is None or match[2] == "0":
                return f"'{field}' cannot be read as {what}"
            for bound in match[1].split("-"):
                if bound in {"*", "?", "l"} or bound[:3] in names:
                    continue
                if not bound.isdigit() or len(bound) > 2 or not low <= int(bound) <= high:
                    return f"'{bound}' is outside of {what}, which goes from {low} to {high}"
    return None
