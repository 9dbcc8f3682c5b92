"""Chromium without a window, driven over its DevTools pipe: opens a page as a desk or a phone would, and asks it."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
    "--force-color-profile=srgb", "--remote-debugging-pipe",
)  # fmt: skip


def chromium() -> str | None:
    """Its path; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of one Chromium, without a network; to be used in a `with`.

    Args:
        path: of Chromium
        width: of the window, in CSS pixels
        height: as width
        phone: with a touch screen and two device pixels a CSS pixel
        dark: the person prefers dark colours
        timeout: seconds that an answer may take
    """

    def __init__(
        self, path: str, width: int = 1280, height: int = 900, *, phone: bool = False, dark: bool = False,
        timeout: float = 120,
    ) -> None:  # fmt: skip
        self.timeout, self.events, self._count, self._rest = timeout, list[dict[str, Any]](), 0, b""
        self._session: str | None = None
        self._profile = TemporaryDirectory()
        read, self._out = os.pipe()
        self._in, write = os.pipe()

        def as_chromium_wants_them() -> None:
            # Above 4 first: one of the two may be the other's number.
            low = [os.dup(read), os.dup(write)]
            os.dup2(low[0], 3)
            os.dup2(low[1], 4)

        self._process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"], close_fds=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=as_chromium_wants_them,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        target = next(one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM", "Accessibility"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        scale = 2 if phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone, maxTouchPoints=5 if phone else 1)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._session = None
            self.call("Browser.close")
            self._process.wait(10)
        except (OSError, RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """A command's result. Raises RuntimeError for one that fails, TimeoutError for one without an answer."""
        self._count += 1
        sent: dict[str, Any] = {"id": self._count, "method": method, "params": values}
        if self._session is not None:
            sent["sessionId"] = self._session
        content = json.dumps(sent).encode() + b"\0"
        while content:
            content = content[os.write(self._out, content) :]
        return self._answer(self._count, method)

    def open(self, file: Path) -> None:
        """Open a file from disk, and wait until it has loaded."""
        self.events.clear()
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.until("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value, awaited, of an expression of JavaScript. Raises RuntimeError for one that throws."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            thrown = found["exceptionDetails"]
            raise RuntimeError(thrown.get("exception", {}).get("description", thrown["text"]))
        return found["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait for an expression to become true, and return it. Raises TimeoutError."""
        end = time.monotonic() + self.timeout
        while time.monotonic() < end:
            if found := self.evaluate(expression):
                return found
            time.sleep(0.05)
        raise TimeoutError(f"{expression} did not come true in {self.timeout:g} s")

    def press(self, *keys: str) -> None:
        """Keys by their names, as Tab, ArrowRight, Enter or Space."""
        for key in keys:
            text = {"Space": " ", "Enter": "\r"}.get(key)
            values = {"key": text if key == "Space" else key, "code": key, "windowsVirtualKeyCode": CODES[key]}
            self.call("Input.dispatchKeyEvent", type="keyDown", **values, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **values)

    def drag(self, points: Sequence[tuple[float, float]]) -> None:
        """Press the mouse at the first point, in CSS pixels, and let go at the last."""
        kinds = ["mousePressed", *["mouseMoved"] * (len(points) - 1), "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*points, points[-1]], strict=True):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def choose(self, selector: str, file: Path) -> None:
        """Give a file to an input of files."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file.resolve())])

    def picture(self, file: Path, whole: bool = True) -> None:
        """Write a PNG of the page: all of it, or what the window shows."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        file.write_bytes(base64.b64decode(found["data"]))

    def complaints(self) -> list[str]:
        """What the page wrote to the console or threw since it was opened, warnings and errors."""
        found = []
        for event in self.events:
            values = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(values["exceptionDetails"].get("exception", {}).get("description", "thrown"))
            elif event["method"] == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
                found.append(" ".join(str(one.get("value", one.get("description"))) for one in values["args"]))
            elif event["method"] == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
                found.append(values["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was opened, itself among them; but for what it holds itself."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        found = [one["request"]["url"] for one in sent]
        return [address for address in found if not address.startswith(("data:", "blob:"))]

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def _answer(self, number: int, method: str) -> dict[str, Any]:
        end = time.monotonic() + self.timeout
        while True:
            *messages, self._rest = self._rest.split(b"\0")
            for position, text in enumerate(messages):
                message = json.loads(text)
                if "id" not in message:
                    self.events.append(message)
                elif message["id"] == number:
                    self._rest = b"\0".join([*messages[position + 1 :], self._rest])
                    if "error" in message:
                        raise RuntimeError(f"{method}: {message['error']['message']}")
                    result: dict[str, Any] = message["result"]
                    return result
            ready, _, _ = select.select([self._in], [], [], max(0, end - time.monotonic()))
            content = os.read(self._in, 1 << 20) if ready else b""
            if not content:
                raise TimeoutError(f"{method}: Chromium gave no answer in {self.timeout:g} s, or ended")
            self._rest += content


CODES = {"Tab": 9, "Enter": 13, "Space": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
