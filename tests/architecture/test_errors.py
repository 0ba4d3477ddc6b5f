"""Errors keep their parts when they cross a process, and the tree drawn in the docstring is the tree."""

from __future__ import annotations

import pickle

import pytest

from retrainer import errors
from retrainer.errors import DataError, RetrainerError, by_name


def every_error(kind: type[RetrainerError] = RetrainerError) -> list[type[RetrainerError]]:
    return [kind, *(deeper for sub in kind.__subclasses__() for deeper in every_error(sub))]


@pytest.mark.parametrize("kind", every_error())
def test_pickle_and_name_round_trip(kind: type[RetrainerError]) -> None:
    error = kind("what", where="where", hint="hint")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.message, copy.where, copy.hint) == ("what", "where", "hint")
    assert by_name(kind.__name__) is kind
    assert kind.__name__ in (errors.__doc__ or "")


def test_text() -> None:
    assert str(DataError("no rows", where="a.csv", hint="add some")) == "a.csv: no rows (add some)"
    assert by_name("nothing of ours") is RetrainerError
