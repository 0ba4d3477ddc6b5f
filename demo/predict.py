"""``python -m demo.predict STORE MODEL``: what a service does with a published model, in a process of its own.

Loads the live version and answers ten status lines. Nothing of the training side is imported, and it says so.
"""

from __future__ import annotations

import sys
import time

TEXTS = (
    "Open! Grab your bike and enjoy the dry dirt.",
    "Closed until further notice, please stay off the mud.",
    "Not closed any more - the crew cleared the last tree this morning.",
    "Do not ride today, everything is soaked.",
    "Lower loop is rideable, upper loop reopens on Sunday.",
    "Still too wet. We will check again tomorrow.",
    "trails r opne, watch for leaves on the bridges",
    "Back open as of noon, thanks to the trail crew!",
    "The parking lot is open, the trail is not.",
    "Freeze-thaw conditions: everything shut after 10 am.",
)
FORBIDDEN = ("torch", "transformers", "datasets", "airflow")


def main(store: str, model: str) -> int:
    """Print ten answers, and what was needed for them."""
    started = time.perf_counter()
    from retrainer.serve import Classifier

    classifier = Classifier.from_store(store, model)
    ready = time.perf_counter()
    answers = classifier(list(TEXTS))
    seconds = time.perf_counter() - ready
    for text, answer in zip(TEXTS, answers, strict=True):
        print(f"  {answer['label']:>7} {answer['score']:6.1%}  {text}")  # noqa: T201
    loaded = [name for name in FORBIDDEN if name in sys.modules]
    print(f"  version {classifier.version}")  # noqa: T201
    print(  # noqa: T201
        f"  imported and loaded in {ready - started:.2f} s, ten answers in {1000 * seconds:.0f} ms; "
        f"torch, transformers or airflow loaded: {', '.join(loaded) or 'no'}"
    )
    return 1 if loaded else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
