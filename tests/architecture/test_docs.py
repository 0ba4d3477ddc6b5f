"""Links in README, CONTRIBUTING and ``docs/`` lead to files and headings that exist; README keeps to one sitting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, no punctuation, hyphens for spaces."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}#{anchor}"


def test_readme_is_at_most_200_lines() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= 200


def test_every_package_is_named_where_a_new_engineer_looks() -> None:
    packages = {path.parent.name for path in (REPOSITORY / "src" / "retrainer").glob("*/__init__.py")}
    for page in (REPOSITORY / "docs" / "life-of-a-retrain.md", REPOSITORY / "CONTRIBUTING.md"):
        named = set(re.findall(r"`(\w+)/?`", page.read_text()))
        assert packages <= named, page.name
