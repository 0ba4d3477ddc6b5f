"""How near a text is to its target: the scores of one row, between 0 and 1, of several targets the nearest.

Each is named by its entry in ``retrainer.spec.known_metrics``. Text that equals its target scores 1 by each of them.
Not here: what the scores of all rows say (``gate/metrics.py``).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

import regex

from retrainer.gate.answers import same_text

# Letters and digits of any script, with the marks on them; where scripts put no space between words, each character is
# one.
_UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
_WORD = regex.compile(
    rf"(?V1){_UNSPACED}|[[\p{{L}}\p{{N}}]--{_UNSPACED}][[\p{{L}}\p{{M}}\p{{N}}\p{{Join_Control}}]--{_UNSPACED}]*"
)


def exact_match(text: str, targets: Sequence[str]) -> float:
    """1 where it is a target, but for white space and Unicode composition, else 0."""
    return float(same_text(text, targets))


def chrf(text: str, targets: Sequence[str]) -> float:
    """chrF2, of character n-grams up to 6 (M. Popovic, chrF: character n-gram F-score for automatic MT evaluation, WMT
    2015), as sacrebleu computes it of a sentence, divided by 100.
    """
    if same_text(text, targets):
        return 1.0
    return min(float(_chrf().sentence_score(_composed(text), [*map(_composed, targets)]).score) / 100, 1.0)


def rouge_l(text: str, targets: Sequence[str]) -> float:
    """The F measure of the longest common subsequence of words (C. Lin, ROUGE, 2004), as rouge-score computes it.

    That library takes seconds for a long text, and its words are of ASCII letters only, by which text in most scripts
    scores 0.
    """
    if same_text(text, targets):
        return 1.0
    written = _words(text)
    return max(_f_measure(_common(target, written), len(target), len(written)) for target in map(_words, targets))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _words(text: str) -> list[str]:
    words: list[str] = _WORD.findall(_composed(text).lower())
    return words


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence (M. Crochemore et al., A fast and practical bit-vector algorithm for
    the longest common subsequence problem, 2001): a bit for each word of the first is 0 where the length grows.
    """
    places: dict[str, int] = {}
    for at, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << at
    every = (1 << len(first)) - 1
    same = every
    for word in second:
        found = same & places.get(word, 0)
        same = (same + found | same - found) & every
    return len(first) - same.bit_count()


def _f_measure(common: int, target: int, written: int) -> float:
    return 2 * common / (target + written) if common else 0.0


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()
