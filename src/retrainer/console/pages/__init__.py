"""The templates of the pages, and what they are given to draw with. All that they show is escaped.

Not here: what is shown (``console/overview.py`` and its neighbours).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from retrainer import __version__
from retrainer.console import compare, data_drawn, decision, words
from retrainer.console.pages import plots
from retrainer.report.figures import megabytes, number
from retrainer.report.presentation import signed

# Name of a file beside this one to its kind.
ASSETS: Mapping[str, str] = {"style.css": "text/css; charset=utf-8", "console.js": "text/javascript; charset=utf-8"}
# What HTML forbids even when escaped.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def asset(name: str) -> tuple[str, str]:
    """Content and kind of a file that the pages load."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8"), ASSETS[name]


def rendered(template: str, *, theme: str | None, **values: Any) -> str:
    """A page.

    :param theme: ``light`` or ``dark`` where the address says so, which its links then say too.
    """

    def link(page: str, **query: Any) -> str:
        """A relative address with its query."""
        asked = {name: value for name, value in {**query, "theme": theme}.items() if value not in (None, "")}
        return f"{page}?{urlencode(asked)}" if asked else page

    text = (
        _environment()
        .get_template(template)
        .render(
            link=link,
            theme=theme,
            version=__version__,
            utc=datetime.now(UTC),
            plots=plots,
            decided=decision,
            comparing=compare,
            learnt=data_drawn,
            **values,
        )
    )
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("retrainer.console", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "short": words.short,
        "who": words.who,
        "number": number,
        "signed": signed,
        "megabytes": megabytes,
        "ago": lambda text, now: words.ago(words.moment(text), words.moment(now)),
        "time": lambda text: words.shown_time(words.moment(text)),
        "moment": words.shown_time,
        "ago_of": words.ago,
        "share": lambda value: f"{100 * value:.1f} %",
        "spaced": lambda text: str(text).replace("_", " "),
    }
    return environment
