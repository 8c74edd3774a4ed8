"""The page in a real browser, headless: nothing fails, nothing is loaded, mouse and keyboard work."""

import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from hwnas.report.data import ReportData
from hwnas.report.html import render
from tests.report.conftest import make_data
from tests.report.test_html import HOSTILE, hostile_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH to open the page in")

PAGE = "http://report.test/report.html"
# A page that acts is not loaded, and so not looked at, before WAIT is answered, which is after DONE.
WAIT, DONE = "http://report.test/wait.png", "http://report.test/done"
# What somebody does with mouse and keyboard, one step after the other, and what is seen then.
ACTIONS = """
const press = (element, key) => element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const seen = [];
const note = () => {
  const dialog = document.getElementById("dialog"), tip = document.getElementById("tip");
  seen.push({
    tip: tip.hidden ? null : tip.textContent,
    card: dialog.open ? dialog.querySelector("article").id : null,
    rings: document.querySelectorAll(".rings circle").length,
    cards: document.querySelectorAll("#cards > article").length,
  });
};
const look = async () => {
  await new Promise((done) => setTimeout(done, 50));
  note();
};
const told = () => new Promise((done) => { // a dialog says a little later that it is closed
  document.getElementById("dialog").addEventListener("close", done, { once: true });
});
const [front] = document.querySelectorAll("svg:has(a.mark)");
const models = front.querySelectorAll("a.mark");
models[0].focus(); await look();
press(models[0], "ArrowRight"); await look();
press(document.activeElement, "Enter"); await look();
press(document.getElementById("dialog"), "ArrowRight"); await look();
let closing = told();
document.getElementById("close").click(); await closing; note();
const other = front.querySelector("g.mark"), box = other.getBoundingClientRect();
const at = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true };
other.dispatchEvent(new PointerEvent("pointermove", at)); note(); // a late scroll would hide it again
front.dispatchEvent(new PointerEvent("pointerleave", { pointerType: "mouse" })); await look();
const link = document.querySelector("#budgets ~ .table a");
link.click(); await look();
closing = told();
document.getElementById("close").click(); link.click(); await closing; note(); // again, before it is told
const stops = [...models].filter((model) => model.tabIndex === 0).length;
document.title = JSON.stringify({ seen, stops, other: other.dataset.id });
"""


OWN = ("google.com", "googleapis.com", "gvt1.com")  # what Chromium itself asks when it starts


class Browser:
    """Chromium, whose every request goes to a proxy of this test, which knows the page and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.page = b""
        self.requests: list[str] = []
        self.complaints: list[str] = []  # lines of the console
        self.done = threading.Event()
        browser = self

        class Proxy(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                browser.note(self.path)
                if self.path == WAIT:
                    browser.done.wait(100)
                if self.path == DONE:
                    browser.done.set()
                self.send_response({PAGE: 200, WAIT: 204, DONE: 204}.get(self.path, 404))
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(browser.page if self.path == PAGE else b"")

            def do_CONNECT(self) -> None:
                browser.note(f"https://{self.path}")
                self.send_response(502)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def note(self, url: str) -> None:
        if not (urlsplit(url).hostname or "").endswith(OWN):
            self.requests.append(url)

    def act(self, html: str, actions: str) -> str:
        """The document as it is once the page has done what these statements of JavaScript say."""
        script = f"(async () => {{ try {{ {actions} }} finally {{ await fetch('{DONE}'); }} }})();"
        self.done.clear()
        return self._shown(html.replace("</body>", f"<img src='{WAIT}'><script>{script}</script></body>"))

    def open(self, html: str, fragment: str = "", *options: str) -> str:
        """The document as it is three seconds, of the page's own time, after the page is open."""
        return self._shown(html, fragment, "--virtual-time-budget=3000", *options)

    def _shown(self, html: str, fragment: str = "", *options: str) -> str:
        self.page = html.encode()
        self.requests.clear()
        assert CHROMIUM is not None
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
            "--no-first-run", f"--user-data-dir={self.folder}", *options,
            f"--proxy-server=http://127.0.0.1:{self.server.server_port}", PAGE + fragment,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
        self.complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_the_page_opens_without_complaint_and_asks_for_nothing(
    data: ReportData, html: str, browser: Browser
) -> None:
    key = data.budgets_ms[0.3]
    shown = browser.open(html, f"#model-{key}", "--window-size=390,844")
    assert (browser.requests, browser.complaints) == ([PAGE], [])
    assert '<html lang="en" class="js">' in shown
    for element in ("budgets", "front", "time", "common", "trust", "search", "run"):
        assert f'<h2 id="{element}">' in shown
    dialog = re.search(r'<dialog id="dialog"[^>]* open="">.*?</dialog>', shown, re.DOTALL)
    assert dialog is not None  # the card that the address names
    assert f'<article class="model" id="model-{key}">' in dialog[0]
    assert shown.count('<article class="model"') == len(data.models)


def test_mouse_and_keyboard(data: ReportData, html: str, browser: Browser) -> None:
    free = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)  # for the actions' sake
    shown = browser.act(free, ACTIONS)
    assert browser.complaints == []
    title = re.search("<title>(.*?)</title>", shown, re.DOTALL)
    assert title is not None
    found = json.loads(title[1].replace("&amp;", "&").replace("&lt;", "<"))
    assert found["stops"] == 1
    ids = [m["id"] for m in sorted(data.models, key=lambda m: m["measured"]["latency_ms"])]
    focused, moved, opened, next_one, closed, pointed, left, chosen, again = found["seen"]
    assert focused["tip"].startswith(ids[0])
    assert "resolution" in focused["tip"]
    assert focused["rings"] > 3  # in every figure
    assert moved["tip"].startswith(ids[1])
    assert (opened["card"], opened["cards"]) == (f"model-{ids[1]}", len(ids) - 1)
    assert (next_one["card"], next_one["cards"]) == (f"model-{ids[2]}", len(ids) - 1)
    assert (closed["card"], closed["cards"]) == (None, len(ids))
    assert pointed["tip"].startswith(found["other"])
    assert (left["tip"], left["rings"]) == (None, 0)
    assert chosen["card"] == again["card"] == f"model-{data.budgets_ms[0.2]}"


def test_hostile_names_open_too(browser: Browser) -> None:
    data = hostile_run(make_data(evaluations=30), HOSTILE)
    shown = browser.open(render(data), "#model-" + quote(HOSTILE))
    assert re.search(r'<dialog id="dialog"[^>]* open="">', shown)
    assert (browser.requests, browser.complaints) == ([PAGE], [])


def test_a_run_without_models(data: ReportData, browser: Browser) -> None:
    shown = browser.open(render(replace(data, models=[], budgets_ms={}, operators={}, knee=None)))
    assert "The search ended without a model." in shown
    assert browser.complaints == []


def test_a_request_or_a_failure_would_be_noticed(browser: Browser) -> None:
    browser.open("<!DOCTYPE html><title>x</title><img src='http://elsewhere.test/x.png'>")
    assert "http://elsewhere.test/x.png" in browser.requests
    browser.open("<!DOCTYPE html><title>x</title><script>nobody.knows()</script>")
    assert len(browser.complaints) == 1
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    browser.open(f"<!DOCTYPE html><title>x</title>{policy}<script>document.title = 'y'</script>")
    assert len(browser.complaints) == 1
