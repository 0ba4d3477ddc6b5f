"""Corrections of labels: what a person found when looking at a row, as csv files that ``dataset.corrections`` names.

A correction names its row by ``row_id`` or by its text, gives the label that is right, and says who found that, when,
and why. ``retrainer relabel`` adds a file to a folder or prefix and never changes one: two people may correct at once,
and what was in force on a day stays to be seen. Of several corrections of one row the latest ``when`` counts.

Not here: what a correction does to the rows (``work/ingest/corrections.py``).
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

from retrainer.errors import DataError, PreconditionFailed
from retrainer.sources.delimited import columns_of, reading_of, rows_of
from retrainer.sources.files import SourceFile, expand
from retrainer.sources.identity import fingerprint
from retrainer.sources.text import readable
from retrainer.spec.delimited import Csv
from retrainer.spec.problems import listed
from retrainer.storage import open_storage

LABEL, ROW_ID, WHO, WHEN, WHY = "label", "row_id", "who", "when", "why"
# As in the files of a snapshot.
TEXTS = ("text", "text_pair")
# They are written by us or by a spreadsheet: a double quote is never a character like any other.
CSV = Csv(quoting="standard")
SUFFIX = ".csv"
_ROW_ID = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Correction:
    """One label that a person set.

    :param row_id: as in a snapshot; ``None`` where the text names the row.
    :param texts: the text or both of a pair; empty where ``row_id`` names the row.
    :param who: empty only where nothing was said yet; so is ``when``.
    :param when: ISO 8601, in UTC.
    :param where: file and line, for messages.
    """

    row_id: str | None
    texts: tuple[str, ...]
    label: str
    who: str
    when: str
    why: str
    where: str


def identity_of(path: str) -> str:
    """A digest of what the files hold.

    :raises DataError: they do not exist or cannot be read.
    """
    return fingerprint((path,), CSV)


def read_corrections(path: str, texts: int) -> tuple[Correction, ...]:
    """All corrections of the files, in the order in which they were made.

    :param path: a file, a folder, a prefix or a glob, absolute.
    :param texts: how many texts a row has.
    :raises DataError: there is nothing; a line does not say which row, which label, who and when.
    """
    found = [one for file in expand((path,), CSV) for one in _read(file, TEXTS[:texts])]
    for one in found:
        missing = [name for name in (LABEL, WHO, WHEN) if not getattr(one, name)]
        if missing:
            hint = "retrainer relabel fills in who and when"
            raise DataError(f"a correction without {listed(missing)}", where=one.where, hint=hint)
    return tuple(sorted(found, key=lambda one: one.when))


def read_decisions(path: str, columns: Sequence[str]) -> tuple[Correction, ...]:
    """What a person decided, which may lack who and when; rows without a label are not decided.

    :param columns: the pipeline's names of its text columns, which are taken beside those of a snapshot.
    :raises DataError: the file does not exist; a line does not say which row.
    """
    found = [one for file in expand((path,), CSV) for one in _read(file, TEXTS[: len(columns)], tuple(columns))]
    return tuple(one for one in found if one.label)


def _read(file: SourceFile, *texts: tuple[str, ...]) -> Iterator[Correction]:
    """The rows of one file.

    :param texts: names that the columns of the text may have; the first that are all there are read.
    """
    if not file.delimited:
        raise DataError("corrections are csv", where=file.url)
    with readable(file) as path:
        columns = columns_of(path, file)
        named = next((names for names in texts if set(names) <= set(columns)), ())
        if LABEL not in columns or (ROW_ID not in columns and not named):
            wanted = f"needs a column '{LABEL}', and '{ROW_ID}' or {listed(texts[-1])}"
            raise DataError(wanted, where=f"{file.url}, line 1", hint=f"its columns: {listed(columns)}")
        at = {name: columns.index(name) for name in (*named, LABEL, ROW_ID, WHO, WHEN, WHY) if name in columns}
        for line, row in rows_of(path, file, reading_of(path, file)):
            yield _correction({name: row[position] for name, position in at.items()}, named, f"{file.url}, line {line}")


def _correction(row: dict[str, str], named: tuple[str, ...], where: str) -> Correction:
    def said(name: str) -> str:
        return row.get(name, "").strip()

    row_id = said(ROW_ID)
    texts = tuple(row[name] for name in named)
    texts = texts if all(text.strip() for text in texts) else ()
    if row_id and not _ROW_ID.fullmatch(row_id):
        raise DataError(f"'{row_id}' is not a row_id", where=where, hint="16 hex digits, as in suspects.csv")
    if not row_id and not texts:
        raise DataError("neither a row_id nor a text says which row", where=where)
    return Correction(row_id or None, texts, said(LABEL), said(WHO), _utc(said(WHEN), where), said(WHY), where)


def _utc(when: str, where: str) -> str:
    """In one form, so that the order of texts is that of times."""
    if not when:
        return ""
    try:
        read = datetime.fromisoformat(when)
        return stamp(read if read.tzinfo else read.replace(tzinfo=UTC))
    except (ValueError, OverflowError):  # the latter of a time that UTC does not have
        raise DataError(f"'{when}' is not a time", where=where, hint="such as 2026-11-27T14:05:00Z") from None


def stamp(when: datetime) -> str:
    """A time as it is written in these files."""
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def add_corrections(path: str, corrections: Sequence[Correction], now: datetime) -> str:
    """Add a file of them to a folder or prefix.

    :param path: the folder, absolute, or ``s3://``.
    :return: its address.
    :raises DataError: the path is a file.
    :raises StorageError: it cannot be written.
    """
    if PurePosixPath(path).suffix or any(mark in path for mark in "*?["):
        raise DataError(
            "names files, and each call of relabel adds one to a folder",
            where=path,
            hint="write dataset.corrections: corrections/ and move the file there",
        )
    data = _written(corrections)
    compact = re.sub("[-:]", "", stamp(now))
    name = f"{compact}-{hashlib.sha256(data).hexdigest()[:12]}{SUFFIX}"
    storage = open_storage(path)
    try:
        storage.write(name, data, if_absent=True)
    except PreconditionFailed:
        # The name says what is in it: the answer to the first try was lost.
        if storage.read(name) != data:
            raise
    return storage.where(name)


def _written(corrections: Sequence[Correction]) -> bytes:
    texts = TEXTS[: max((len(one.texts) for one in corrections), default=0)]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([ROW_ID, *texts, LABEL, WHO, WHEN, WHY])
    for one in corrections:
        said = one.texts or ("",) * len(texts)
        writer.writerow([one.row_id or "", *said, one.label, one.who, one.when, one.why])
    return stream.getvalue().encode()
