"""Golden rows of a model that writes text: real texts with the tokens that the answers began with where it was made.

As ``golden.py`` for classifiers, which says what they are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retrainer.errors import DataError, IntegrityError
from retrainer.serve.decoding import greedy
from retrainer.serve.generation import GenerationPredictor
from retrainer.serve.golden import GOLDEN
from retrainer.store.bundle import GoldenRow


@dataclass(frozen=True, slots=True)
class TokenAgreement:
    """How a model answered its golden rows here.

    :param changed: rows whose answer begins with other tokens.
    """

    rows: int
    changed: int

    @property
    def holds(self) -> bool:
        """Whether the graph may serve here. False when there is nothing to compare."""
        return self.rows > 0 and self.changed == 0

    def __str__(self) -> str:
        if self.rows == 0:
            return "there are no golden rows for it"
        return f"{self.changed} of {self.rows} golden rows get other tokens"


def agreement(predictor: GenerationPredictor, golden: Sequence[GoldenRow]) -> TokenAgreement:
    """Ask a model its golden rows, one at a time as they were asked when the bundle was made.

    :raises IntegrityError: the tokenizer cannot read one.
    """
    asked = [(row.text, row.tokens.get(predictor.precision, ())) for row in golden]
    asked = [(text, tokens) for text, tokens in asked if tokens]
    try:
        changed = sum(predictor.choose([text], greedy, most=len(tokens)) != [list(tokens)] for text, tokens in asked)
    except DataError as error:
        # These texts are the version's own: not a caller's data is at fault, but its tokenizer.
        raise IntegrityError(
            f"golden rows cannot be asked: {error}",
            where=str(predictor.folder / GOLDEN),
            hint="publish the model again",
        ) from None
    return TokenAgreement(len(asked), changed)
