"""A real browser for tests: headless Chromium, spoken to over a pipe as its own developer tools do."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


@dataclass
class Page:
    """A page that is open, what it asked of the network, and what went wrong in it."""

    browser: Browser
    session: str
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.send(method, self.session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page; a promise is waited for."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"{expression} did not come true; {self.problems}"
            time.sleep(0.03)

    def prefer(self, scheme: str) -> None:
        """Have the reader prefer a dark or a light colour scheme."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        answer = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))


class Browser:
    """Chromium, with commands and events as JSON over two pipes."""

    def __init__(self, to: int, from_: int) -> None:
        self._to, self._from, self._count, self._rest = to, from_, 0, b""
        self._pages: dict[str, Page] = {}

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._from, 1 << 20)
            assert piece, "the browser has gone"
            self._rest += piece
        text, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(text))

    def _note(self, event: dict[str, Any]) -> None:
        page = self._pages.get(event.get("sessionId", ""))
        if page is None:
            return
        parameters = event["params"]
        if event["method"] == "Network.requestWillBeSent":
            page.requests.append(parameters["request"]["url"])
        if event["method"] == "Runtime.exceptionThrown":
            page.problems.append(json.dumps(parameters["exceptionDetails"])[:500])
        if event["method"] == "Log.entryAdded":
            page.problems.append(parameters["entry"]["text"])
        if event["method"] == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            page.problems.append(json.dumps(parameters["args"])[:500])

    def open(
        self,
        path: Path,
        *,
        width: int,
        scheme: str = "light",
        touch: bool = False,
        script: bool = True,
    ) -> Page:
        """Open a file in a window of a size, on a screen that is touched or pointed at."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        self._pages[page.session] = page
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.send(f"{domain}.enable")
        page.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=touch)
        page.send("Emulation.setTouchEmulationEnabled", enabled=touch)
        page.send("Emulation.setScriptExecutionDisabled", value=not script)
        page.prefer(scheme)
        page.send("Page.navigate", url=path.as_uri())
        return page


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """Start Chromium with an empty profile in a folder; stop it at the end."""
    assert CHROMIUM
    (its_in, to), (from_, its_out) = os.pipe(), os.pipe()
    # Out of the way of 3 and 4, from and to which it reads and writes.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (its_in, its_out)]

    def arrange() -> None:
        os.dup2(ends[0], 3)
        os.dup2(ends[1], 4)

    process = subprocess.Popen(
        [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}"],
        pass_fds=(3, 4),
        preexec_fn=arrange,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (its_in, its_out, *ends):
        os.close(end)
    browser = Browser(to, from_)
    try:
        yield browser
        browser.send("Browser.close")
    finally:
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to)
        os.close(from_)
