"""The exported bundles that are judged here: the client's."""

from tests.serve.conftest import bundle, pair_bundle

__all__ = ["bundle", "pair_bundle"]
