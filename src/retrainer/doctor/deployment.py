"""What is examined: the pipelines, where artifacts go, how buckets are reached, which interpreter trains."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from retrainer.chain.model_store import check_keys
from retrainer.doctor.interpreter import Interpreter, ask_interpreter
from retrainer.errors import PipelineError, RetrainerError
from retrainer.spec import Pipeline, pipeline_files, try_pipeline
from retrainer.spec.publish import Publish
from retrainer.storage import S3Access, use_access
from retrainer.store import Signer


@dataclass(frozen=True)
class Deployment:
    """What runs are made of here.

    :param files: the pipeline files.
    :param problem: why there are none, where they were looked for.
    :param artifact_root: where the steps keep their outputs; ``None`` where that is not known here.
    :param python: the interpreter that trains.
    :param access: how buckets are reached, ``None`` for boto3's own chain; or why that is not known.
    :param reached_by: the same in words.
    :param signer: the key that a pipeline signs with. It is never shown.
    """

    files: tuple[Path, ...] = ()
    problem: PipelineError | None = None
    artifact_root: str | None = None
    python: str = sys.executable
    access: S3Access | RetrainerError | None = None
    reached_by: str = "what boto3 finds here"
    signer: Callable[[Publish], Signer | None] = field(default=check_keys)

    @cached_property
    def read(self) -> tuple[tuple[Path, Pipeline | PipelineError], ...]:
        """Each file with what it says, or what is wrong with it."""
        return tuple((file, try_pipeline(file)) for file in self.files)

    @cached_property
    def pipelines(self) -> tuple[Pipeline, ...]:
        """Those that can be read."""
        return tuple(content for _, content in self.read if isinstance(content, Pipeline))

    @cached_property
    def interpreter(self) -> Interpreter:
        """What the interpreter that trains says of itself.

        :raises ResourceError: it cannot be asked.
        """
        return ask_interpreter(self.python)

    def reaching_buckets(self) -> AbstractContextManager[None]:
        """Buckets are reached like that in the block.

        :raises RetrainerError: it is not known how.
        """
        if isinstance(self.access, RetrainerError):
            raise self.access
        return use_access(self.access)


def files_of(places: list[Path]) -> tuple[tuple[Path, ...], PipelineError | None]:
    """The pipeline files that files and folders are; and what is wrong where a folder is not there."""
    files: list[Path] = []
    try:
        for place in places:
            files += [place] if place.is_file() else pipeline_files(place)
    except PipelineError as error:
        return tuple(files), error
    return tuple(files), None
