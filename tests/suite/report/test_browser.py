"""The page in a real browser: the console stays clean, nothing is requested, charts are drawn, the filter works.

Chromium is driven over its debugging pipe: JSON messages ended by a zero byte, with the standard library only.
"""

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

import pytest
from v3bench.suite.ledger import cases
from v3bench.suite.report import page
from v3bench.suite.report.bundle import available

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no chromium or google-chrome on PATH"),
]
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One tab. ``messages`` holds what the console, the network and the page's own errors said, oldest first."""

    def __init__(self) -> None:
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # it may still write there
        read, self.write = os.pipe()
        self.read, write = os.pipe()

        # The browser reads messages on descriptor 3 and answers on 4.
        def place() -> None:
            os.dup2(read, 13)
            os.dup2(write, 14)
            os.dup2(13, 3)
            os.dup2(14, 4)

        self.process = subprocess.Popen(
            [str(PROGRAM), *FLAGS, f"--user-data-dir={self.home.name}", "about:blank"],
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
        message = {"id": self.number, "method": method, "params": params} | (
            {"sessionId": self.session} if self.session else {}
        )
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

    def open_plain(self, path: Path) -> None:
        """Load a file where scripts are switched off, and wait until all of it is there."""
        self.send("Page.navigate", url=path.as_uri())
        while not any(message.get("method") == "Page.loadEventFired" for message in self.messages):
            self.messages.append(self.next())

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
        sent = [m["params"] for m in self.messages if m.get("method") == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self.read)
        os.close(self.write)
        self.home.cleanup()


@pytest.fixture
def browser():
    with Browser() as tab:
        yield tab


@pytest.fixture
def place(tmp_path, run, judged):
    path = tmp_path / "report.html"
    page.write(path, page.render([run], judged))
    return path


SHOWN = "document.querySelectorAll('li[data-verdict]:not([hidden])').length"


def choose(browser, name, value):
    browser.run(
        f"(() => {{ const e = document.getElementById('{name}'); e.value = {json.dumps(value)};"
        " e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


@pytest.mark.skipif(not available(), reason="charts need altair and vl-convert-python")
def test_charts_are_drawn_without_a_request_or_a_complaint(browser, place):
    browser.open(place)
    charts = browser.run("document.querySelectorAll('[data-chart]').length")
    assert charts >= 3
    browser.wait(f"document.querySelectorAll('[data-chart] svg').length === {charts}")
    assert browser.run("Array.from(document.querySelectorAll('[data-chart] svg path')).length") > 20
    assert browser.complaints() == []
    assert browser.requests() == [place.as_uri()]


def test_the_filter_shows_what_fits_and_says_how_many(browser, place, judged):
    browser.open(place)
    assert browser.run(SHOWN) == len(judged)
    choose(browser, "f-verdict", "deviates")
    deviating = sum(one.outcome == "deviates" for one in judged)
    assert browser.run(SHOWN) == deviating
    assert browser.run("document.getElementById('f-count').textContent") == (
        f"Showing {deviating} of {len(judged)} claims"
    )
    choose(browser, "f-area", "kv_cache")
    here = sum(one.outcome == "deviates" and one.claim.area == "kv_cache" for one in judged)
    assert browser.run(SHOWN) == here < deviating
    choose(browser, "f-text", "no row says this")
    assert browser.run(SHOWN) == 0
    assert "No claim fits" in browser.run("document.getElementById('f-count').textContent")
    browser.run("document.querySelector('#filter button[type=reset]').click()")
    browser.wait(f"{SHOWN} === {len(judged)}")
    choose(browser, "f-text", "KV-CACHE-DEEPSEEK-V3")
    assert browser.run("document.getElementById('kv-cache-deepseek-v3').hidden") is False
    assert browser.complaints() == []


def test_a_tally_filters_and_frees_again(browser, place, judged):
    browser.open(place)
    button = "document.querySelector('.tally button[data-verdict=untested]')"
    browser.run(f"{button}.click()")
    assert browser.run(SHOWN) == sum(one.outcome == "untested" for one in judged)
    assert browser.run(f"{button}.getAttribute('aria-pressed')") == "true"
    browser.run(f"{button}.click()")
    assert browser.run(SHOWN) == len(judged)


def test_an_anchor_opens_its_row(browser, place):
    browser.open(place, "#kv-cache-multiple-llama-3-1-405b")
    browser.wait("document.querySelector('#kv-cache-multiple-llama-3-1-405b details').open")
    assert "516096 B / 70272 B" in browser.run("document.getElementById('kv-cache-multiple-llama-3-1-405b').innerText")
    assert browser.run("document.querySelectorAll('details.row[open]').length") == 1


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_the_page_never_scrolls_sideways(browser, place, width):
    browser.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    browser.open(place)
    browser.run("document.getElementById('f-open').click()")
    if available():
        browser.wait(
            "document.querySelectorAll('[data-chart] svg').length === document.querySelectorAll('[data-chart]').length"
        )
    assert browser.run("document.documentElement.scrollWidth") <= width


@pytest.fixture
def kernels(tmp_path, record, run_of, judged):
    """A page with times of every kind of kernel: none is measured where it is made."""
    gpu = {"name": "NVIDIA H200", "memory_bytes": 1, "capability": "9.0", "sms": 132, "l2_bytes": 1}
    timed = [case for case in cases.load().values() if (case.area, case.bench) == ("kernels", "timed")]
    of = {"area": "kernels", "device": "cuda", "clock": "device-hot", "scale": "slice", "samples": (1e-3,) * 9}
    times = [
        record(**of, case=case.name, case_version=case.version, subject=case.subjects[0], impl=impl)
        for case in timed for impl in case.impls
    ]  # fmt: skip
    path = tmp_path / "report.html"
    page.write(path, page.render([run_of(*times, device="cuda", gpus=[gpu])], judged))
    return path


@pytest.mark.parametrize("width", [390, 1280])
def test_what_is_published_elsewhere_is_read_without_scrolling(browser, kernels, width):
    browser.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    browser.open(kernels)
    right = "Math.max(...Array.from(document.querySelectorAll('.below p'), p => p.getBoundingClientRect().right))"
    assert browser.run("document.querySelectorAll('.below p').length") > 20
    assert browser.run(right) <= width
    assert browser.run("document.documentElement.scrollWidth") <= width
    if width == 1280:
        wide = "Array.from(document.querySelectorAll('.parted .scroll')).filter(e => e.scrollWidth > e.clientWidth)"
        assert browser.run(f"{wide}.map(e => e.innerText.split('\\n')[0])") == []


@pytest.mark.skipif(not available(), reason="charts need altair and vl-convert-python")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_rooflines_legend_takes_one_line(browser, kernels, width):
    browser.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
    browser.open(kernels)
    labels = "document.querySelectorAll('#kernels-roofline .role-legend-label text')"
    browser.wait(f"{labels}.length === 3")
    tops = browser.run(f"Array.from({labels}, e => Math.round(e.getBoundingClientRect().top))")
    assert len(set(tops)) == 1
    assert browser.run(f"Math.max(...Array.from({labels}, e => e.getBoundingClientRect().right))") <= width


def test_a_script_from_a_run_does_not_run(browser, tmp_path, record, run_of, judged):
    path = tmp_path / "report.html"
    text = "<img src=x onerror=window.caught=1></script><script>window.caught=1</script>"
    page.write(path, page.render([run_of(record(case=text, subject=text, impl=text))], judged))
    browser.open(path)
    assert browser.run("window.caught") is None
    assert browser.run("document.images.length") == 0
    assert browser.requests() == [path.as_uri()]


def test_the_plain_document_reads_without_javascript(browser, place, judged):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    browser.open_plain(place)
    document = browser.send("DOM.getDocument", depth=0)["root"]["nodeId"]
    rows = browser.send("DOM.querySelectorAll", nodeId=document, selector="li[data-verdict] details")["nodeIds"]
    assert len(rows) == len(judged)
    assert browser.requests() == [place.as_uri()]
