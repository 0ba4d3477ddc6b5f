"""A bundle folder to text: the one way in which a published model that writes text is run.

The client, the check of the export and the evaluation all use it, so what was checked is what is served. Not here: the
graphs (``generation_graphs.py``), which token comes next (``decoding.py``), where a bundle comes from (``cache.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrainer.errors import DataError, IntegrityError, UserError
from retrainer.precisions import PRECISIONS, REFERENCE
from retrainer.serve import forks
from retrainer.serve.batching import batches
from retrainer.serve.decoding import Choose, Ending, Sampler, Stop, decode, greedy, never, search
from retrainer.serve.encoding import TextEncoder, load_tokenizer
from retrainer.serve.engine import Brake
from retrainer.serve.generation_graphs import EncoderDecoderGraphs, open_graphs
from retrainer.serve.generation_rules import Rules
from retrainer.serve.pieces import Pieces, special_ids
from retrainer.serve.predictions import is_count
from retrainer.serve.predictor import load_info, precision_entry
from retrainer.serve.texts import Text, checked

MOST_BEAMS = 4
# Tokens of a batch, those that may yet come included: the past of them all is in memory, twice while it grows.
MAX_BATCH_TOKENS = 2048
# Rows that are tokenised and sorted together.
WINDOW_ROWS = 1024


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How an answer is chosen: the most likely token each time, unless beams or drawing are asked for.

    :ivar max_new_tokens: after which an answer ends; what the model was trained for when ``None``.
    :ivar beams: answers that are followed at the same time, from 1 to 4; the best of them is given.
    :ivar temperature: above 0; tokens are drawn, and the higher it is, the less likely ones the more often. Tokens are
        drawn, too, where only another of these is given.
    :ivar top_k: only so many of the most likely tokens are drawn from.
    :ivar top_p: only the most likely tokens that have that probability together are drawn from.
    :ivar seed: the same seed draws the same answer to a text; others each time when ``None``.
    :raises UserError: one of them makes no sense; says what may be given.
    """

    max_new_tokens: int | None = None
    beams: int = 1
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k"):
            value = getattr(self, name)
            if value is not None and not is_count(value):
                raise UserError(f"{name} must be a whole number from 1, or None; got {_shown(value)}")
        if not is_count(self.beams) or self.beams > MOST_BEAMS:
            raise UserError(f"beams must be a whole number from 1 to {MOST_BEAMS}; got {_shown(self.beams)}")
        if self.temperature is not None and not _is_number(self.temperature, sys.float_info.max):
            hint = "leave it out for the most likely answer" if self.temperature == 0 else None
            raise UserError(f"temperature must be a number above 0; got {_shown(self.temperature)}", hint=hint)
        if self.top_p is not None and not _is_number(self.top_p, 1.0):
            raise UserError(f"top_p must be a number above 0 and up to 1; got {_shown(self.top_p)}")
        if self.seed is not None and not is_count(self.seed, 0):
            raise UserError(f"seed must be a whole number from 0; got {_shown(self.seed)}")
        if self.drawn and self.beams > 1:
            raise UserError("beams look for the most likely answer, and do not draw", hint="give beams or the others")

    @property
    def drawn(self) -> bool:
        """Whether tokens are drawn."""
        return (self.temperature, self.top_k, self.top_p, self.seed) != (None, None, None, None)


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most


def _shown(value: Any) -> str:
    """A value in an error message; Python writes no numbers of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return "a number too long to write"


@dataclass(frozen=True, slots=True)
class Generated:
    """The answer to one text.

    :ivar text: without special tokens.
    :ivar tokens: their ids, the one that ended the answer included.
    :ivar truncated: whether the model read less than the whole text it was given.
    """

    text: str
    tokens: tuple[int, ...]
    truncated: bool


class GenerationPredictor:
    """A model of a bundle, ready to write. Calls from several threads are safe.

    :param folder: a bundle.
    :param precision: which of its graphs.
    :param threads: threads of one call; the usable cores when ``None``.
    :param brake: made with these threads; ends the loading and all calls.
    :raises IntegrityError: a file is missing or damaged, or files do not belong together.
    """

    def __init__(
        self, folder: Path, *, precision: str = REFERENCE, threads: int | None = None, brake: Brake | None = None
    ) -> None:
        self.folder = Path(folder)
        self.info = load_info(self.folder)
        self.precision = precision
        entry = precision_entry(self.info, precision, where=self.folder)
        if self.info.max_new_tokens is None:
            raise IntegrityError("bundle.json does not say how long answers may be", where=str(self.folder))
        self._longest = self.info.max_new_tokens
        self._tokenizer = load_tokenizer(self.folder, self.info.max_length)
        self._texts = TextEncoder(self._tokenizer, self.info.max_length)
        self._special = special_ids(self._tokenizer)
        self._rules = Rules.load(self.folder)
        self._graph = open_graphs(self.folder, self.info, entry, brake or Brake(threads))
        # Where the scale of the activations depends on what else is in the batch, rows are asked one by one: a text
        # must get the same answer alone and among others.
        self._alone = not PRECISIONS[precision].exact if precision in PRECISIONS else False
        self._generation = forks.generation()

    def generate(
        self,
        texts: Iterable[Any],
        settings: GenerationSettings = GenerationSettings(),
        *,
        stop: Stop = never,
        first: int = 0,
    ) -> list[Generated]:
        """The answer to each text, in the order of the texts. It does not depend on which texts are asked together.

        :param stop: looked at before each token; once it is true, nothing more is computed.
        :param first: position of the first text, for errors.
        :raises DataError: a text is not one, is not valid Unicode, or gives no token.
        :raises IntegrityError: a graph fails.
        :raises Stopped: ``stop`` was true.
        :raises UserError: the settings ask for longer answers than the model gives, or the process was forked since the
            model was loaded.
        """
        ending = self._ending(settings, stop)
        everything = self._checked(texts, first)
        answers: list[Generated] = []
        for start in range(0, len(everything), WINDOW_ROWS):
            window = everything[start : start + WINDOW_ROWS]
            encoded = self._encode(window, first + start)
            rows = [row.ids for row in encoded]
            if settings.beams > 1:
                found = [search(self._graph, row, self._begun_with(row), ending, settings.beams) for row in rows]
            else:
                found = self._decode(rows, ending, _chooser(rows, settings))
            answers += [
                self._answer(tokens, truncated=self._texts.is_cut(text, row))
                for text, row, tokens in zip(window, encoded, found, strict=True)
            ]
        return answers

    def stream(
        self,
        text: str,
        settings: GenerationSettings = GenerationSettings(),
        *,
        stop: Stop = never,
    ) -> Iterator[str | Generated]:
        """The answer to one text in pieces as they come, then the whole. Together the pieces are its text.

        A piece may be several tokens: characters are whole. Ended early, it computes nothing more.

        :param stop: as of ``generate``.

        Errors as of ``generate``, and:

        :raises UserError: beams are asked for: which of them is the answer is known at the end.
        """
        ending = self._ending(settings, stop)
        if settings.beams > 1:
            raise UserError("an answer of several beams is known at its end only", hint="leave beams at 1 to stream")
        (encoded,) = self._encode(self._checked([text]), 0)
        return self._pieces(text, encoded, ending, _chooser([encoded.ids], settings))

    def choose(
        self,
        texts: Sequence[str],
        choose: Choose,
        *,
        most: int | None = None,
        batch_size: int | None = None,
        cached: bool = True,
    ) -> list[list[int]]:
        """The token ids of each answer when somebody else chooses them; for measuring.

        :param choose: is given the position of a text and the scores of all tokens, and gives the next token.
        :param most: only the beginning of each answer, of so many tokens.
        :param batch_size: rows of a batch, whatever their length.
        :param cached: ``False`` reads all tokens anew each time.
        """
        ending = self._ending(GenerationSettings())
        rows = [row.ids for row in self._encode(self._checked(texts), 0)]
        return self._decode(rows, ending, choose, most=most, batch_size=batch_size, cached=cached)

    def name_of(self, token: int) -> str:
        """A token in the words of an error message."""
        return f"{token} ({self._tokenizer.id_to_token(token)!r})"

    def _checked(self, texts: Iterable[Any], first: int = 0) -> list[Text]:
        return checked(texts, self.info.task, first)

    def _ending(self, settings: Any, stop: Stop = never) -> Ending:
        if not isinstance(settings, GenerationSettings):
            raise UserError(
                f"settings must be GenerationSettings; got {_shown(settings)}",
                hint="give GenerationSettings(beams=4), or leave it out for the most likely answer",
            )
        if self._generation != forks.generation():
            raise UserError(
                "this model was loaded before the process was forked, and its threads are not here",
                where=str(self.folder),
                hint="load it after the fork, in each process",
            )
        limit = settings.max_new_tokens if settings.max_new_tokens is not None else self._longest
        if limit > self._longest:
            raise UserError(
                f"answers have up to {self._longest} tokens, and {_shown(limit)} are asked for",
                hint="max_new_tokens in the pipeline file says how long they may be",
            )
        return Ending(limit=limit, eos_token_ids=self.info.eos_token_ids, rules=self._rules, stop=stop)

    def _encode(self, texts: Sequence[Text], first: int) -> list[Any]:
        rows = self._texts.encode(texts, first)
        for position, row in enumerate(rows):
            if not row.ids:
                raise DataError(
                    "the text gives no token: there is nothing to continue", where=f"texts[{first + position}]"
                )
        return rows

    def _begun_with(self, row: Sequence[int]) -> Sequence[int]:
        """Tokens that the decoder is given: the text itself where there is no encoder."""
        return self._graph.start if isinstance(self._graph, EncoderDecoderGraphs) else row

    def _decode(
        self,
        rows: Sequence[Sequence[int]],
        ending: Ending,
        choose: Choose,
        *,
        most: int | None = None,
        batch_size: int | None = None,
        cached: bool = True,
    ) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in rows]
        lengths = [len(row) + ending.limit for row in rows]
        if self._alone:
            batch_size = 1
        for positions in batches(lengths, max_tokens=MAX_BATCH_TOKENS, batch_size=batch_size):
            some = [rows[position] for position in positions]

            def chosen(row: int, scores: Any, positions: Any = positions) -> int:
                return choose(int(positions[row]), scores)

            begun_with = [self._begun_with(row) for row in some]
            for row, token in decode(self._graph, some, begun_with, ending, chosen, most=most, cached=cached):
                found[positions[row]].append(token)
        return found

    def _pieces(self, text: str, encoded: Any, ending: Ending, choose: Choose) -> Iterator[str | Generated]:
        pieces = Pieces(self._tokenizer, self._special)
        tokens: list[int] = []
        given = ""
        for _, token in decode(self._graph, [encoded.ids], [self._begun_with(encoded.ids)], ending, choose):
            tokens.append(token)
            piece = pieces.add(token)
            if piece:
                given += piece
                yield piece
        answer = self._answer(tokens, truncated=self._texts.is_cut(text, encoded))
        if not answer.text.startswith(given):
            raise IntegrityError(
                "the tokenizer writes the answer otherwise than its pieces",
                where=str(self.folder),
                hint="ask for whole answers: this model's cannot be streamed",
            )
        if len(answer.text) > len(given):
            yield answer.text[len(given) :]
        yield answer

    def _answer(self, tokens: Sequence[int], *, truncated: bool) -> Generated:
        return Generated(self._tokenizer.decode(list(tokens), skip_special_tokens=True), tuple(tokens), truncated)


def _chooser(rows: Sequence[Sequence[int]], settings: GenerationSettings) -> Choose:
    if not settings.drawn:
        return greedy
    return Sampler(
        rows, seed=settings.seed, temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p
    )
