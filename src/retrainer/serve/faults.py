"""What other people's code raises beside the errors that it documents.

A tokenizer or a graph that is no good can make its library raise anything: ``tokenizers`` raises bare ``Exception``,
and a panic of its Rust is a ``BaseException``, as its authors hold that nobody should catch it. A service has to: it
was handed a bad file, and has a good one to go on with.
"""

from __future__ import annotations

# Not errors: somebody ends a thread or the process.
ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)


def described(error: BaseException) -> str:
    """The class and the text of an error that is not of this package."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
