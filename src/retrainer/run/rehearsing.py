"""Have a pipeline rehearsed in a process of its own, for whoever must not load its libraries.

Not here: the rehearsal itself (``work/rehearsal.py``).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from retrainer.chain.messages import Failed, parse_message
from retrainer.run.interpreters import THREADS
from retrainer.spec.model import Pipeline


def rehearsed(pipeline: Pipeline, *, seconds: float) -> bool:
    """Whether datasets and transformers could be asked within that time.

    :raises RetrainerError: a split does not exist, or transformers refuses an argument.
    """
    with tempfile.TemporaryDirectory(prefix="retrainer-") as folder:
        messages = Path(folder, "messages.jsonl")
        messages.touch()
        environment = {**os.environ, **THREADS, "RETRAINER_MESSAGES": str(messages)}
        if not pipeline.resources.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        try:
            done = subprocess.run(
                [sys.executable, "-m", "retrainer.work.rehearsal"],
                input=pipeline.to_json(),
                env=environment,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        for line in messages.read_bytes().splitlines():
            message = parse_message(line)
            if isinstance(message, Failed):
                raise message.as_error()
    return done.returncode == 0
