"""The process that asks a version one text: a ``Trial`` on standard input, a ``TrialEnd`` on standard output.

``python -m retrainer.work.trial SECONDS``. It reads before it loads anything, so that whoever started it can set its
limits meanwhile, and ends by itself after so many seconds. Needs no more than ``airflow-retrainer[serve]``.
"""

from __future__ import annotations

import signal
import sys
import time

from retrainer.chain.messages import Failed
from retrainer.chain.trial import Score, Trial, TrialEnd, Tried
from retrainer.errors import ResourceError, RetrainerError
from retrainer.tasks import known_task


def main() -> None:
    """Answer once."""
    signal.alarm(int(sys.argv[1]))
    trial = Trial.from_json(sys.stdin.buffer.read(), where="standard input")
    try:
        end = TrialEnd(tried=tried(trial))
    except RetrainerError as error:
        end = TrialEnd(failed=Failed.of(error))
    except ImportError as error:
        wanted = ResourceError(
            f"{error.name} not installed, which answers need",
            where=sys.executable,
            hint="pip install 'airflow-retrainer[serve]' there, or name another interpreter with trainer_python",
        )
        end = TrialEnd(failed=Failed.of(wanted))
    except MemoryError:
        end = TrialEnd(failed=Failed.of(ResourceError("it takes more memory than a trial may")))
    sys.stdout.buffer.write(end.to_json())


def tried(trial: Trial) -> Tried:
    """Load the version as a client does, and ask it.

    :raises RetrainerError: it cannot be loaded, or the text is not what it reads.
    """
    from retrainer.serve import Classifier, Generator

    writes = known_task(trial.task, where=trial.model).answers_with == "text"
    kind: type[Classifier] | type[Generator] = Generator if writes else Classifier
    began = time.monotonic()
    # In the cache of this host a version is verified each time, and fetched once.
    client = kind.from_store(trial.store, trial.model, version=trial.version, threads=1, public_keys=trial.keys or None)
    loaded = time.monotonic()
    row = trial.text if trial.pair is None else (trial.text, trial.pair)
    scores: tuple[Score, ...] = ()
    written = None
    if isinstance(client, Generator):
        (answer,) = client.respond([row]).answers
        written = answer.text
    else:
        (ranked,) = client.respond([row], top_k=None).predictions
        scores = tuple(Score.from_content(one, where="the answer") for one in ranked)
    return Tried(
        version=client.version,
        precision=client.precision,
        scores=scores,
        written=written,
        loading_seconds=round(loaded - began, 3),
        seconds=round(time.monotonic() - loaded, 4),
    )


if __name__ == "__main__":
    main()
