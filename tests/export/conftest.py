"""One exported tiny bundle for all tests of this folder."""

from __future__ import annotations

import pytest

from tests.export.bundles import Exported, export_of_texts


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A tiny bert with fp32 and int8. Read-only: tests that change it copy it."""
    return export_of_texts(tmp_path_factory)
