"""``docs/refused.md`` has a section for each reason code, with its meaning in the code's own words, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from retrainer.gate.receipt import ReasonCode

PAGE = Path(__file__).resolve().parents[2] / "docs" / "refused.md"
SECTIONS = dict(re.findall(r"^### `(\w+)`\n\n(.+?)(?=\n##|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))


def test_every_reason_has_a_section_and_every_section_a_reason() -> None:
    assert set(SECTIONS) == {str(code) for code in ReasonCode}


@pytest.mark.parametrize("code", ReasonCode)
def test_a_section_says_what_the_code_means_and_then_what_to_do(code: ReasonCode) -> None:
    meaning, _, advice = SECTIONS[code].partition("\n\n")
    assert meaning == f"> {code.help}"
    assert len(advice.split()) > 5
