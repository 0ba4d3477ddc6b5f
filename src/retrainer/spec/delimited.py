"""``dataset.csv``: how files of rows and fields are read, where that is said rather than found out.

Not here: finding it out (``sources/delimited.py``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from retrainer.records import Record
from retrainer.spec.fields import Text
from retrainer.spec.problems import found, refuse_one

Quoting = Literal["standard", "backslash", "none"]


def _one_character(value: Any) -> Any:
    meant = {"\\t": "\t", "tab": "\t"}.get(value, value) if isinstance(value, str) else value
    if isinstance(meant, str) and (len(meant) != 1 or meant in '"\r\n\ufeff '):
        refuse_one(f"expected one character, neither a quote, a blank nor a line end; found {found(value)}")
    return meant


def _text_encoding(value: str) -> str:
    try:
        "a".encode(value).decode(value)
    except (LookupError, ValueError):  # UnicodeError is one, as is a name with a NUL
        refuse_one(f"unknown encoding {found(value)}; Python's names are taken, such as windows-1252 or utf-16-le")
    return value


class Csv(Record):
    """How files of rows and fields are read: csv, tsv, and files that are named and have another suffix."""

    quoting: Quoting | None = Field(
        None,
        description="What a double quote is: 'standard' (around a field, and doubled inside it), 'backslash' (the same "
        "with a backslash before it inside) or 'none' (a character like any other). Found out by default.",
    )
    delimiter: Annotated[str, BeforeValidator(_one_character)] | None = Field(
        None, description="The character between fields. By default that of the suffix, or what the header shows."
    )
    encoding: Annotated[Text, AfterValidator(_text_encoding)] | None = Field(
        None, description="Such as windows-1252. By default UTF-8, or what a byte order mark says."
    )
    header: bool = Field(True, description="Whether the first row names the columns; if not, 'columns' does.")
    columns: Annotated[tuple[Text, ...], Field(min_length=2)] | None = Field(
        None, description="Names of all columns, in their order; in place of the header's where there is one."
    )

    @model_validator(mode="after")
    def _columns_have_names(self) -> Self:
        if not self.header and self.columns is None:
            refuse_one("without a header the columns need names; add columns: [...]", "header")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            refuse_one("each column needs a name of its own", "columns")
        return self
