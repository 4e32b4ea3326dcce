"""A real browser that looks at a page: Chromium over its debugging pipe, nothing else installed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe", "about:blank"),
)
# Chromium reads commands from descriptor 3 and answers on 4.
_ON_3_AND_4 = """
import os, sys
commands, answers = (os.dup(int(one)) for one in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(answers, 4)
os.set_inheritable(3, True)
os.set_inheritable(4, True)
os.execv(sys.argv[3], sys.argv[3:])
"""
# Whatever is wider than the page, but for what is moved within a box of its own.
_OVERFLOWING = """
(() => {
  const wide = document.documentElement.clientWidth, found = [];
  for (const one of document.body.querySelectorAll('*')) {
    if (one.closest('.scroll, pre') || one.closest('svg') !== null) continue;
    const box = one.getBoundingClientRect();
    if (box.width > 0 && (box.right > wide + 0.5 || box.left < -0.5))
      found.push(`${one.tagName}.${one.className} to ${Math.round(box.right)}`);
  }
  const scrolls = document.documentElement.scrollWidth;
  return {wide, scrolls, found, text: document.body.innerText};
})()
"""


@dataclass(slots=True)
class Seen:
    """What a page came to at one width."""

    width: int
    scrolls: int  # how wide all of it is
    overflowing: list[str]  # elements that stand out of the page
    text: str
    requests: list[str] = field(default_factory=list)  # beside the page itself
    complaints: list[str] = field(default_factory=list)  # of the console, and of the page's policy


class Browser:
    """One tab."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self._process = process
        self._write = write
        self._read = read
        self._held = b""
        self._number = 0
        self._session = ""
        self._events: list[dict[str, Any]] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def look(
        self, page: Path, *, width: int, dark: bool = False, picture: Path | None = None
    ) -> Seen:
        """Opens a file at a width; `picture` is where a screenshot of all of it is written."""
        self._events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **metrics)
        url = page.resolve().as_uri()
        self._ask("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._next()
        told = self._ask("Runtime.evaluate", expression=_OVERFLOWING, returnByValue=True)
        found = told["result"]["value"]
        if picture is not None:
            shot = self._ask("Page.captureScreenshot", captureBeyondViewport=True)
            picture.write_bytes(base64.b64decode(shot["data"]))
        return Seen(
            found["wide"],
            found["scrolls"],
            found["found"],
            found["text"],
            [url_ for url_ in self._requested() if url_ != url],
            list(self._complaints()),
        )

    def _requested(self) -> Iterator[str]:
        for event in self._events:
            if event["method"] == "Network.requestWillBeSent":
                yield event["params"]["request"]["url"]

    def _complaints(self) -> Iterator[str]:
        for event in self._events:
            if event["method"] == "Log.entryAdded":
                yield event["params"]["entry"]["text"]
            elif event["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                yield json.dumps(event["params"])[:300]

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._write, json.dumps(asked).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._number:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                result: dict[str, Any] = told["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError(f"chromium ended with {self._process.wait()}")
            self._held += data
        line, _, self._held = self._held.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        if "method" in told:
            self._events.append(told)
        return told


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser of its own, with a profile that is gone afterwards."""
    assert CHROMIUM is not None
    to_read, to_write = os.pipe()  # commands
    from_read, from_write = os.pipe()  # answers
    with tempfile.TemporaryDirectory(prefix="gwchrome", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", _ON_3_AND_4, str(to_read), str(from_write)),
                *(CHROMIUM, f"--user-data-dir={profile}", *_FLAGS),
            ],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        try:
            yield Browser(process, to_write, from_read)
        finally:
            os.close(to_write)
            os.close(from_read)
            process.kill()
            process.wait()
