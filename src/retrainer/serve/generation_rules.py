"""What of a model's ``generation_config.json`` changes which token comes next, computed as transformers computes it.

A bundle's file holds nothing else: the export refuses what is not known here. Not here: searching (``decoding.py``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError

from retrainer.errors import IntegrityError
from retrainer.regular_files import read_regular

GENERATION_CONFIG = "generation_config.json"
# What else a published file says, for other readers; the client reads it in ``bundle.json``.
BESIDE_RULES = frozenset(
    {
        "bos_token_id",
        "decoder_start_token_id",
        "do_sample",
        "eos_token_id",
        "max_new_tokens",
        "num_beams",
        "pad_token_id",
    }
)

Scores = npt.NDArray[np.float32]


def _several(value: Any) -> Any:
    """One token id stands for a list of one, nothing for none."""
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else value


_Ids = Annotated[tuple[int, ...], BeforeValidator(_several)]


class Rules(BaseModel):
    """The rules of one model. ``None`` in the file is the default.

    :ivar repetition_penalty: divides the scores of tokens that were there, where positive; multiplies them, where not.
    :ivar no_repeat_ngram_size: no sequence of so many tokens comes twice; 0 for no such rule.
    :ivar min_length: tokens before which no answer ends, those that the decoder was given included.
    :ivar min_new_tokens: the same without them.
    :ivar forced_bos_token_id: the first token, where the decoder was given one.
    :ivar forced_eos_token_id: what an answer that reaches its greatest length ends with.
    :ivar suppress_tokens: never come.
    :ivar length_penalty: exponent of the length by which beams are compared.
    :ivar early_stopping: when a search with beams ends, in transformers' words.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    repetition_penalty: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    min_length: Annotated[int, Field(ge=0)] = 0
    min_new_tokens: Annotated[int, Field(ge=0)] = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: _Ids = ()
    suppress_tokens: _Ids = ()
    length_penalty: FiniteFloat = 1.0
    early_stopping: bool | Literal["never"] = False

    @classmethod
    def of(cls, config: dict[str, Any], *, where: str) -> Rules:
        """The rules in the content of such a file.

        :raises IntegrityError: a value is not one that transformers would write.
        """
        try:
            return cls.model_validate({key: value for key, value in config.items() if value is not None})
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise IntegrityError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}", where=where) from None

    @classmethod
    def load(cls, folder: Path) -> Rules:
        """Those of a bundle.

        :raises IntegrityError: the file is missing or damaged, or names a rule that this version does not know.
        """
        path = folder / GENERATION_CONFIG
        try:
            content = json.loads(read_regular(path))
        except OSError as error:
            raise IntegrityError(f"no generation config: {error.strerror}", where=str(path)) from None
        except ValueError as error:
            raise IntegrityError(f"not JSON: {error}", where=str(path)) from None
        if not isinstance(content, dict):
            raise IntegrityError("not a JSON object", where=str(path))
        unknown = sorted(content.keys() - cls.model_fields.keys() - BESIDE_RULES)
        if unknown:
            raise IntegrityError(
                f"it asks for {', '.join(unknown)}, which this version does not do",
                where=str(path),
                hint="update airflow-retrainer",
            )
        return cls.of(content, where=str(path))

    def apply(
        self, scores: Scores, sequence: Sequence[int], *, new: int, limit: int, eos_token_ids: Sequence[int]
    ) -> Scores:
        """The scores of the next token, ``[vocabulary]``, under these rules. May be the same array.

        :param sequence: tokens that the decoder was given, and those that came.
        :param new: how many came.
        :param limit: how many may come.
        """
        if self == _NONE:
            return scores
        scores = scores.copy()
        if self.repetition_penalty != 1.0:
            there = np.unique(np.asarray(sequence, dtype=np.int64))
            penalty = np.float32(self.repetition_penalty)
            scores[there] = np.where(scores[there] < 0, scores[there] * penalty, scores[there] / penalty)
        if self.no_repeat_ngram_size:
            scores[_would_repeat(sequence, self.no_repeat_ngram_size)] = -np.inf
        if len(sequence) < self.min_length or new < self.min_new_tokens:
            scores[list(eos_token_ids)] = -np.inf
        if self.forced_bos_token_id is not None and len(sequence) == 1:
            scores = _only(scores, [self.forced_bos_token_id])
        if self.forced_eos_token_id and new == limit - 1:
            scores = _only(scores, self.forced_eos_token_id)
        scores[list(self.suppress_tokens)] = -np.inf
        return scores


_NONE = Rules()


def _would_repeat(sequence: Sequence[int], size: int) -> list[int]:
    """Tokens that would complete a sequence of that size which was there."""
    if len(sequence) + 1 < size:
        return []
    last = tuple(sequence[len(sequence) + 1 - size :])
    return [sequence[end] for end in range(size - 1, len(sequence)) if tuple(sequence[end + 1 - size : end]) == last]


def _only(scores: Scores, ids: Sequence[int]) -> Scores:
    forced = np.full_like(scores, -np.inf)
    forced[list(ids)] = 0
    return forced
