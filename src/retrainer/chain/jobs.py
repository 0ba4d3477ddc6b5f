"""A step that an engine runs on another machine: what it is called, and where in the artifact root it is told of.

::

    <root>/.jobs/<name>/request.json            what is to be done; written before the engine is asked
                       /messages/<stream>/...   what the job says, in numbered objects that are written once
                       /ended.json              that it has ended without an artifact, and why

All that is known about a job lies there and in the artifact itself, so any process that can read the root can follow
it. Not here: who runs it (``run/engines/``), who follows it (``run/remote.py``), who says it (``run/agent.py``).
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from retrainer.chain.messages import Failed
from retrainer.errors import NotFoundError, PreconditionFailed
from retrainer.records import Record, digest_of
from retrainer.spec.resources import Resources
from retrainer.storage import Storage, join_url, open_storage

JOBS = ".jobs"
REQUEST = "request.json"
ENDED = "ended.json"
MESSAGES = "messages"

Phase = Literal["waiting", "running", "succeeded", "failed", "gone"]
"""What an engine says of a job. ``gone``: it knows none of that name."""


class JobEnd(Record):
    """``ended.json``: a job has ended without an artifact, and is not waited for any more.

    :param why: what the engine said.
    :param stopped: somebody wanted it to end.
    :param failure: the error that the job reported itself.
    """

    format_version: Literal[1] = 1
    phase: Phase
    why: str = ""
    stopped: bool = False
    failure: Failed | None = None


class Job(Record):
    """One try at a step on an engine.

    :param root: the artifact root, as the job reaches it.
    :param pipeline: whose step it is, for people who look at the engine.
    :param attempt: counts up when the job before is known to have ended without an artifact.
    :param resources: what it takes, and of which engine.
    :param environment: variables of its processes. No secrets: an engine shows them to whoever may look.
    """

    root: str
    step: str
    digest: str
    pipeline: str = ""
    attempt: int = Field(ge=1)
    resources: Resources
    environment: dict[str, str] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in the engine, valid as a DNS label.

        The same for everybody who wants this step: an engine that is asked twice has one job. Two roots may share an
        engine and have the same requests, so the root is part of it.
        """
        identity = digest_of({"root": self.root.rstrip("/"), "step": self.step, "digest": self.digest})
        return f"retrainer-{re.sub('[^a-z0-9]', '-', self.step)}-{identity[:16]}-{self.attempt}"

    @property
    def folder(self) -> str:
        """Its folder, as ``open_storage`` takes it."""
        return join_url(self.root, JOBS, self.name)

    @property
    def storage(self) -> Storage:
        """The objects of its folder."""
        return open_storage(self.folder)

    def command(self, python: str = "python") -> list[str]:
        """What the engine runs on each of its hosts.

        :param python: interpreter there that has the training libraries.
        """
        return [python, "-m", "retrainer.run.agent", self.folder]

    def end(self) -> JobEnd | None:
        """How it ended without an artifact; ``None`` while that is not known."""
        try:
            return JobEnd.from_json(self.storage.read(ENDED), where=self.storage.where(ENDED))
        except NotFoundError:
            return None

    def note_end(self, end: JobEnd) -> JobEnd:
        """Note how it ended, unless somebody has; what stands there in the end."""
        try:
            self.storage.write(ENDED, end.to_json(), if_absent=True)
        except PreconditionFailed:
            return self.end() or end
        return end
