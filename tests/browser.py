"""A page as a real browser shows it: headless Chromium; with its driver where the page changes meanwhile."""

from __future__ import annotations

import html
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
needs_driver = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no chromedriver is installed")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")

FRAME = """<!DOCTYPE html><body>
<iframe id="page" style="width: {width}px; height: 800px; border: 0" srcdoc="{page}"></iframe>
<pre id="seen"></pre>
<script>
const frame = document.getElementById("page");
frame.addEventListener("load", () => {{
  const page = frame.contentDocument;
  const view = frame.contentWindow;
  const seen = (() => {{ {script} }})();
  document.getElementById("seen").textContent = JSON.stringify(seen);
}});
</script>"""


@dataclass(frozen=True)
class Shown:
    """What the browser made of a page."""

    seen: Any
    """What the script returned."""
    console: list[str]
    """Lines that the page wrote to the console, errors among them."""


def show(page: Path, folder: Path, script: str, width: int = 1200, dark: bool = False) -> Shown:
    """Open `page` in a frame of `width` pixels and run `script` in it, the body of a function.

    The script knows the document as `page` and its window as `view`.
    """
    frame = folder / "frame.html"
    source = html.escape(page.read_text(encoding="utf-8"))
    frame.write_text(FRAME.format(width=width, page=source, script=script), encoding="utf-8")
    dom, console = _run(frame, folder, dark)
    text = dom.partition('<pre id="seen">')[2].partition("</pre>")[0]
    return Shown(json.loads(html.unescape(text)), console)


def console_of(page: Path, folder: Path) -> list[str]:
    """What the page itself, opened from disk, writes to the console."""
    return _run(page, folder, dark=False)[1]


def _run(page: Path, folder: Path, dark: bool) -> tuple[str, list[str]]:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-extensions"]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--v=0"]
    command += ["--blink-settings=preferredColorScheme=0"] * dark
    command += ["--virtual-time-budget=2000", "--dump-dom", page.absolute().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@contextmanager
def opened(address: str) -> Iterator[Callable[[str], Any]]:
    """Within it, the page at `address` is open, and what is given runs in it the body of a function."""
    assert CHROMIUM is not None
    assert DRIVER is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def ask(method: str, path: str, **content: Any) -> Any:
        body = json.dumps(content).encode() if method == "POST" else None
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    with subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL) as driver:
        try:
            wait_until(lambda: _answers(port))
            options = {"binary": CHROMIUM, "args": ["--headless", "--no-sandbox", "--disable-gpu"]}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options}
            session = "/session/" + ask("POST", "/session", capabilities={"alwaysMatch": wanted})["sessionId"]
            try:
                ask("POST", f"{session}/url", url=address)
                yield lambda script: ask("POST", f"{session}/execute/sync", script=script, args=[])
            finally:
                ask("DELETE", session)
        finally:
            driver.terminate()


def wait_until(happens: Callable[[], Any], seconds: float = 240.0) -> Any:
    """What `happens` says as soon as it is something."""
    deadline = time.monotonic() + seconds
    while not (said := happens()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.2)
    return said


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
