"""The pages in a real browser: by mouse and keyboard, wide and narrow, light and dark, and within a frame."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from benchmarks.deployment import Deployment, FolderHost, dag_id_of, runs_of
from retrainer.chain.trial import Score, Trial, Tried
from retrainer.console.app import console_app
from retrainer.console.host import Everybody, Question, RunSeen, TaskSeen
from tests.console.browser import CHROMIUM, Page, browser

pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")]

# Airflow's page around the console, as far as the console sees it.
AROUND = """<!DOCTYPE html><html class="{theme}"><body><iframe id="frame" style="width:100%;height:800px"
sandbox="allow-scripts allow-same-origin allow-forms allow-downloads" src="retrainer/model?name=ag-news"></iframe>"""


class Answering:
    """Who answers texts on trial."""

    def ask(self, trial: Trial) -> Tried:
        scores = (Score(label="open", score=0.8), Score(label="closed", score=0.2))
        return Tried(version=trial.version, precision="int8", scores=scores, loading_seconds=1.0, seconds=0.01)


def everybody() -> Everybody:
    return Everybody()


def host_of(made: Deployment) -> FolderHost:
    """One run that trains, one that waits for an approval."""
    host = FolderHost(made, runs_of(made))
    host.answers = Answering()
    began = made.now - timedelta(hours=1)
    progress = {"text": "training: step 812/1,875, 31 min 05 s left, loss 0.2113", "done": 812, "total": 1875}
    trains = TaskSeen("train", "train", "running", tries=2, began=began, kept={"progress": progress})
    asks = TaskSeen("approval", "approval", "awaiting_input", tries=1, began=began)
    question = Question(dag_id_of("ag-news"), "waits", "approval", "Publish ag-news?", began, people=("ada",))
    host.asked = [question]
    host.seen = {
        "trains": RunSeen(dag_id_of("ag-news"), "trains", "running", began=began, tasks=(trains,)),
        "waits": RunSeen(question.dag_id, "waits", "running", began=began, tasks=(asks,), questions=(question,)),
    }
    return host


@pytest.fixture(scope="module")
def address(made: Deployment) -> Iterator[str]:
    """Where the console answers, mounted as Airflow mounts it, at the time of the deployment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retrainer.console.app._now", lambda: made.now)
        yield from _served(made)


def _served(made: Deployment) -> Iterator[str]:
    app = FastAPI()
    app.mount("/retrainer", console_app(host_of(made), everybody))

    @app.get("/around/{theme}")
    def around(theme: str) -> HTMLResponse:
        return HTMLResponse(AROUND.format(theme=theme).replace('src="', 'src="/'))

    @app.get("/dags/{dag_id}")
    def dag(dag_id: str) -> HTMLResponse:
        return HTMLResponse(f"<title>{dag_id}</title>")

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_cut_off_and_nothing_fails(
    page: Page, address: str, made: Deployment, width: int, theme: str, tmp_path: Path
) -> None:
    page.size(width, theme=theme)  # type: ignore[arg-type]
    page.errors.clear()
    page.go(f"{address}/retrainer/model?name=support-tickets")
    decision = page.run("document.querySelector('#decisions ~ div a').href")
    pages = (
        "",
        "model?name=ag-news&on=2026-11-20",
        "approvals",
        "move?name=trail-status",
        "try?name=ag-news",
        "run?dag_id=retrain__ag_news&run_id=trains",
        "run?dag_id=retrain__ag_news&run_id=waits",
        "compare?name=support-tickets",
        "data?name=film-reviews",
    )
    for url in (*(f"{address}/retrainer/{name}" for name in pages), decision):
        page.go(url)
        if "compare" in url:  # looks again while they are being compared; the page of a run that goes on always does
            page.wait_for("!document.querySelector('meta[http-equiv]')")
        assert page.run("document.documentElement.scrollWidth") <= width, url
        dark = page.run("getComputedStyle(document.body).backgroundColor")
        assert dark == ("rgb(247, 248, 250)" if theme == "light" else "rgb(15, 19, 24)")
        page.picture(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 10_000
    assert page.errors == []


def test_by_mouse_from_the_list_to_why_it_was_refused(page: Page, address: str) -> None:
    page.size(1400)
    page.go(f"{address}/retrainer/")
    page.click("tr.warn a[href*=support-tickets]")
    page.wait_for("document.querySelector('h1')?.textContent == 'support-tickets'")
    page.click("svg.plot a.mark.refused")
    page.wait_for("document.querySelector('.verdict h2')?.textContent.trim() == 'Refuse'")
    page.click(".crumbs a")
    page.wait_for("document.querySelector('h1')?.textContent == 'Models'")


def test_by_keyboard_to_a_model_and_who_was_live(page: Page, address: str) -> None:
    page.size(1400)
    page.go(f"{address}/retrainer/")
    page.press("Tab")  # the link that skips to the content
    page.press("Tab")
    page.type("trail")
    page.press("Enter")
    page.wait_for("location.search == '?q=trail' && document.readyState == 'complete'")
    for _ in range(4):  # past the link to what waits
        page.press("Tab")
    assert page.run("document.activeElement.textContent") == "trail-status"
    page.press("Enter")
    page.wait_for("document.querySelector('h1')?.textContent == 'trail-status'")
    page.run("document.querySelector('input[type=date]').value = '2026-11-26'")
    page.run("document.querySelector('.day button').focus()")
    page.press("Enter")
    page.wait_for("document.querySelector('.answer')?.textContent.includes('by a rollback of linus')")


def test_by_mouse_from_a_decision_to_what_differs(page: Page, address: str) -> None:
    page.size(1400)
    page.go(f"{address}/retrainer/model?name=support-tickets")
    page.click("svg.plot a.mark.refused")
    page.wait_for("document.querySelector('.verdict h2')")
    page.click("nav a[href^=compare]")
    page.wait_for("document.querySelector('#differing')")
    assert page.run("document.querySelector('.lead h2').textContent").startswith("B is better: accuracy differs by -")
    page.click("#differing ~ nav a[href*='rows=a&']")
    page.wait_for("location.search.includes('rows=a') && document.readyState == 'complete'")
    assert "There is none of this kind." in page.run("document.querySelector('.differing').textContent")
    page.click("form.pick a")  # swap them
    page.wait_for("document.querySelector('.lead h2')?.textContent.startsWith('A is better: accuracy differs by +')")


def test_by_keyboard_to_another_version_and_to_its_data(page: Page, address: str) -> None:
    page.size(1400)
    page.go(f"{address}/retrainer/compare?name=ag-news")
    page.wait_for("document.querySelector('#differing')")
    page.run("const s = document.querySelector('select[name=b]'); s.selectedIndex = s.options.length - 1; s.focus()")
    oldest = page.run("document.querySelector('select[name=b]').value")
    page.press("Tab")
    page.press("Enter")
    page.wait_for(f"location.search.includes('b={oldest}') && document.readyState == 'complete'")
    page.wait_for("document.querySelector('#made')")
    page.run("document.querySelector('nav a[href^=data]').focus()")
    page.press("Enter")
    page.wait_for("document.querySelector('h1')?.textContent == 'Data'")
    page.click("table.snapshots tbody tr:last-child th a")
    page.wait_for("location.search.includes('snapshot=') && document.querySelector('tr.here:last-child')")


def test_by_mouse_to_what_waits(page: Page, address: str) -> None:
    page.size(1400)
    page.go(f"{address}/retrainer/")
    page.click("a.waits")
    page.wait_for("document.querySelector('h1')?.textContent == 'Approvals'")
    page.click(".ways a[href^=run]")
    page.wait_for("document.querySelector('#what')?.textContent.includes('waits for an approval')")
    assert page.run("document.querySelector('a.main').pathname").endswith("/tasks/approval/required_actions")


def test_by_keyboard_a_channel_is_rolled_back(page: Page, address: str) -> None:
    page.size(1400)
    page.errors.clear()
    page.go(f"{address}/retrainer/model?name=trail-status&theme=dark")
    page.run("document.querySelector('form.move select[name=version]').focus()")
    page.press("Tab")
    page.press("ArrowDown")
    page.press("Tab")
    page.press("Tab")  # to the button, without having said why
    page.press("Enter")
    assert page.run("document.querySelector('h1').textContent") == "trail-status"  # the browser asks for it
    page.run("document.querySelector('form.move textarea').focus()")
    page.type("says OPEN after rain")
    page.press("Tab")
    page.press("Enter")
    page.wait_for("location.pathname == '/retrainer/run' && document.readyState == 'complete'")
    assert "production of trail-status is being rolled back" in page.run("document.querySelector('#what').textContent")
    assert page.run("document.documentElement.dataset.theme") == "dark"
    assert page.errors == []


def test_by_mouse_a_text_is_tried(page: Page, address: str) -> None:
    page.size(1400)
    page.go(f"{address}/retrainer/model?name=trail-status")
    page.click("a[href='#try']")
    page.click("form[action^=try] textarea")
    page.type("Trail 7 is open")
    page.click("form[action^=try] button")
    page.wait_for("document.querySelector('.scores .first')?.textContent.includes('80.0 %')")
    assert page.run("document.querySelector('textarea').value") == "Trail 7 is open"
    assert "Trail" not in page.run("location.href")


@pytest.mark.parametrize(("around", "system"), [("dark", "light"), ("light", "dark")])
def test_within_a_frame_it_takes_the_theme_around(page: Page, address: str, around: str, system: str) -> None:
    page.size(1400, theme=system)  # type: ignore[arg-type]
    page.go(f"{address}/around/{around}")
    inside = "document.getElementById('frame').contentDocument.documentElement"
    page.wait_for(f"{inside}.dataset.theme == '{around}'")
    page.run(f"document.documentElement.className = '{system}'")  # somebody switches
    page.wait_for(f"{inside}.dataset.theme == '{system}'")


def test_links_to_airflow_leave_the_frame(page: Page, address: str) -> None:
    page.size(1400)
    page.go(f"{address}/around/light")
    page.wait_for("document.getElementById('frame').contentDocument.querySelector('.lead a.out')")
    page.run("document.getElementById('frame').contentDocument.querySelector('.lead a.out').click()")
    page.wait_for("location.pathname == '/dags/retrain__ag_news'")


def test_a_line_is_copied(page: Page, address: str) -> None:
    page.go(f"{address}/retrainer/model?name=ag-news")
    page.click("button.copy")
    page.wait_for("document.querySelector('button.copy').textContent != 'Copy'")
