"""The page: the same bytes from the same runs, nothing from outside, nothing of a run taken for markup."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from html.parser import HTMLParser

import pytest
from v3bench.model_ref.errors import BadInput
from v3bench.suite.ledger import claims, verdict
from v3bench.suite.meter.measurement import Measurement
from v3bench.suite.report import bundle, page
from v3bench.suite.run_folder import INFO, RECORDS, load_run

HOSTILE = "</script><!--<script>\"'&{{ 7*7 }}<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Elements with their attributes, the text of scripts, and all other text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.words, self.within = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.within = ""

    def handle_data(self, data):
        if self.within == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)

    @property
    def ids(self):
        return [attrs["id"] for _, attrs in self.elements if "id" in attrs]


@pytest.fixture
def html(run, judged):
    return page.render([run], judged)


def write_run(folder, run):
    (folder / INFO).write_text(json.dumps(run.info))
    (folder / RECORDS).write_text("".join(m.line() + "\n" for m in run.measurements))


def test_the_same_run_gives_the_same_bytes_in_two_processes(tmp_path, run):
    write_run(tmp_path, run)
    pages = []
    for name, seed in (("one.html", "1"), ("two.html", "2")):
        done = subprocess.run(
            [sys.executable, "-m", "v3bench", "report", str(tmp_path), "-o", str(tmp_path / name)],
            env={"PYTHONHASHSEED": seed, "PATH": ""}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_every_claim_has_its_anchor_once(html, judged):
    ids = Page(html).ids
    assert len(ids) == len(set(ids))
    assert {one.claim.id for one in judged} <= set(ids)


def test_inner_links_lead_somewhere(html):
    found = Page(html)
    targets = {attrs["href"][1:] for tag, attrs in found.elements if tag in ("a", "use") and "href" in attrs}
    assert targets <= set(found.ids)


def test_the_page_names_nothing_to_load(html):
    for tag, attrs in Page(html).elements:
        assert "src" not in attrs
        if tag in ("a", "use", "link"):
            assert attrs["href"].startswith(("#", "data:"))
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_only_the_pages_own_scripts_may_run(html):
    found = Page(html)
    policy = next(a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    kinds = [attrs.get("type") for tag, attrs in found.elements if tag == "script"]
    run = [text for text, kind in zip(found.scripts, kinds, strict=True) if kind is None]
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run} == allowed
    assert not any(name.startswith("on") for _, attrs in found.elements for name in attrs)


def test_text_of_a_run_is_never_markup(record, run_of):
    texts = [f.name for f in fields(Measurement) if f.type == "str" and f.name not in ("area", "metric", "launch")]
    hostile = record(**dict.fromkeys([*texts[:-1]], HOSTILE), launch=HOSTILE, samples=(1.0,))
    assert hostile.subject == hostile.case == hostile.convention == HOSTILE
    failed = record(status="failed", why=HOSTILE, case=HOSTILE)
    cache = record(
        area="kv_cache", metric="kv_bytes_per_token", subject="deepseek-v3", scale="full", basis="counted",
        convention="bf16", device=HOSTILE, case=HOSTILE, impl=HOSTILE,
    )  # fmt: skip
    segment = dict.fromkeys(("command", "profile", "launch", "start", "end"), HOSTILE)
    run = run_of(
        hostile, failed, cache, commit=HOSTILE, dirty=True, python=HOSTILE, platform=HOSTILE, driver=HOSTILE,
        packages={HOSTILE: HOSTILE}, cpu={"model": HOSTILE, "cores": 1, "memory_bytes": 1},
        gpus=[{"name": HOSTILE, "memory_bytes": 1, "capability": HOSTILE, "sms": None, "l2_bytes": None}],
        segments=[{**segment, "areas": [HOSTILE], "device": "cpu", "exit": 0}],
    )  # fmt: skip
    run = replace(run, messages=(HOSTILE,))
    clean = Page(page.render([run_of(record())], verdict.judge(claims.load(), ())))
    dirty = Page(page.render([run], verdict.judge(claims.load(), run.measurements)))
    assert "img" not in {tag for tag, _ in dirty.elements}
    assert len(dirty.scripts) == len(clean.scripts)
    assert sum(HOSTILE in words for words in dirty.words) >= 10
    assert "49" not in "".join(w for w in dirty.words if "onerror" in w).replace("{{ 7*7 }}", "")


def test_control_characters_of_a_run_do_not_reach_the_page(record, run_of):
    run = run_of(record(status="failed", samples=(), why="gone\x00wrong\x1b[31m\nhere"))
    text = page.render([run], ())
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text)
    assert "gone\N{REPLACEMENT CHARACTER}wrong" in text


def test_text_inside_a_charts_data_cannot_end_its_script(judged):
    pytest.importorskip("altair", reason="charts need altair")
    one = next(one for one in judged if one.claim.id == "kv-cache-deepseek-v3")
    found = Page(page.render([], [replace(one, claim=replace(one.claim, id=HOSTILE))]))
    data = [json.loads(text) for text in found.scripts if text.startswith("{")]
    assert any(row.get("claim") == HOSTILE for spec in data for rows in spec["datasets"].values() for row in rows)
    assert not any("</script" in text or "<!--" in text for text in found.scripts)


def test_several_runs_stand_apart(record, run_of, judged):
    other = run_of(record(samples=(5.0,)), dirty=True, cpu={"model": "Another CPU", "cores": 9, "memory_bytes": 1})
    text = page.render([run_of(record()), other], judged)
    assert "Example CPU, 2 cores" in text
    assert "Another CPU, 9 cores" in text
    assert "Run 2 was measured with uncommitted changes" in text
    assert "Run 1 was measured with" not in text


def test_no_run_at_all_still_gives_the_ledger(judged):
    text = page.render([], verdict.judge(claims.load(), ()))
    assert all(f'id="{one.claim.id}"' in text for one in judged)
    assert "none: only what formulas say" in text


def test_skips_and_failures_are_shown_with_their_reason(html):
    assert "needs a CUDA device" in html
    assert "loss was NaN" in html
    assert "has 1 failed measurement;" in html


def test_a_run_cut_short_says_so(run_of, run, judged):
    cut = run_of(segments=[{**run.info["segments"][0], "end": None, "exit": None}])
    assert "was cut short: what it had measured is kept" in page.render([cut], judged)


def test_an_import_hook_that_refuses_counts_as_a_missing_package(monkeypatch):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(bundle.importlib.util, "find_spec", refuse)
    assert not bundle.available()


def test_without_chart_packages_there_are_tables_and_a_note(monkeypatch, run, judged, html):
    monkeypatch.setattr(bundle.importlib.util, "find_spec", lambda name: None)
    text = page.render([run], judged)
    assert "Charts need the packages altair and vl-convert-python" in text
    assert not any("data-chart" in attrs for _, attrs in Page(text).elements)
    assert Page(text).scripts == [page.source("report.js")]
    tables = [sum(tag == "table" for tag, _ in Page(each).elements) for each in (text, html)]
    assert tables[0] == tables[1] > 10
    assert all(f'id="{one.claim.id}"' in text for one in judged)


def test_a_drawing_script_that_cannot_be_made_costs_only_the_charts(monkeypatch, run, judged):
    monkeypatch.setattr(bundle.Bundle, "made", "")
    monkeypatch.setattr(bundle, "MAKE", "raise SystemExit(7)")
    found = Page(page.render([run], judged))
    run_scripts = [text for text in found.scripts if not text.startswith("{")]
    assert run_scripts == [page.source("report.js")]
    assert {one.claim.id for one in judged} <= set(found.ids)


def test_an_ordinary_page_is_small(html):
    assert len(html.encode()) < 3_000_000


def test_many_records_are_aggregated_and_cut_with_a_note(record, run_of, judged):
    run = run_of(*(record(case=f"case-{i}", samples=(1.0, 2.0)) for i in range(2000)))
    text = page.render([run], judged)
    assert "200 of 2,000 rows are shown; the run folder holds all." in text
    assert "case-199<" in text
    assert "case-200<" not in text
    assert len(text.encode()) < 3_000_000


def test_a_page_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file" / "report.html", tmp_path / "nowhere" / "report.html", tmp_path):
        with pytest.raises(BadInput, match="cannot be written"):
            page.write(place, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_page_is_replaced_whole(tmp_path):
    place = tmp_path / "report.html"
    for text in ("first", "second \u2013"):
        page.write(place, text)
        assert place.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [place]


def test_reading_a_page_back_from_its_folder_gives_the_same(tmp_path, run, html):
    write_run(tmp_path, run)
    again = load_run(tmp_path)
    assert page.render([again], verdict.judge(claims.load(), again.measurements)) == html


def test_doubt_marks_what_is_doubtful_only(html):
    marked = set(re.findall(r'<span class="tag doubt">([^<]*)</span>', html))
    assert marked
    assert not marked & {"confirmed", "worked out"}


def test_an_untested_row_does_not_read_as_measured(html, judged):
    rows = re.findall(
        r'<li id="[^"]*" data-area="[^"]*" data-verdict="(\w+)".*?<span class="by">(.*?)</span>', html, re.S
    )
    assert len(rows) == len(judged)
    untested = [place for verdict, place in rows if verdict == "untested"]
    assert untested
    assert all(place.startswith("asks for ") for place in untested)
    assert {place for verdict, place in rows if verdict == "reproduced"} == {"measured, full, cpu"}
    assert "needs needs" not in html
