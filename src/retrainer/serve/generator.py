"""The generator that a service calls: texts in, texts out, always from the version that its channel names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, overload

from retrainer.serve.generation import Generated, GenerationSettings
from retrainer.serve.loading import Answers
from retrainer.serve.model_client import ModelClient
from retrainer.serve.texts import is_single

_DEFAULT = GenerationSettings()


@dataclass(frozen=True, slots=True)
class GeneratedResponse:
    """The answers to one call, all of one version.

    :ivar precision: of the graph that answered.
    :ivar answers: to each text, in the order of the texts.
    """

    version: str
    precision: str
    answers: tuple[Generated, ...]


class Generator(ModelClient):
    """A published model that writes text. Calls from several threads are safe, and go on while a new version takes
    over.

    Made by ``from_store`` or ``from_folder``. A call is answered by one version from its start to its end.
    """

    answers_with: ClassVar[Answers] = "text"
    called: ClassVar[str] = "generator"

    @overload
    def __call__(self, texts: str, settings: GenerationSettings = ...) -> str: ...

    @overload
    def __call__(self, texts: list[str], settings: GenerationSettings = ...) -> list[str]: ...

    def __call__(self, texts: str | Iterable[Any], settings: GenerationSettings = _DEFAULT) -> str | list[str]:
        """What the model answers to one text, or to each of many.

        :param settings: how an answer is chosen; the most likely token each time where none are given.
        :return: for one text its answer, for a list a list in its order.
        :raises DataError: a text is not what the model reads.
        :raises UserError: the settings ask for longer answers than the model gives.
        """
        single = is_single(texts)
        answers = [answer.text for answer in self._current().generate([texts] if single else texts, settings)]
        return answers[0] if single else answers

    def respond(self, texts: Iterable[Any], settings: GenerationSettings = _DEFAULT) -> GeneratedResponse:
        """What the model answers to each of many texts, with its tokens and the version that gave them.

        Errors as of a call.
        """
        served = self._current()
        answers = served.generate(texts, settings)
        return GeneratedResponse(served.version, served.predictor.precision, tuple(answers))

    def stream(self, text: str, settings: GenerationSettings = _DEFAULT) -> Iterator[str]:
        """What the model answers to one text, in pieces as they come. Together they are what a call gives.

        A character is never cut in two. One version answers to the end, also when another takes over meanwhile. Who
        stops reading stops the model.

        Errors as of a call, and:

        :raises UserError: beams are asked for: which of them is the answer is known at its end.
        """
        # Here and not in the loop below: what cannot be asked is said at once.
        pieces = self._current().stream(text, settings)
        return (piece for piece in pieces if isinstance(piece, str))
