"""A file that is hashed as it is read gives what was named, whole, or an error before its end."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrainer.errors import IntegrityError
from retrainer.storage.hashing import HashedFile

CONTENT = st.binary(max_size=6)


def read_all(file: HashedFile, amounts: list[int]) -> bytes:
    """As any reader may: until nothing comes, or all at once."""
    data = b""
    try:
        for amount in amounts:
            got = file.read(amount)
            data += got
            if not got or amount < 0:
                return data
        while got := file.read(2):
            data += got
    finally:
        file.close()
    return data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CONTENT, CONTENT, st.lists(st.integers(-1, 7).filter(bool), max_size=5))
def test_what_is_read_is_what_was_named(tmp_path: Path, named: bytes, there: bytes, amounts: list[int]) -> None:
    path = tmp_path / "file"
    path.write_bytes(there)
    assert read_all(HashedFile(path), amounts) == there
    file = HashedFile(path, sha256=hashlib.sha256(named).hexdigest(), size=len(named))
    if there == named:
        assert read_all(file, amounts) == named
    else:
        with pytest.raises(IntegrityError) as caught:
            read_all(file, amounts)
        assert caught.value.where == str(path)
