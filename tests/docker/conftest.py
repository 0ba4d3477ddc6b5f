"""The exported bundle that a replayed image serves: the client's."""

from tests.serve.conftest import bundle

__all__ = ["bundle"]
