"""A version that answers. A call takes one of these and works on it from its start to its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from retrainer.serve.decoding import Stop, never
from retrainer.serve.generation import Generated, GenerationSettings
from retrainer.serve.predictions import Prediction, Response, TopK, check_top_k, ranked
from retrainer.serve.texts import checked
from retrainer.store.manifest import Manifest
from retrainer.store.move import Move


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Served:
    """A loaded version whose golden rows agreed. Freed when neither the client nor a call needs it any more.

    :param manifest: ``None`` for a bundle that was never published.
    :param predictor: of the model's task; its kind is the one that the client asks for, which loads no other.
    :param move: of the channel, that led to it; ``None`` where none did.
    :param hold: keeps the version in the cache for as long as this lives.
    """

    version: str
    manifest: Manifest | None
    predictor: Any
    move: Move | None
    loaded_at: datetime
    hold: object = None

    def answer(self, texts: Sequence[Any], top_k: TopK) -> list[list[Prediction]]:
        """The best labels of each text; the texts must be of the kind that the model reads."""
        predictor = self.predictor
        return ranked(predictor.probabilities(texts), predictor.info.labels, top_k, predictor.thresholds)

    def respond(self, texts: Iterable[Any], top_k: TopK) -> Response:
        """The same, with the version that gave them. The texts are checked.

        :raises DataError: a text is not what the model reads.
        :raises UserError: ``top_k`` makes no sense.
        """
        check_top_k(top_k)
        rows = checked(texts, self.predictor.info.task)
        return Response(self.version, self.predictor.precision, tuple(self.answer(rows, top_k)))

    def generate(
        self, texts: Iterable[Any], settings: GenerationSettings, *, stop: Stop = never, first: int = 0
    ) -> list[Generated]:
        """What a model that writes text answers to each. Parameters and errors as of ``GenerationPredictor``."""
        answers: list[Generated] = self.predictor.generate(texts, settings, stop=stop, first=first)
        return answers

    def stream(self, text: Any, settings: GenerationSettings, *, stop: Stop = never) -> Iterator[str | Generated]:
        """What it answers to one text, in pieces as they come, then the whole. Likewise."""
        pieces: Iterator[str | Generated] = self.predictor.stream(text, settings, stop=stop)
        return pieces
