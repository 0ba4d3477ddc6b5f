"""What data files hold, column by column, and which columns seem to be text and label: for ``retrainer init``.

Rows are read by the ingest step's own readers, which ``formats`` names. Not here: judging them (``work.ingest``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

from retrainer.errors import DataError
from retrainer.formats import FORMATS
from retrainer.label_names import canonical, members
from retrainer.sources.columns import Wanted, read_columns
from retrainer.sources.delimited import setting_of
from retrainer.sources.files import SourceFile
from retrainer.sources.text import readable
from retrainer.spec.delimited import Csv
from retrainer.spec.problems import listed

Columns = dict[str, list[str]]

# More different values are not labels.
MOST_LABELS = 100
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "intent", "topic")
TEXT_NAMES = ("text", "sentence", "content", "body", "message", "review", "comment")
PAIRS = (("premise", "hypothesis"), ("question", "sentence"), ("query", "passage"), ("text", "text_pair"))
# What a column holds that says whether a row has a label.
_FLAGS = ({"0", "1"}, {"false", "true"})
_NUMBERED = re.compile(r"(.+?)[ _]?([12ab])")


def survey(files: Sequence[SourceFile]) -> Columns:
    """All values of all files as text, by column; empty where a row has none. Reads a file once for each column.

    :raises DataError: a file cannot be read as what its name says, there is no row, or only one column.
    """
    tables = [_table(file) for file in files]
    names = dict.fromkeys(chain.from_iterable(tables))
    if len(names) < 2:
        hint = "text and label are columns of their own, in csv separated by commas"
        raise DataError(f"only one column, '{''.join(names)}'", where=files[0].url, hint=hint)
    lengths = [len(next(iter(table.values()))) for table in tables]
    return {
        name: list(
            chain.from_iterable(table.get(name, [""] * length) for table, length in zip(tables, lengths, strict=True))
        )
        for name in names
    }


def csv_setting(files: Sequence[SourceFile]) -> dict[str, Any]:
    """What ``dataset.csv`` has to say for these files to be read as they are now, if it is the same for all of them.

    :raises DataError: a file cannot be read.
    """
    settings = []
    for file in files:
        if file.delimited:
            with readable(file) as path:
                settings.append(setting_of(path, file))
    return settings[0] if settings and all(setting == settings[0] for setting in settings) else {}


def without_header(files: Sequence[SourceFile], where: str) -> tuple[SourceFile, ...]:
    """The same files, whose first line is a row: their columns are called for what they seem to hold.

    :raises DataError: they are not files of rows and fields, or cannot be guessed.
    """
    if not all(file.delimited for file in files):
        raise DataError("the first line seems to be a row", where=where, hint="put a line with column names above it")
    names = {f"column_{number}": f"column_{number}" for number, _ in enumerate(read_columns(files[0]), start=1)}
    columns = survey([replace(file, csv=Csv(header=False, columns=tuple(names))) for file in files])
    label = guess_label(columns, where)[0]
    texts = guess_texts(columns, (label,), where)[0]
    names[label] = "label"
    names |= {text: "text" if len(texts) == 1 else f"text_{at}" for at, text in enumerate(texts, start=1)}
    return tuple(replace(file, csv=Csv(header=False, columns=tuple(names.values()))) for file in files)


def guess_label(columns: Columns, where: str) -> list[str]:
    """The columns that may be the label, the likeliest first: by its name, then by how few values it has.

    :raises DataError: none may.
    """
    kinds = {name: len(set(filter(None, values))) for name, values in columns.items()}
    likely = [name for name, count in kinds.items() if 2 <= count <= min(MOST_LABELS, max(2, len(columns[name]) // 5))]
    if not likely:
        raise DataError(
            "no column has the few, repeated values of a label; different values: "
            + listed(f"{name} {count:,}" for name, count in kinds.items()),
            where=where,
            hint="name it with --label; the first line of the file must name the columns",
        )
    return sorted(likely, key=lambda name: (_rank(name, LABEL_NAMES), kinds[name]))


def guess_labels(columns: Columns, where: str) -> list[tuple[str, ...]]:
    """The same, and where a row may have any number of labels: a column of lists of them, or several of 0 and 1.

    Several columns come first where no other holds few values, and lists unless a column is called as labels are.

    :return: the column of each candidate, or all of its columns.
    """
    lists = [name for name, values in columns.items() if 2 <= len(members_in(values)) <= MOST_LABELS]
    alike = [name for name, values in columns.items() if {canonical(value) for value in values if value} in _FLAGS]
    # Of a row that lacks one of them ingest would not know its labels.
    flags = tuple(name for name in alike if all(columns[name]))
    several = [flags] if len(flags) > 1 else []
    found = [(name,) for name in sorted(lists, key=lambda name: _rank(name, LABEL_NAMES))]
    try:
        single = [name for name in guess_label(columns, where) if name not in lists]
    except DataError:
        if not found and not several:
            raise
        single = []
    ones = [(name,) for name in single]
    if single and single[0].lower() in LABEL_NAMES:
        return [*ones, *found, *several]
    return [*found, *several, *ones] if {*single} <= {*alike} else [*found, *ones, *several]


def members_in(values: Sequence[str]) -> Counter[str]:
    """Rows of each label, of a column that holds lists of labels; nothing of any other."""
    counts: Counter[str] = Counter()
    for value in filter(None, values):
        if not value.startswith("["):
            return Counter()
        try:
            counts.update({canonical(name) for name in members(value, where="")})
        except DataError:
            return Counter()
    return counts


def guess_texts(columns: Columns, label: Sequence[str], where: str) -> list[tuple[str, ...]]:
    """The column, or the pair of columns, that may be the text, the likeliest first: pairs, known names, most words.

    :raises DataError: none holds words.
    """
    words = {name: sum(len(value.split()) for value in values) for name, values in columns.items() if name not in label}
    wordy = [name for name, count in words.items() if count and any(map(_has_letter, columns[name]))]
    if not wordy:
        raise DataError(f"no column beside '{', '.join(label)}' holds text", where=where, hint="name it with --text")
    ranked = sorted(wordy, key=lambda name: (_rank(name, TEXT_NAMES), -words[name]))
    pairs = [pair for pair in combinations(wordy, 2) if _is_pair(pair)]
    return [*pairs, *((name,) for name in ranked if not pairs or name not in pairs[0])]


def are_known(names: Sequence[str]) -> bool:
    """Whether columns are called as texts and labels often are, so that they name them."""
    *texts, label = map(str.lower, names)
    return label in LABEL_NAMES and (tuple(texts) in PAIRS or set(texts) <= {*TEXT_NAMES})


def _rank(name: str, known: Sequence[str]) -> int:
    return known.index(name.lower()) if name.lower() in known else len(known)


def _has_letter(value: str) -> bool:
    return any(map(str.isalpha, value))


def _is_pair(names: tuple[str, ...]) -> bool:
    first, second = (name.lower() for name in names)
    numbered = _NUMBERED.fullmatch(first), _NUMBERED.fullmatch(second)
    return (first, second) in PAIRS or bool(
        numbered[0]
        and numbered[1]
        and numbered[0][1] == numbered[1][1]
        and numbered[0][2] + numbered[1][2] in {"12", "ab"}
    )


def _table(file: SourceFile) -> Columns:
    """The columns of a file, each as ingest reads labels, lists of them as JSON; without those of objects."""
    names = [name for name in dict.fromkeys(read_columns(file)) if name]  # pandas writes its index without a name
    table: Columns = {}
    problem: DataError | None = None
    with readable(file) as path:
        for name in names:
            for sets in (False, True):
                wanted = Wanted(texts=(), label=name, sets=sets)
                try:
                    rows = FORMATS[file.format].read_rows(path, file, file.name, wanted)
                except DataError as error:
                    problem = problem or error
                else:
                    values = rows.labels.fill_null("").to_pylist()
                    if not sets or 2 <= len(members_in(values)) <= MOST_LABELS:  # else lists of something else
                        table[name] = values
                    break
    if problem is not None and not table:
        raise problem
    return table
