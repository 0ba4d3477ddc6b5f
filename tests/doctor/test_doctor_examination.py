"""What a check cannot cope with is a finding, and the checks after it are made all the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from retrainer.doctor.deployment import Deployment
from retrainer.doctor.examination import Examination, examine
from retrainer.doctor.findings import Check, Finding
from retrainer.errors import StorageError


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError(13, "Permission denied", "/closed/artifacts"), "Permission denied"),
        (ValueError("embedded null byte"), "embedded null byte"),
        (StorageError("does not answer", where="s3://models"), "s3://models: does not answer"),
    ],
)
def test_an_error_is_a_finding(error: Exception, said: str) -> None:
    def breaks(deployment: Deployment) -> Iterator[Finding]:
        yield Finding("ok", "the first", "is there")
        raise error

    def works(deployment: Deployment) -> Iterator[Finding]:
        yield Finding("ok", "the second", "is there")

    found = Examination.of(examine([Check("Disks", breaks), Check("Clock", works)], Deployment()))

    assert found.counts == {"ok": 2, "warning": 0, "broken": 1}
    broken = next(finding for _, finding in found.found if finding.state == "broken")
    assert broken.what == "disks"
    assert said in broken.text
