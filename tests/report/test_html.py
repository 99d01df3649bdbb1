"""The report for browsers: complete, escaped, and asking nothing of any network."""

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from vgpt.compare.choose import compare
from vgpt.errors import VgptError
from vgpt.report.figures.write import draw_all
from vgpt.report.html.page import ReportSection, as_html, save_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = '<script>alert("x")</script><img src="http://evil.example/x.png" onerror=alert(1)>'
VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Every element with its attributes, the text outside <style>, and whether all that was opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def page(course, evaluated):
    """Make the report of a comparison."""
    return lambda found: as_html(
        [ReportSection(found, draw_all(found, course, evaluated))], command="vgpt compare mha gqa", made=0.0
    )


@pytest.fixture
def evil(make_run, ask, renamed):
    tags = {"vgpt.device": EVIL, "vgpt.git": EVIL}
    runs = [make_run("mha"), make_run("mqa", run_name="odd", tags=tags, settings={"data": "<b>"})]
    return renamed(compare(ask("mha", "odd"), runs), "odd", EVIL + "\x1b")


def test_the_report_holds_audit_tables_differences_figures_and_provenance(three, page):
    found = Page(page(three))
    assert found.open == []
    for words in (
        "vgpt compare: mha, gqa n_kv_head=2, mqa",
        "Made 1970-01-01 00:00 UTC.",
        "Conditions: equal (data, budget",
        "confound of mqa",
        "2.3660",
        "Differences to mha in validation loss",
        "worse",
        "KV at 8,192",
        "AMD EPYC",
        "vgpt compare mha gqa",
        "vgpt train --attn mqa",
    ):
        assert words in found.text, words
    assert [attributes["aria-label"][:15] for tag, attributes in found.elements if tag == "svg"] == [
        "Validation loss",
        "Validation loss",
        "KV cache of one",
        "Validation loss",
    ]
    assert sum(tag == "tr" for tag, _ in found.elements) > 30


def test_the_verdict_on_each_variant_stands_at_the_top(three, page):
    text = Page(page(three)).text
    top = text[: text.index("Conditions: equal")]
    for row, found in zip(three.rows[1:], three.statistics[1:], strict=True):
        one = found.difference
        assert f"{row.title}: {one.verdict} , {one.delta:+.4f} ±{one.half_width:.4f} nats per token" in top


def test_the_title_names_the_variants_also_where_a_setting_lacks_one(three):
    sections = [
        ReportSection(one, [])
        for one in (three, dataclasses.replace(three, rows=three.rows[:2], statistics=three.statistics[:2]))
    ]
    assert Page(as_html(sections, command="vgpt", made=0)).text.startswith("vgpt compare: mha, gqa n_kv_head=2, mqa")
    assert Page(as_html(sections, name="mine", command="vgpt", made=0)).text.startswith("vgpt compare: mine vgpt")
    assert Page(as_html([], name="mine", command="vgpt", made=0)).text.startswith("vgpt compare: mine: no runs")


def test_no_element_loads_or_runs_anything(three, page, evil):
    for comparison in (three, evil):
        text = page(comparison)
        found = Page(text)
        names = {tag for tag, _ in found.elements}
        assert not names & {"script", "link", "img", "iframe", "object", "embed", "image", "base", "form", "a"}
        for _, attributes in found.elements:
            assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")]
            assert all(attributes[key].startswith("#") for key in attributes if key.endswith("href"))
        assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
        assert "@import" not in text
        assert "default-src &#x27;none&#x27;" in text


def test_whatever_a_record_holds_is_shown_as_letters(evil, page):
    text = page(evil)
    assert "<script" not in text
    assert "<img" not in text
    assert "\x1b" not in text
    assert EVIL in Page(text).text


def test_ids_are_unique_in_the_whole_page(three, page):
    found = [attributes["id"] for _, attributes in Page(page(three)).elements if "id" in attributes]
    assert len(found) > 50
    assert len(found) == len(set(found))


def test_every_reference_within_the_page_is_there(three, page):
    text = page(three)
    ids = {attributes["id"] for _, attributes in Page(text).elements if "id" in attributes}
    targets = {*re.findall(r'href="#([^"]*)"', text), *re.findall(r"url\(#([^)]*)\)", text)}
    assert targets
    assert targets <= ids


def test_unequal_conditions_and_force_stand_at_the_top(make_run, ask, page):
    runs = [
        make_run(attn, settings={"seed": s, "lr": lr}) for attn, lr in (("mha", 0.1), ("mqa", 0.2)) for s in (1, 2, 3)
    ]
    text = Page(page(compare(ask("mha", "mqa", force=True), runs))).text
    top = text[: text.index("Results")]
    assert "Conditions are NOT equal: lr" in top
    assert "FORCED: verdicts across unequal conditions" in top


def test_runs_that_are_missing_are_named_with_their_commands(make_run, ask, page):
    text = Page(page(compare(ask("mha", "mqa", preset="demo"), [make_run("mha")]))).text
    assert "vgpt train --preset demo --attn mqa" in text


def test_a_comparison_without_runs_is_still_a_page(ask, page):
    assert "no runs" in Page(page(compare(ask("mha", preset="demo"), []))).text


def test_a_report_that_cannot_be_written_is_an_error_with_the_flag(tmp_path):
    with pytest.raises(VgptError, match="--html"):
        save_html("", tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_chromium_shows_the_text_and_asks_no_network(evil, page, tmp_path):
    file, log = tmp_path / "report.html", tmp_path / "net.json"
    save_html(page(evil), file)
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    flags += f" --disable-component-update --user-data-dir={tmp_path / 'profile'} --log-net-log={log}"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = Page(done.stdout)
    assert EVIL in found.text  # as letters, after a browser has read it
    assert "alert(1)" not in done.stderr
    assert not {tag for tag, _ in found.elements} & {"script", "img"}
    assert "Validation loss over tokens, compute and time" in found.text
    assert "evil.example" not in log.read_text()
