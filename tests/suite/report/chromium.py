"""A headless Chromium driven over its debugging pipe: JSON messages ended by a zero byte, standard library only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip


def find() -> str | None:
    """The browser's program, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One tab. ``messages`` holds what the console, the network and the page's own errors said, oldest first."""

    def __init__(self, program: str) -> None:
        self.home = tempfile.TemporaryDirectory()
        read, self.write = os.pipe()
        self.read, write = os.pipe()
        # The browser reads messages on descriptor 3 and answers on 4.
        def place() -> None:
            os.dup2(read, 13)
            os.dup2(write, 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self.home.name}", "about:blank"],
            preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        self.buffer, self.number, self.messages, self.session = b"", 0, [], ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its answer; events that come before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.messages.append(answer)

    def next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            read = os.read(self.read, 1 << 20)
            assert read, "the browser has gone"
            self.buffer += read
        raw, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(raw))

    def open(self, path: Path, fragment: str = "") -> None:
        """Load a file and wait until its charts had time to be drawn."""
        self.send("Page.navigate", url=path.as_uri() + fragment)
        self.wait("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """A JavaScript expression's value in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(expression):
            assert time.monotonic() < end, f"{expression} is not true after {seconds} s"
            time.sleep(0.05)

    def complaints(self) -> list[dict[str, Any]]:
        """Console messages, log entries and uncaught errors."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [message["params"] for message in self.messages if message.get("method") in kinds]

    def requests(self) -> list[str]:
        """Addresses the page asked for."""
        sent = [m["params"]["request"]["url"] for m in self.messages if m.get("method") == "Network.requestWillBeSent"]
        return sent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.read)
        os.close(self.write)
        self.home.cleanup()
