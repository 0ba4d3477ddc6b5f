"""The classifier that a service calls: texts in, ranked labels out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, overload

import numpy as np
import numpy.typing as npt

from retrainer.errors import IntegrityError, UserError
from retrainer.serve.cache import ModelCache
from retrainer.serve.loading import AUTO, load_checked
from retrainer.serve.predictor import Predictor
from retrainer.serve.texts import Text, checked, is_single
from retrainer.store.manifest import Manifest
from retrainer.store.names import MANIFEST

UNPUBLISHED = "unpublished"


class Prediction(TypedDict):
    """One label with its probability."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class _Served:
    """A version that answers. A call works on one of these from its start to its end.

    :param manifest: ``None`` for a bundle that was never published.
    """

    version: str
    manifest: Manifest | None
    predictor: Predictor


class Classifier:
    """A published text classifier. Calls from several threads are safe.

    Made by ``from_store`` or ``from_folder``.
    """

    def __init__(self, served: _Served) -> None:
        self._served = served

    @classmethod
    def from_store(
        cls,
        url: str | Path,
        model: str,
        *,
        channel: str = "production",
        version: str | None = None,
        precision: str = AUTO,
        cache_dir: str | Path | None = None,
        threads: int | None = None,
    ) -> Self:
        """Load what a channel of a store points at, through a verified local cache.

        Where the store cannot be reached, the version is loaded that the channel pointed at when it was last
        loaded here, and a warning is logged.

        :param url: ``s3://bucket/prefix``, ``file:///folder`` or a path.
        :param version: that one, whatever the channel points at.
        :param precision: ``fp32``, ``int8``, or ``auto``: int8 where its golden rows agree on this CPU.
        :param cache_dir: ``$RETRAINER_CACHE/models``, else ``~/.cache/retrainer/models``, when ``None``.
        :param threads: threads of one call; the usable cores when ``None``.
        :raises NotFoundError: no such model, channel or version.
        :raises IntegrityError: a file was altered, or the model does not answer as where it was made.
        :raises StorageError: the store cannot be reached, and nothing is in the cache.
        """
        cache = ModelCache(url, model, Path(cache_dir) if cache_dir is not None else None)
        cached = cache.version(version) if version is not None else cache.champion(channel)
        predictor = load_checked(cached.folder, precision=precision, threads=threads)
        cache.remember(cached)
        return cls(_Served(cached.manifest.version, cached.manifest, predictor))

    @classmethod
    def from_folder(cls, folder: str | Path, *, precision: str = AUTO, threads: int | None = None) -> Self:
        """Load a bundle from a folder: one that was just exported, or a version that was fetched.

        :raises IntegrityError: a file is missing or damaged, or the model does not answer as where it was made.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder / MANIFEST)
        predictor = load_checked(folder, precision=precision, threads=threads)
        return cls(_Served(manifest.version if manifest else UNPUBLISHED, manifest, predictor))

    @property
    def version(self) -> str:
        """The version that answers; ``unpublished`` for a bundle without a manifest."""
        return self._served.version

    @property
    def manifest(self) -> Manifest | None:
        """What was published; ``None`` for a bundle without a manifest."""
        return self._served.manifest

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels."""
        return self._served.predictor.info.labels

    @property
    def task(self) -> str:
        """``text-classification`` or ``text-pair-classification``."""
        return self._served.predictor.info.task

    @property
    def precision(self) -> str:
        """Of the graph that answers."""
        return self._served.predictor.precision

    @overload
    def __call__(self, texts: Text, *, top_k: int | None = 1) -> list[Prediction]: ...

    @overload
    def __call__(self, texts: list[str] | list[tuple[str, str]], *, top_k: Literal[1] = 1) -> list[Prediction]: ...

    @overload
    def __call__(
        self, texts: list[str] | list[tuple[str, str]], *, top_k: int | None
    ) -> list[list[Prediction]] | list[Prediction]: ...

    def __call__(
        self, texts: Text | Iterable[Any], *, top_k: int | None = 1
    ) -> list[Prediction] | list[list[Prediction]]:
        """The best labels of one text, or of each of many.

        :param texts: a ``str``, a pair ``(first, second)`` where the model reads pairs, or a list of either.
        :param top_k: how many labels of each text, best first; ``None`` for all.
        :return: for one text, its labels. For a list, in its order: one label each while ``top_k`` is 1, else a
            list of labels each.
        :raises DataError: a text is not what the model reads.
        """
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise UserError(f"top_k must be at least 1, or None for all labels; got {top_k!r}")
        served = self._served
        single = is_single(texts)
        rows = checked([texts] if single else texts, served.predictor.info.task)
        ranked = _ranked(served.predictor.probabilities(rows), served.predictor.info.labels, top_k)
        if single:
            return ranked[0]
        return [labels[0] for labels in ranked] if top_k == 1 else ranked


def _ranked(
    probabilities: npt.NDArray[np.float64], labels: tuple[str, ...], top_k: int | None
) -> list[list[Prediction]]:
    # Stable: of labels that stand level, the first in the model's order comes first.
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [
        [Prediction(label=labels[index], score=float(row[index])) for index in best]
        for row, best in zip(probabilities, order, strict=True)
    ]


def _read_manifest(path: Path) -> Manifest | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IntegrityError(f"the manifest cannot be read: {error.strerror}", where=str(path)) from None
    return Manifest.from_json(data, where=str(path))
