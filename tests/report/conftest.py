"""Decisions to present: the evidence that the tests of the gate make."""

from tests.gate.conftest import make  # noqa: F401  (fixture)
