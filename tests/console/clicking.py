"""Going through pages as a person does: real clicks on what can be seen, each counted, also within frames.

What is typed, chosen in a list or picked as a date is not a click; pressing the button of a form is one. Nothing here
opens an address but the first.
"""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path
from typing import Any

from PIL import Image

from tests.console.browser import Page

SECONDS = 90.0
WIDTH = 1400
HEIGHT = 1000
# Above what a picture shows.
MARGIN = 20

# Every document of the page that can be reached, with the frames that it lies in.
_DOCUMENTS = """
const documents = [];
(function gather(within, frames) {
  documents.push([within, frames]);
  for (const frame of within.querySelectorAll('iframe')) {
    if (frame.contentDocument?.body && frame.checkVisibility()) gather(frame.contentDocument, [...frames, frame]);
  }
})(document, []);
const origin = (frames) => frames.reduce(([x, y], frame) => {
  const b = frame.getBoundingClientRect();
  return [x + b.x + frame.clientLeft, y + b.y + frame.clientTop];
}, [0, 0]);
const plain = (text) => (text ?? '').replace(/\\s+/g, ' ').trim();
const line = (found) => found.closest('tr, li, section, form, [data-testid=dag-card]')?.textContent;
"""
# The first visible element of that name, and the middle of it in the window.
_FIND = """(() => {{ {documents}
  const [selector, name, row] = {wanted};
  for (const [within, frames] of documents) for (const found of within.querySelectorAll(selector)) {{
    const said = [found.getAttribute('aria-label'), found.getAttribute('title'), found.textContent];
    if (name !== null && !said.some((text) => text !== null && plain(text) === name)) continue;
    if (row !== null && !plain(line(found)).includes(row)) continue;
    if (!found.checkVisibility({{visibilityProperty: true, opacityProperty: true}})) continue;
    found.scrollIntoView({{block: 'center', behavior: 'instant'}});
    const b = found.getClientRects()[0], at = [b.x + b.width / 2, b.y + b.height / 2];
    const hit = within.elementFromPoint(...at);
    if (!hit || !found.contains(hit)) continue;
    if ({focus}) found.focus();
    const [x, y] = origin(frames);
    return [at[0] + x, at[1] + y, x + b.x, y + b.y, b.width, b.height];
  }}
  return null; }})()"""


class Visit:
    """One way through the pages, from where it begins.

    :ivar clicks: so far.
    """

    def __init__(self, page: Page, begin: str) -> None:
        self.page = page
        self.clicks = 0
        page.size(WIDTH, HEIGHT)
        page.go(begin)

    def click(self, name: str | None, selector: str = "a, button", *, row: str | None = None) -> None:
        """Press the mouse on the first visible element of that name: its label, its title or all of its text.

        :param name: ``None`` where the selector is enough.
        :param row: a text in the line of a table, the section or the form in which it stands.
        """
        x, y, *_ = self._find(selector, name, row)
        at = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.page.call("Input.dispatchMouseEvent", type="mousePressed", **at)
        self.page.call("Input.dispatchMouseEvent", type="mouseReleased", **at)
        self.clicks += 1

    def fill(self, selector: str, text: str, *, row: str | None = None) -> None:
        """Write into a field that can be seen, in place of what it holds."""
        self._find(selector, None, row, focus=True)
        for kind in ("keyDown", "keyUp"):
            self.page.call(
                "Input.dispatchKeyEvent", type=kind, key="a", code="KeyA", modifiers=2, commands=["selectAll"]
            )
        self.page.type(text)

    def choose(self, selector: str, value: str, *, row: str | None = None) -> None:
        """Choose in a list, or pick a date, as with the keyboard."""
        self._find(selector, None, row, focus=True)
        script = f"""(() => {{ {_DOCUMENTS}
          for (const [within] of documents) {{
            const field = within.activeElement;
            if (!field?.matches({json.dumps(selector)})) continue;
            field.value = {json.dumps(value)};
            for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {{bubbles: true}}));
            return field.value;
          }} return null; }})()"""
        assert self.page.run(script) == value, f"'{value}' cannot be chosen in {selector}"

    def shows(self, *texts: str, seconds: float = SECONDS) -> None:
        """Wait until all of these can be read on the page."""
        ends = time.monotonic() + seconds
        while missing := [text for text in texts if text not in self.text()]:
            assert time.monotonic() < ends, f"does not show {missing}, but:\n{self.text()}"
            time.sleep(0.2)

    def text(self) -> str:
        """What can be read on the page, frames included."""
        said = "documents.map(([one]) => plain(one.body?.innerText)).join(' | ')"
        return str(self.page.run(f"(() => {{ {_DOCUMENTS} return {said}; }})()"))

    def picture(self, file: Path, *, height: int, at: str | None = None) -> None:
        """A strip of the window, of that height: from its top, or from just above the first such element."""
        top = 0.0
        if at is not None:
            script = f"""(() => {{ {_DOCUMENTS}
              for (const [within, frames] of documents) {{
                const found = within.querySelector({json.dumps(at)});
                if (!found) continue;
                found.scrollIntoView({{block: 'start', behavior: 'instant'}});
                return origin(frames)[1] + found.getBoundingClientRect().y;
              }} return null; }})()"""
            top = min(max(0.0, self.page.run(script) - MARGIN), HEIGHT - height)
        time.sleep(0.5)  # what unfolds or fades in has done so
        clip = {"x": 0, "y": top, "width": WIDTH, "height": height, "scale": 1}
        shot = self.page.call("Page.captureScreenshot", format="png", clip=clip)
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
        drawn = image.quantize(256, Image.Quantize.MEDIANCUT, kmeans=3, dither=Image.Dither.NONE)
        drawn.save(file, optimize=True)

    def _find(self, selector: str, name: str | None, row: str | None, *, focus: bool = False) -> list[float]:
        """Where it is, once it has come to rest."""
        script = _FIND.format(
            documents=_DOCUMENTS,
            wanted=json.dumps([selector, name, row]),
            focus="true" if focus else "false",
        )
        ends, before = time.monotonic() + SECONDS, None
        while True:
            found: Any = self.page.run(script)
            if found is not None and found == before:
                return list(found)
            assert time.monotonic() < ends, f"no {selector} '{name}' in '{row}' can be seen in:\n{self.text()}"
            before = found
            time.sleep(0.15)
