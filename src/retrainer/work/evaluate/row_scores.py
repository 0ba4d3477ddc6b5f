"""How near a text is to its target: the scores of one row, between 0 and 1, of several targets the nearest.

Each is named by its entry in ``retrainer.spec.known_metrics``. Text that equals its target scores 1 by each of them.
Not here: what the scores of all rows say (``gate/metrics.py``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from retrainer.gate.answers import same_text

# Letters and digits of any script; where scripts put no space between words, each character is one.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def exact_match(text: str, targets: Sequence[str]) -> float:
    """1 where it is a target, but for white space, else 0."""
    return float(same_text(text, targets))


def chrf(text: str, targets: Sequence[str]) -> float:
    """chrF2, of character n-grams up to 6 (M. Popovic, chrF: character n-gram F-score for automatic MT evaluation, WMT
    2015), as sacrebleu computes it of a sentence, divided by 100.
    """
    if same_text(text, targets):
        return 1.0
    return min(float(_chrf().sentence_score(text, list(targets)).score) / 100, 1.0)


def rouge_l(text: str, targets: Sequence[str]) -> float:
    """The F measure of the longest common subsequence of words (C. Lin, ROUGE, 2004), as rouge-score computes it.

    The words are ours: rouge-score's own are of ASCII letters only, by which text in most scripts scores 0.
    """
    if same_text(text, targets):
        return 1.0
    return float(_rouge().score_multi(list(targets), text)["rougeL"].fmeasure)


class _Words:
    """Tells words apart in any script, in the form that rouge-score asks for."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text, in lower case."""
        return _WORD.findall(text.lower())


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # loads nltk, and with it pandas where that is installed

    return RougeScorer(["rougeL"], tokenizer=_Words())
