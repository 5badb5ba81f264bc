"""A real Chromium without a window, spoken to over a pipe (the DevTools protocol): nothing of it reaches a network.

https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import fcntl
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib.image
import numpy as np
from numpy.typing import NDArray

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "no Chromium is installed (Debian: apt-get install chromium)"
PHONE, DESK = (390, 844), (1440, 900)
PAPER = 673  # CSS pixels between the margins of A4 that the style asks for
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip


@dataclass(frozen=True)
class View:
    """A page as it looks at one width and in one colour scheme.

    Attributes:
        width: of the window, in CSS pixels.
        page_width: of what is in it; more than `width` means that the page scrolls sideways.
        outside: elements that stick out to the right of the window, and are not in a part that scrolls by itself.
        pixels: (rows, columns, 3) the whole page in [0, 1].
        broken: pictures that could not be shown.
    """

    width: int
    page_width: int
    outside: Sequence[str]
    pixels: NDArray[np.float32]
    broken: int


class Browser:
    """One page at a time."""

    def __init__(self, commands: io.RawIOBase, answers: io.BufferedReader) -> None:
        self._commands, self._answers, self._read = commands, answers, bytearray()
        self._number, self._session = 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Do something and wait for its result."""
        self._number += 1
        told = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            told["sessionId"] = self._session
        self._commands.write(json.dumps(told).encode() + b"\0")
        while (answer := self._answer()).get("id") != self._number:
            pass  # events
        assert "error" not in answer, answer
        return answer["result"]

    def _answer(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            part = self._answers.read1()
            assert part, "Chromium has ended"
            self._read += part
        content, _, self._read = self._read.partition(b"\0")
        return json.loads(content)

    def look(self, page: Path, size: tuple[int, int], scheme: Literal["light", "dark"]) -> View:
        """Open a page and look at all of it."""
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.resolve().as_uri())
        found = self.evaluate(_MEASURE.replace("WIDTH", str(width)))
        return View(width, found["width"], found["outside"], self._picture(width, found["height"]), found["broken"])

    def cut_off_in_print(self, page: Path) -> Sequence[str]:
        """What would stick out of the paper; nothing scrolls there."""
        self.call("Emulation.setDeviceMetricsOverride", width=PAPER, height=990, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", media="print", features=[])
        self.call("Page.navigate", url=page.resolve().as_uri())
        outside: Sequence[str] = self.evaluate(_MEASURE.replace("WIDTH", str(PAPER)).replace(_SCROLLS, ""))["outside"]
        return outside

    def pages(self, page: Path) -> int:
        """How many sheets of A4 the printed page takes."""
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.evaluate(_MEASURE.replace("WIDTH", str(PAPER)))
        printed = self.call("Page.printToPDF", preferCSSPageSize=True, paperWidth=8.27, paperHeight=11.69)
        return len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(printed["data"])))

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, which the page itself is forbidden to run."""
        return self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)["result"][
            "value"
        ]

    def _picture(self, width: int, height: int) -> NDArray[np.float32]:
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, 16_000), "scale": 1}
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        return matplotlib.image.imread(io.BytesIO(base64.b64decode(taken)))[..., :3]


_SCROLLS = ' && !one.closest(".table, pre")'
_MEASURE = """
new Promise(done => document.readyState === "complete" ? done() : addEventListener("load", done)).then(() => ({
  width: document.documentElement.scrollWidth,
  height: document.documentElement.scrollHeight,
  broken: [...document.images].filter(image => image.naturalWidth === 0).length,
  outside: [...document.querySelectorAll("body *")]
    .filter(one => one.getBoundingClientRect().right > WIDTH + 1 && !one.closest(".table, pre"))
    .map(one => one.outerHTML.slice(0, 100)),
}))
"""


# Chromium reads commands from file 3 and writes answers to file 4.
_REPLACE = """
import os, sys
commands, answers, *words = sys.argv[1:]
os.dup2(int(commands), 3)
os.dup2(int(answers), 4)
os.execv(words[0], words)
"""


def _pipe() -> tuple[int, int]:
    """A pipe whose ends have numbers that are nobody's in the new process."""
    ends = os.pipe()
    high = fcntl.fcntl(ends[0], fcntl.F_DUPFD_CLOEXEC, 10), fcntl.fcntl(ends[1], fcntl.F_DUPFD_CLOEXEC, 10)
    for end in ends:
        os.close(end)
    return high


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A browser with a new, empty profile, which ends with the block."""
    assert CHROMIUM is not None
    (read_commands, write_commands), (read_answers, write_answers) = _pipe(), _pipe()
    words = (CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe")
    process = subprocess.Popen(
        [sys.executable, "-c", _REPLACE, str(read_commands), str(write_answers), *words],
        pass_fds=(read_commands, write_answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(read_commands)
    os.close(write_answers)
    try:
        with os.fdopen(write_commands, "wb", buffering=0) as commands, os.fdopen(read_answers, "rb") as answers:
            yield Browser(commands, answers)
    finally:  # Chromium ends when its pipe does
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
