"""What stands for the text of a row: the same for two rows when their texts are, but for form, case and white space."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retrainer.work.near.text import normalise

BATCH_ROWS = 20_000
# White space, so that no normalised text holds it: ("a b", "c") and ("a", "b c") stay apart.
_BETWEEN = "\x1f"


def row_keys(texts: Sequence[pa.Array]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """A 64-bit BLAKE2b of each row's normalised text or pair, and whether a text of it is null or blank.

    Two different texts of a million share a key by accident with a chance of one in 37 million.

    :param texts: one or two columns of equal length.
    :return: keys, uint64, 0 where text is missing; missing, bool.
    """
    rows = len(texts[0])
    keys = np.zeros(rows, dtype=np.uint64)
    missing = np.zeros(rows, dtype=np.bool_)
    for start in range(0, rows, BATCH_ROWS):
        columns = [column[start : start + BATCH_ROWS].to_pylist() for column in texts]
        for at, row in enumerate(zip(*columns, strict=True), start=start):
            parts = ["" if text is None else normalise(text) for text in row]
            if all(parts):
                digest = hashlib.blake2b(_BETWEEN.join(parts).encode(), digest_size=8).digest()
                keys[at] = int.from_bytes(digest, "big")
            else:
                missing[at] = True
    return keys, missing
