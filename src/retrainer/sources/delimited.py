"""Files of rows and fields (csv, tsv and their like): how one is to be read, and its rows.

There is one place where that is settled, ``reading_of``, for everybody who reads such a file. What ``dataset.csv`` says
is taken; the rest is found out by reading the file in each way and counting: a reading is right when every row is as
wide as the header. Quotes are around fields where that is right; where they may as well be plain characters, because
they join what look like rows or are around nearly every text, that is an error, and not a guess.

Python's own reader, strict: it says where a quote is not closed, and reads a million short rows in a few seconds.
Faster readers guess types, and report a position in their own buffers.
"""

from __future__ import annotations

import csv
import io
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retrainer.errors import DataError
from retrainer.formats import FORMATS, format_of
from retrainer.sources.files import SourceFile
from retrainer.sources.text import empty_file, open_text
from retrainer.spec.delimited import Csv, Quoting
from retrainer.spec.problems import listed

DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "vertical bar"}
_QUOTES = {
    "standard": "quotes around fields",
    "backslash": "quotes around fields, with a backslash before those inside",
    "none": "quotes as plain characters",
}
# What spreadsheets write and read to say which character is between fields.
_DIRECTIVE = re.compile(r'"?sep=(.)"?(?=[\r\n]|$)', re.IGNORECASE)
_SAMPLE = 1 << 16
_BLOCK = 1 << 20
# So many rows that would have to hold line ends and fields by accident are none.
_NO_ACCIDENT = 3
# Quotes that other tools put around fields; one that has more of them inside is a text that holds quotes.
_PAIRS, _UNLIKE = frozenset({"''", "“”", '""', "‘’", "``", "«»"}), frozenset('"“”«»')
# A column of more different values is not one of labels.
_FEW = 1000


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read.

    :param blanks: whether a quote after blanks begins a quoted field, too.
    :param directive: whether the first line only says what is between fields.
    """

    delimiter: str
    quoting: Quoting = "standard"
    blanks: bool = False
    directive: bool = False

    @property
    def dialect(self) -> dict[str, Any]:
        """The arguments of ``csv.reader``."""
        if self.quoting == "none":
            return {"delimiter": self.delimiter, "quoting": csv.QUOTE_NONE}
        escaped = {"escapechar": "\\", "doublequote": False} if self.quoting == "backslash" else {}
        return {"delimiter": self.delimiter, "strict": True, "skipinitialspace": self.blanks, **escaped}

    def __str__(self) -> str:
        blanks = ", blanks before them dropped" if self.blanks else ""
        return f"{_named(self.delimiter)} between fields, {_QUOTES[self.quoting]}{blanks}"


def reading_of(path: Path, file: SourceFile) -> Reading:
    """How a file is to be read.

    :raises DataError: it can be read in two ways that differ, or holds what no text does.
    """
    start = _start(path, file)
    marks = _marks(path, file, start)
    quoting = _settings(file).quoting
    if quoting is not None and quoting != "standard":
        return replace(start, quoting=quoting)
    if not marks.quotes:
        return start
    quoted = _before_quotes(path, file, start) if marks.blanks else start
    if quoting == "standard":
        return quoted
    tally = _tally(path, file, quoted)
    plain = replace(start, quoting="none")
    if tally.problem is None:
        return _joined(path, file, quoted, plain) if tally.joined else quoted
    escaped = replace(start, quoting="backslash")
    if marks.escapes and _tally(path, file, escaped).problem is None:
        return escaped
    characters = _tally(path, file, plain)
    if characters.problem is None:
        if start.delimiter == "\t" and characters.wrapped <= characters.stray:
            return plain
        hint = "if quotes are plain characters in this file, set dataset.csv: {quoting: none}; else: "
        problem = tally.problem
        raise DataError(problem.message, where=problem.where, hint=f"{hint}{problem.hint}")
    return quoted  # no way is right; reading it says what is wrong in which line


def _joined(path: Path, file: SourceFile, quoted: Reading, plain: Reading) -> Reading:
    """Of rows that go over several lines: are these texts with line ends, or rows that unpaired quotes joined?

    They may be rows if each of their lines is as wide as the header, and most have in some column what other rows have
    there, as in that of the labels. Of the lines of a text it is one that has the row's own label.
    """
    one, other = _tally(path, file, quoted, values=True), _tally(path, file, plain, values=True)
    lines = other.rows - (one.rows - one.joined)
    if other.problem is not None or not any(
        fewer is not None
        and more is not None
        and 2 * sum(count for value, count in more.items() if value not in fewer) < lines
        for fewer, more in zip(one.values, other.values, strict=True)
    ):
        return quoted
    if plain.delimiter == "\t" and one.joined >= _NO_ACCIDENT:
        return plain
    raise DataError(
        f"the file can be read in two ways: {one.rows:,} rows with quotes around fields that hold line ends, or "
        f"{other.rows:,} rows with quotes as plain characters",
        where=f"{file.url}, line {one.first_joined}",
        hint="set dataset.csv: {quoting: standard} or {quoting: none}",
    )


def _before_quotes(path: Path, file: SourceFile, start: Reading) -> Reading:
    """With blanks dropped where a quote follows them, if that makes the rows come out right."""
    spaced = replace(start, blanks=True)
    as_is, dropped = _tally(path, file, start), _tally(path, file, spaced)
    if dropped.problem is not None:
        chosen = start
    elif as_is.problem is not None:
        chosen = spaced
    elif as_is.rows != dropped.rows:
        return _joined(path, file, spaced, start)
    else:
        pairs = zip(rows_of(path, file, start), rows_of(path, file, spaced), strict=True)
        differ = any(
            one != other and one.lstrip(" ").startswith('"')
            for (_, first), (_, second) in pairs
            for one, other in zip(first, second, strict=True)
        )
        chosen = spaced if differ else start
    if (as_is if chosen is start else dropped).problem is None:
        for line, row in rows_of(path, file, chosen):
            # Only blanks can be dropped; tabs and no-break spaces stay with their quotes.
            if any(re.fullmatch(r'\s+".*"', cell, re.DOTALL) for cell in row):
                raise DataError(
                    "a blank before a quote: as a character the quote stays in the text, and as one around the field "
                    "it makes other rows wrong, or cannot be dropped",
                    where=f"{file.url}, line {line}",
                    hint="take out the blanks, tabs and no-break spaces between fields, or set dataset.csv: "
                    "{quoting: none}",
                )
    return chosen


def refuse_wrapped(texts: Sequence[str], file: SourceFile, column: str) -> None:
    """Go on only where quotes that stayed in the texts of a column are not around nearly all of them.

    :raises DataError: they are, and the pipeline does not say that quotes are part of the texts.
    """
    if _settings(file).quoting is not None:
        return
    found = Counter(
        ends if len(cell) > 1 and (ends := cell[0] + cell[-1]) in _PAIRS and not {*cell[1:-1]} & _UNLIKE else ""
        for text in texts
        if (cell := text.strip())
    )
    most, count = max(found.items(), key=lambda pair: pair[1], default=("", 0))
    if most and count >= _NO_ACCIDENT and count >= 0.95 * found.total():
        raise DataError(
            f"{count:,} of {found.total():,} texts in column '{column}' are in {most[0]}...{most[1]}, which would be "
            "read as part of them",
            where=file.url,
            hint="take these quotes out, or, if they are part of the texts, set dataset.csv: {quoting: standard}",
        )


def setting_of(path: Path, file: SourceFile) -> dict[str, Any]:
    """What ``dataset.csv`` has to say for the file to be read as it is now; nothing where its name says it all.

    :raises DataError: as :func:`reading_of`.
    """
    reading, settings = reading_of(path, file), _settings(file)
    known = format_of(file.url)
    said = settings.model_dump(exclude_defaults=True)
    if known is None or (reading.delimiter != known.delimiter and not reading.directive):
        said["delimiter"] = reading.delimiter
    if reading.quoting != "standard":
        said["quoting"] = reading.quoting
    return said


def columns_of(path: Path, file: SourceFile) -> tuple[str, ...]:
    """The names of the columns, from the first rows alone.

    :raises DataError: the file is empty, or its first row cannot be read.
    """
    return _columns(path, file, _start(path, file))


def count_rows(path: Path, file: SourceFile) -> int:
    """How many rows are below the header.

    :raises DataError: as :func:`rows_of`, and :func:`reading_of`.
    """
    return sum(1 for _ in rows_of(path, file, reading_of(path, file)))


def rows_of(path: Path, file: SourceFile, reading: Reading) -> Iterator[tuple[int, list[str]]]:
    """The rows below the header, each with the line in which it ends. Blank lines are no rows.

    :raises DataError: a row is not as wide as the header, is the header once more, or cannot be read.
    """
    columns = _columns(path, file, reading)
    settings = _settings(file)
    header: list[str] | None = None
    for line, row in _lines(path, file, reading):
        if len(row) != len(columns):
            raise _wrong_width(row, len(columns), line, file, reading)
        if header is None and settings.header:
            header = row
            continue
        if header is not None and row[-1] == header[-1] and [*map(_name, row)] == [*map(_name, header)]:
            raise DataError(
                "the header is there once more",
                where=f"{file.url}, line {line}",
                hint="take it out if files were put together; if the file has no header, say so in dataset.csv",
            )
        yield line, row


def _settings(file: SourceFile) -> Csv:
    return file.csv or Csv()


def _named(delimiter: str) -> str:
    return DELIMITERS.get(delimiter, f"'{delimiter}'")


def _name(cell: str) -> str:
    seen = unicodedata.normalize("NFC", cell.replace("\ufeff", "").replace("\u200b", ""))
    return " ".join(seen.split())


def _columns(path: Path, file: SourceFile, reading: Reading) -> tuple[str, ...]:
    settings = _settings(file)
    if settings.columns is not None:
        return settings.columns
    try:
        # Names are often in quotes where texts are not.
        first = next(_lines(path, file, replace(reading, quoting="standard", blanks=True)), None)
    except DataError:
        first = next(_lines(path, file, replace(reading, quoting="none")), None)
    if first is None:
        raise empty_file(file.url)
    names = tuple(map(_name, first[1]))
    if not any(names):
        raise DataError("the first row names no column", where=f"{file.url}, line {first[0]}")
    return names


def _lines(path: Path, file: SourceFile, reading: Reading) -> Iterator[tuple[int, list[str]]]:
    """All rows, the header too, without blank lines; each with the line in which it ends."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # texts may be longer than the 128 KiB it allows
    with open_text(path, file, encoding=_settings(file).encoding) as stream:
        skipped = min(1, len(stream.readline())) if reading.directive else 0
        reader = csv.reader(stream, **reading.dialect)
        started = skipped + 1
        try:
            for row in reader:
                line = reader.line_num + skipped
                if row:
                    yield line, row
                started = line + 1
        except csv.Error as error:
            message, hint = _in_words(str(error), started, reading)
            raise DataError(message, where=f"{file.url}, line {reader.line_num + skipped}", hint=hint) from None


def _in_words(problem: str, started: int, reading: Reading) -> tuple[str, str]:
    inside = 'with a backslash before it: \\"' if reading.quoting == "backslash" else 'twice: ""'
    if "unexpected end of data" in problem:
        return f"a quote that opens in line {started} is not closed", f"a quote within a text is written {inside}"
    if "expected after" in problem:
        return f"after a closing quote more text follows ({problem})", f"a quote within a text is written {inside}"
    return f"not a table: {problem}", "quote texts that hold commas, quotes or line ends"


def _wrong_width(row: list[str], width: int, line: int, file: SourceFile, reading: Reading) -> DataError:
    mark = _named(reading.delimiter)
    header = "dataset.csv.columns" if _settings(file).columns else "the header"
    return DataError(
        f"the row has {len(row)} field{'s' * (len(row) != 1)}, {header} {width}",
        where=f"{file.url}, line {line}",
        hint=f"a text that holds a {mark} must be in quotes" if len(row) > width else "fields are missing",
    )


def _start(path: Path, file: SourceFile) -> Reading:
    """What is between fields, by the setting, the first line or the suffix, or else by counting fields."""
    settings = _settings(file)
    with open_text(path, file, encoding=settings.encoding) as stream:
        sample = stream.read(_SAMPLE)
    directive = _DIRECTIVE.match(sample)
    if settings.delimiter or directive:
        return Reading(settings.delimiter or str(directive and directive[1]), directive=directive is not None)
    own = FORMATS[file.format].delimiter if format_of(file.url) else None
    wanted = len(settings.columns) if settings.columns else None
    first = next(iter(_widths(sample, own, quoted=True)), 1) if own else 1
    if own and first > 1 and wanted in {None, first}:
        return Reading(own)
    right = [mark for mark in DELIMITERS if _fits(sample, mark, wanted)]
    if len(right) > 1 or (own is None and not right and sample.strip()):
        what = f"be any of {listed(map(_named, right))}" if right else "not be found out"
        raise DataError(
            f"what is between the fields can{' ' if right else ''}{what}",
            where=file.url,
            hint='say it, as in dataset.csv: {delimiter: ";"}',
        )
    return Reading(right[0] if right else own or ",")


def _fits(sample: str, mark: str, wanted: int | None) -> bool:
    """Whether all rows of a sample have the same number of fields, more than one; the last row may be cut off."""
    for quoted in (True, False):
        widths = _widths(sample, mark, quoted=quoted)
        complete = widths if len(sample) < _SAMPLE else widths[:-1]
        if len({*complete}) == 1 and complete[0] > 1 and wanted in {None, complete[0]}:
            return True
    return False


def _widths(sample: str, mark: str, *, quoted: bool) -> list[int]:
    dialect = replace(Reading(mark), quoting="standard" if quoted else "none").dialect | {"strict": False}
    try:
        return [len(row) for row in csv.reader(io.StringIO(sample, newline=""), **dialect) if row]
    except csv.Error:
        return []


@dataclass(slots=True)
class _Marks:
    """What is anywhere in a file, whatever it means there."""

    quotes: bool = False
    escapes: bool = False
    blanks: bool = False


def _marks(path: Path, file: SourceFile, reading: Reading) -> _Marks:
    """Look through the text of a file.

    :raises DataError: it holds a NUL.
    """
    marks = _Marks()
    # An even number of quotes after a blank is quotes within a text, unless they are all of a field.
    mark = re.escape(reading.delimiter)
    ends = rf"[\r\n{mark}]"
    blanks = re.compile(rf'{ends}[^\S\r\n{mark}]+(?:"")*(?:"(?!")|""(?={ends}|\Z))')
    with open_text(path, file, encoding=_settings(file).encoding) as stream:
        last, line = "\n", 1
        while block := stream.read(_BLOCK):
            if "\0" in block:
                line += block[: block.index("\0")].count("\n")
                raise DataError(
                    "a NUL character, which is not text", where=f"{file.url}, line {line}", hint="take it out"
                )
            line += block.count("\n")
            text = last + block
            last = block[-80:]
            if '"' in text:
                marks.quotes = True
                marks.escapes = marks.escapes or '\\"' in text
                marks.blanks = marks.blanks or blanks.search(text) is not None
    return marks


@dataclass(slots=True)
class _Tally:
    """What a reading gives.

    :param joined: rows that go over several lines; the first of them ends in line ``first_joined``.
    :param wrapped: fields that begin and end with a quote although quotes are read as characters.
    :param stray: other fields with quotes, likewise.
    :param values: for each column its values, counted; ``None`` where they are many.
    :param problem: why the reading is not right.
    """

    rows: int = 0
    joined: int = 0
    first_joined: int = 0
    wrapped: int = 0
    stray: int = 0
    values: list[Counter[str] | None] = field(default_factory=list)
    problem: DataError | None = None


def _tally(path: Path, file: SourceFile, reading: Reading, *, values: bool = False) -> _Tally:
    tally = _Tally()
    try:
        for line, row in rows_of(path, file, reading):
            tally.rows += 1
            if "\n" in (joined := "".join(row)) or "\r" in joined:
                tally.joined += 1
                tally.first_joined = tally.first_joined or line
            if reading.quoting == "none" and '"' in joined:
                quotes = [cell for cell in row if '"' in cell]
                wrapped = sum(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in quotes)
                tally.wrapped += wrapped
                tally.stray += len(quotes) - wrapped
            if values:
                _note(tally.values, row)
    except DataError as error:
        tally.problem = error
    return tally


def _note(values: list[Counter[str] | None], row: Sequence[str]) -> None:
    if not values:
        values.extend(Counter() for _ in row)
    for at, (cell, seen) in enumerate(zip(row, values, strict=True)):
        if seen is not None:
            seen[cell.strip()] += 1
            if len(seen) > _FEW:
                values[at] = None
