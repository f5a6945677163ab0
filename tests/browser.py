"""A real browser for pages: Chromium without a window, driven by its DevTools protocol over two pipes."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def found_browser() -> str:
    """The program. Without one the test is skipped, but where ``KDHPC_REQUIRE_BROWSER=1`` says that it may not be."""
    program = next((found for found in map(shutil.which, _NAMES) if found), None)
    if program is None:
        said = "no browser: tools/fetch_chromium installs one"
        assert os.environ.get("KDHPC_REQUIRE_BROWSER") != "1", said
        pytest.skip(said)
    return program


class Browser:
    """One page of a browser that reaches no network."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._last = 0
        self._unread = b""
        self.events: list[dict[str, Any]] = []
        """What the browser told by itself, such as each request of the page."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def open(self, page: Path) -> None:
        """Load a page, and wait until it is there."""
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._read()

    def show(self, width: int, scheme: str) -> None:
        """Have a window so wide, by day (``light``) or night (``dark``)."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was opened."""
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """What stands in the browser's console."""
        logged = [event["params"]["entry"] for event in self.events if event["method"] == "Log.entryAdded"]
        return [entry["text"] for entry in logged]

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Ask the page for something."""
        return self._call(method, self._session, **parameters)

    def _call(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        self._last += 1
        message: dict[str, object] = {"id": self._last, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            part = os.read(self._receive, 1 << 20)
            assert part, "the browser has ended"
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        document: dict[str, Any] = json.loads(message)
        if "method" in document:
            self.events.append(document)
        return document


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start one, with an empty profile; it is ended at the end."""
    program = found_browser()
    its_input, send = os.pipe()
    receive, its_output = os.pipe()
    options = [
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={profile}", "--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND"),
    ]
    # The protocol's pipes are the file descriptors 3 and 4.
    shell = f'exec 3<&{its_input} 4>&{its_output}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", program, *options],
        pass_fds=(its_input, its_output),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_input)
    os.close(its_output)
    try:
        yield Browser(send, receive)
    finally:
        os.close(send)  # It ends when nobody can talk to it.
        os.close(receive)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
