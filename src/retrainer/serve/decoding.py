"""Token by token: the greedy and the drawn answer of a batch, and the best of several beams for one row.

As ``transformers.GenerationMixin.generate`` does it, for the same settings the same tokens. Not here: running graphs
(``generation_graphs.py``), what else a model asks of its tokens (``generation_rules.py``), text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrainer.errors import Stopped
from retrainer.serve.generation_graphs import DecoderGraph
from retrainer.serve.generation_rules import Rules, Scores

# What scores are lowered by that must not be chosen; transformers adds the same to float32.
_NEVER = np.float32(-1e9)

# The next token of a row, by its position and the scores of all tokens.
Choose = Callable[[int, Scores], int]

# Whether nobody wants the answer any more.
Stop = Callable[[], bool]


def never() -> bool:
    """It is wanted."""
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """When answers end.

    :ivar limit: tokens of one answer, at most.
    :ivar stop: looked at before the model is run, for each token.
    """

    limit: int
    eos_token_ids: tuple[int, ...]
    rules: Rules
    stop: Stop = never

    def look(self) -> None:
        """Go no further once nobody wants the answer.

        :raises Stopped: nobody does.
        """
        if self.stop():
            raise Stopped("the answer is not wanted any more")

    def apply(self, scores: Scores, sequence: Sequence[int], new: int) -> Scores:
        """The scores of the next token under the model's rules."""
        return self.rules.apply(scores, sequence, new=new, limit=self.limit, eos_token_ids=self.eos_token_ids)


def greedy(row: int, scores: Scores) -> int:
    """The best token."""
    return int(scores.argmax())


def decode(
    graph: DecoderGraph,
    rows: Sequence[Sequence[int]],
    begun_with: Sequence[Sequence[int]],
    ending: Ending,
    choose: Choose,
    *,
    most: int | None = None,
    cached: bool = True,
) -> Iterator[tuple[int, int]]:
    """The tokens of all answers as they come, each with the position of its row. Rows that ended are not run further.

    :param rows: token ids of the texts.
    :param begun_with: tokens that the decoder was given, of each row.
    :param most: only the beginning of each answer, of so many tokens.
    :raises Stopped: nobody wants them any more.
    """
    steps = ending.limit if most is None else min(most, ending.limit)
    ending.look()
    batch = graph.begin(rows, cached=cached)
    sequences = [list(row) for row in begun_with]
    open_rows = list(range(len(rows)))
    for new in range(steps):
        tokens = []
        for place, row in enumerate(open_rows):
            token = choose(row, ending.apply(batch.logits[place], sequences[row], new))
            sequences[row].append(token)
            tokens.append(token)
            yield row, token
        going_on = [place for place, token in enumerate(tokens) if token not in ending.eos_token_ids]
        if not going_on or new + 1 == steps:
            return
        if len(going_on) < len(open_rows):
            batch.select(np.array(going_on))
            open_rows = [open_rows[place] for place in going_on]
        ending.look()
        graph.advance(batch, np.array([tokens[place] for place in going_on], dtype=np.int64))


class Sampler:
    """Draws tokens. Each row has numbers of its own, made from the seed and its text: its neighbours do not matter.

    :param seed: ``None`` for other answers each time.
    :param rows: token ids of the texts.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[int]],
        *,
        seed: int | None,
        temperature: float | None,
        top_k: int | None,
        top_p: float | None,
    ) -> None:
        self._numbers = [np.random.default_rng(None if seed is None else [seed, *row]) for row in rows]
        self._temperature = temperature if temperature is not None else 1.0
        self._top_k = top_k
        self._top_p = top_p

    def __call__(self, row: int, scores: Scores) -> int:
        """A token, each as likely as its score says, of those that are kept."""
        ids, probabilities = self._kept(scores)
        reached = probabilities.cumsum()
        place = np.searchsorted(reached, self._numbers[row].random() * reached[-1], side="right")
        return int(ids[min(place, len(ids) - 1)])

    def _kept(self, scores: Scores) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """The tokens to draw from, best first, with their probabilities up to a factor."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order].astype(np.float64)
        # The best is 0 whatever the temperature is: others may become too small for a number, and are never drawn.
        with np.errstate(over="ignore"):
            best = (ranked - ranked[0]) / self._temperature
        if self._top_k is not None:
            keep = best >= best[min(self._top_k, len(best)) - 1]  # all that stand level with the last
            order, best = order[keep], best[keep]
        probabilities = np.exp(best)
        if self._top_p is not None:
            before = probabilities.cumsum() - probabilities
            keep = before < self._top_p * probabilities.sum()
            order, probabilities = order[keep], probabilities[keep]
        possible = probabilities > 0
        return order[possible], probabilities[possible]


def search(graph: DecoderGraph, row: Sequence[int], begun_with: Sequence[int], ending: Ending, beams: int) -> list[int]:
    """The best answer that so many beams find.

    :raises Stopped: nobody wants it any more.
    """
    rules, limit = ending.rules, ending.limit
    ending.look()
    batch = graph.begin([row])
    batch.select(np.zeros(beams, dtype=np.int64))
    running: list[list[int]] = [[] for _ in range(beams)]
    # All beams are the same at first: only one of them counts.
    scores = np.full(beams, _NEVER, dtype=np.float32)
    scores[0] = 0
    found = _Found(beams)
    improvable = True
    kept = max(2, 1 + len(ending.eos_token_ids)) * beams
    for new in range(1, limit + 1):
        totals = np.stack(
            [
                ending.apply(_log_softmax(logits), [*begun_with, *tokens], new - 1) + score
                for logits, tokens, score in zip(batch.logits, running, scores, strict=True)
            ]
        )
        values, best = _best(totals.reshape(-1), kept)
        origins, tokens = best // totals.shape[1], best % totals.shape[1]
        candidates = [[*running[origin], int(token)] for origin, token in zip(origins, tokens, strict=True)]
        ended = np.isin(tokens, ending.eos_token_ids) | (new == limit)

        full = found.ended.all() and rules.early_stopping is True
        final = (values / np.float32(new**rules.length_penalty)).astype(np.float32)
        final += _NEVER * np.float32(full) + _NEVER * np.float32(not improvable)
        # Those behind the first are there to go on from only.
        ending_now = ended & (np.arange(len(values)) < beams)
        final += _NEVER * ~ending_now
        found.add(candidates, final, ending_now)

        scores, chosen = _best(np.where(ended, values + _NEVER, values), beams)
        running = [candidates[position] for position in chosen]
        hoped = limit if rules.early_stopping == "never" and rules.length_penalty > 0 else new
        possible = scores[0] / np.float32(hoped**rules.length_penalty)
        improvable = improvable and bool((possible > np.where(found.ended, found.scores.min(), _NEVER)).any())
        if not improvable or (found.ended.all() and rules.early_stopping is True) or ended.all():
            break
        ending.look()
        batch.select(origins[chosen])
        graph.advance(batch, tokens[chosen])
    return found.answers[0]


class _Found:
    """The answers that ended, best first."""

    def __init__(self, beams: int) -> None:
        self.answers: list[list[int]] = [[] for _ in range(beams)]
        self.scores = np.full(beams, _NEVER, dtype=np.float32)
        self.ended = np.zeros(beams, dtype=bool)

    def add(self, answers: list[list[int]], scores: Scores, ended: npt.NDArray[np.bool_]) -> None:
        """Keep the best of those that were there and these."""
        everything = [*self.answers, *answers]
        self.scores, chosen = _best(np.concatenate([self.scores, scores]), len(self.answers))
        self.ended = np.concatenate([self.ended, ended])[chosen]
        self.answers = [everything[position] for position in chosen]


def _best(values: Scores, count: int) -> tuple[Scores, npt.NDArray[np.int64]]:
    """The greatest values, greatest first, and where they are."""
    count = min(count, len(values))
    some = np.argpartition(-values, count - 1)[:count] if count < len(values) else np.arange(len(values))
    order = some[np.lexsort((some, -values[some]))]
    return values[order], order


def _log_softmax(logits: Scores) -> Scores:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum(dtype=np.float32)), dtype=np.float32)
