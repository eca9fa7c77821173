"""A headless Chromium, driven over its DevTools protocol: open a page, wait, read, take a picture.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
_SECONDS = 90.0


class Page:
    """One tab of the browser."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self.call("Page.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; events meanwhile are dropped."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=_SECONDS))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, address: str, *, until: str, width: int = 1280, height: int = 900) -> str:
        """Open an address in a window of so many pixels; return its text once it holds `until`."""
        self.resize(width, height)
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=address)
        return self.wait(until)

    def resize(self, width: int, height: int) -> None:
        """Give the window a size in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    @property
    def text(self) -> str:
        """Return the text that the page shows."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def wait(self, until: str) -> str:
        """Return the page's text once it holds `until`."""
        deadline = time.monotonic() + _SECONDS
        while until not in self.text:
            assert time.monotonic() < deadline, f"no {until!r} in:\n{self.text[:3000]}"
            time.sleep(0.2)
        return self.text

    def click(self, text: str) -> None:
        """Click the innermost element that shows just this text."""
        found = self.run(
            "(() => { const all = [...document.querySelectorAll('body *')].filter(one => "
            f"one.innerText && one.innerText.trim() === {json.dumps(text)}); "
            "if (all.length) all.at(-1).click(); return all.length })()"
        )
        assert found, f"nothing says {text!r} in:\n{self.text[:3000]}"

    def picture(self, path: Path, *, height: int | None = None) -> None:
        """Write what the window shows as a PNG; `height` cuts it from the top."""
        clip = {}
        if height is not None:
            width = self.run("innerWidth")
            clip = {"clip": {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}}
        found = self.call("Page.captureScreenshot", format="png", **clip)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Start a browser with a profile of its own in a folder; end it with the block."""
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-dev-shm-usage", "--remote-debugging-port=0", f"--user-data-dir={folder}",
         "--remote-allow-origins=*", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with connect(_address(folder), max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _address(folder: Path) -> str:
    """Return the address of the first tab, once the browser has written its port."""
    port_file = folder / "DevToolsActivePort"
    deadline = time.monotonic() + _SECONDS
    while not port_file.exists() or not port_file.read_text():
        assert time.monotonic() < deadline, "the browser did not start"
        time.sleep(0.1)
    port = port_file.read_text().splitlines()[0]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/json") as answer:
        tabs = json.loads(answer.read())
    return str(next(tab for tab in tabs if tab["type"] == "page")["webSocketDebuggerUrl"])
