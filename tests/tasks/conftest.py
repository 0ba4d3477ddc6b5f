"""The bundle that the client's tests use."""

from tests.serve.conftest import bundle

__all__ = ["bundle"]
