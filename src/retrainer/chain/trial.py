"""What is said about trying a text on a version: the question to the process that loads it, and its answer.

Not here: who may ask (``console/try_text.py``), the process (``run/trial.py``), what it does (``work/trial.py``).
"""

from __future__ import annotations

from pydantic import Field

from retrainer.chain.messages import Failed
from retrainer.records import Record

MOST_CHARACTERS = 5000
"""Of a text on trial."""


class Trial(Record):
    """What is asked. The text stands nowhere but here.

    :param task: of the model.
    :param keys: public keys, one of which has to have signed the version; empty to ask for no signature.
    :param pair: the second text, where the model reads pairs.
    :param size: bytes of the version's files.
    """

    store: str
    model: str
    version: str
    task: str
    keys: tuple[str, ...] = ()
    text: str = Field(repr=False)
    pair: str | None = Field(default=None, repr=False)
    size: int


class Score(Record):
    """A label, and how sure the version is of it.

    :param applies: whether the version gives the text that label, where a text may have any number of them.
    """

    label: str
    score: float
    applies: bool | None = None


class Tried(Record):
    """The answer of a version.

    :param scores: every label, the best first; empty of a version that writes.
    :param written: by a version that does.
    :param loading_seconds: until the version was there, with fetching and verifying it.
    :param seconds: that the answer took then.
    """

    version: str
    precision: str
    scores: tuple[Score, ...] = ()
    written: str | None = None
    loading_seconds: float
    seconds: float


class TrialEnd(Record):
    """What the process says, once: the answer, or why there is none."""

    tried: Tried | None = None
    failed: Failed | None = None
