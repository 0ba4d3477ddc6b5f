"""The classifier that a service calls: texts in, ranked labels out, always from the version that its channel names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, overload

from retrainer.serve.loading import Answers
from retrainer.serve.model_client import ModelClient
from retrainer.serve.predictions import GIVEN, Given, Prediction, Response, TopK, check_top_k
from retrainer.serve.texts import Text, checked, is_single


class Classifier(ModelClient):
    """A published text classifier. Calls from several threads are safe, and go on while a new version takes over.

    Made by ``from_store`` or ``from_folder``. A call is answered by one version from its start to its end.
    """

    answers_with: ClassVar[Answers] = "label"
    called: ClassVar[str] = "classifier"

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels."""
        labels: tuple[str, ...] = self._current().predictor.info.labels
        return labels

    @overload
    def __call__(self, texts: Text, *, top_k: TopK = GIVEN) -> list[Prediction]: ...

    @overload
    def __call__(self, texts: list[str] | list[tuple[str, str]], *, top_k: Literal[1]) -> list[Prediction]: ...

    @overload
    def __call__(self, texts: list[str] | list[tuple[str, str]], *, top_k: Given = GIVEN) -> list[Any]: ...

    @overload
    def __call__(
        self, texts: list[str] | list[tuple[str, str]], *, top_k: int | None
    ) -> list[list[Prediction]] | list[Prediction]: ...

    def __call__(
        self, texts: Text | Iterable[Any], *, top_k: TopK = GIVEN
    ) -> list[Prediction] | list[list[Prediction]]:
        """The labels of one text, or of each of many.

        :param texts: a ``str``, a pair ``(first, second)`` where the model reads pairs, or a list of either.
        :param top_k: how many labels of each text, best first; ``None`` for all. By default what the model gives: the
            best label; or where a text has any number of labels, those that apply, which may be none.
        :return: for one text, its labels. For a list, in its order: one label each where ``top_k`` is 1, or the model
            gives one; else a list of labels each.
        :raises DataError: a text is not what the model reads.
        """
        check_top_k(top_k)
        served = self._current()
        single = is_single(texts)
        rows = checked([texts] if single else texts, served.predictor.info.task)
        ranked = served.answer(rows, top_k)
        if single:
            return ranked[0]
        one = top_k == 1 or (top_k == GIVEN and served.predictor.thresholds is None)
        return [labels[0] for labels in ranked] if one else ranked

    def respond(self, texts: Iterable[Any], *, top_k: TopK = None) -> Response:
        """The best labels of each of many texts, with the version that gave them.

        :param texts: each a ``str``, or each a pair ``(first, second)``.
        :param top_k: how many labels of each text, best first; ``None`` for all, ``"given"`` for what the model gives.
        :raises DataError: a text is not what the model reads.
        """
        return self.pinned().respond(texts, top_k)
