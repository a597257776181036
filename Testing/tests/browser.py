"""A real browser for tests: Chromium without a window, steered over a pair of pipes by the DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
#: The browser reads from descriptor 3 and writes to 4, whatever their numbers were here.
_LAUNCH = (
    "import fcntl, os, sys; a, b = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3]); "
    "os.dup2(a, 3); os.dup2(b, 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
_SECONDS = 60.0


def find_browser() -> str | None:
    """Where Chromium is; None without it."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A Chromium process; see :func:`browser`."""

    def __init__(self, program: str, profile: str) -> None:
        there, self._out = os.pipe()
        self._in, back = os.pipe()
        command = [sys.executable, "-c", _LAUNCH, str(there), str(back), program, *_FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            command, pass_fds=(there, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(there)
        os.close(back)
        self._number, self._answers, self._pages = 0, queue.Queue(), {}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        rest = b""
        with open(self._in, "rb", buffering=0) as stream:
            while True:
                part = stream.read(1 << 16)
                if not part:
                    self._answers.put(None)
                    return
                *messages, rest = (rest + part).split(b"\0")
                for message in map(json.loads, messages):
                    if "id" in message:
                        self._answers.put(message)
                    elif message.get("sessionId") in self._pages:
                        self._pages[message["sessionId"]].events.append(message)

    def ask(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Give a command and wait for what it gives."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._out, content) :]
        while True:
            answer = self._answers.get(timeout=_SECONDS)
            assert answer is not None, "the browser died"
            if answer["id"] == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def open(self, address: str, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        """A new page that has loaded."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.ask(f"{domain}.enable")
        page.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.ask("Emulation.setEmulatedMedia", features=[scheme])
        page.go(address)
        return page

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(Exception):
            self.ask("Browser.close")
        os.close(self._out)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Page:
    """One page; ``events`` is everything that happened on it."""

    def __init__(self, owner: Browser, session: str) -> None:
        self._owner, self._session = owner, session
        self.events: list[dict[str, Any]] = []

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol."""
        return self._owner.ask(method, self._session, **parameters)

    def go(self, address: str) -> None:
        """To another document, until it has loaded."""
        already = len(self.events)
        self.ask("Page.navigate", url=address)
        self.until(lambda: any(e["method"] == "Page.loadEventFired" for e in self.events[already:]), "loading")

    def close(self) -> None:
        """Close the page."""
        self.ask("Page.close")

    def until(self, condition: Callable[[], Any], what: str = "it") -> Any:
        """What the condition gives as soon as it is something."""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            time.sleep(0.005)
        raise AssertionError(f"{what} did not happen in time")

    def run(self, script: str) -> Any:
        """What a JavaScript expression, or promise of one, gives."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """A press of the mouse's left button in the middle of an element, as a person does it."""
        place = self.run(
            f"(function (e) {{ e.scrollIntoView({{block: 'center', inline: 'center'}}); "
            "var r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        at = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, **at)

    def press(self, key: str, text: str = "") -> None:
        """A key, such as ``Enter`` or ``ArrowRight``."""
        code = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.ask("Input.insertText", text=text)

    def complaints(self) -> list[str]:
        """Errors and warnings: of scripts, of the security policy, of files that are not there."""
        found = []
        for event in self.events:
            what = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(what["exceptionDetails"]))
            elif event["method"] == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
                found.append(str(what["args"]))
            elif event["method"] == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
                found.append(what["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """The addresses that were asked for, in order."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def screenshot(self, path: Path) -> None:
        """What is seen, as PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def pdf(self, path: Path) -> None:
        """What a printer gets."""
        answer = self.ask("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Chromium for the block.

    Raises
    ------
    FileNotFoundError
        Without it.
    """
    program = find_browser()
    if program is None:
        raise FileNotFoundError(f"no browser: none of {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        made = Browser(program, profile)
        try:
            yield made
        finally:
            made.close()
