"""The page of a record: one file, nothing loaded or run, everything escaped, every chart well-formed."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from edgediff.bench.against import compared
from edgediff.bench.chart_front import Run, plot
from edgediff.bench.chart_latency import Timed, latency, spread
from edgediff.bench.chart_limits import Reached, limits
from edgediff.bench.chart_memory import Moment, memory, stages
from edgediff.bench.chart_share import Part, share
from edgediff.bench.html import page
from edgediff.bench.record import Energy, Memory, Record, Samples
from tests.edgediff.bench_sample import sample

HOSTILE = '"><script>alert(1)</script>&\u202e\x00'
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Reader(HTMLParser):
    """Checks that tags nest, and keeps what stands in the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(text: str) -> Reader:
    """Return what a page holds."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def drawings(text: str) -> list[ElementTree.Element]:
    """Return the page's drawings, parsed as XML."""
    return [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def test_the_page_loads_and_runs_nothing() -> None:
    text = page([sample()])
    found = read(text)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "base"})
    for tag, attributes in found.tags:
        assert not {"src", "href", "style"} & set(attributes), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    (sheet,) = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = next(a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_day_night_and_phone() -> None:
    text = page([sample()])
    assert "prefers-color-scheme: dark" in text
    assert text.count('class="broad"') == text.count('class="slim"') > 4
    for drawing in drawings(text):
        assert [child.tag for child in drawing[:2]] == ["title", "desc"]  # for those who hear the page
        assert all(child.text for child in drawing[:2])
    # Every class that a drawing uses has a rule, so that nothing is black on black.
    used = {c for d in drawings(text) for e in d.iter() for c in e.get("class", "").split()}
    assert not [each for each in used if f".{each}" not in text.partition("</style>")[0]]


def test_every_number_of_the_record_is_there() -> None:
    record = sample()
    words = " ".join(read(page([record])).words)
    for name in (
        "denoiser",
        "10 ms",
        "82 MB",
        "450 ms",
        "1.2 G",
        "120 GFLOP/s",
        "50 %",
        "ort-cpu",
        "20 GB/s",
    ):
        assert name in words
    assert record.warnings[0] in words
    assert record.model.digest in words
    assert "there is no counter" in words  # why there are no joules


@pytest.mark.parametrize("where", ["name", "prompt", "warning", "component", "provider"])
def test_text_from_outside_stays_text(where: str) -> None:
    record = sample()
    first = next(c for c in record.components if c.ran is not None)
    assert first.ran is not None
    changed = {
        "name": replace(record, model=replace(record.model, name=HOSTILE)),
        "prompt": replace(record, asked=replace(record.asked, prompt=HOSTILE)),
        "warning": replace(record, warnings=(HOSTILE,)),
        "component": replace(record, components=(replace(first, name=HOSTILE),)),
        "provider": replace(
            record, components=(replace(first, ran=replace(first.ran, nodes={HOSTILE: 3}, provider=HOSTILE)),)
        ),
    }[where]
    text = page([changed, record])
    found = read(text)
    assert not [tag for tag, _ in found.tags if tag == "script"]
    assert "\u202e" not in text
    assert "\x00" not in text
    assert len(drawings(text)) >= 4
    assert "alert(1)" in " ".join(found.words)


def bare(record: Record) -> Record:
    """A record of a machine and runtime that tell nothing."""
    components = tuple(replace(c, ran=None, work=None, peak_rss_bytes=None) for c in record.components)
    return replace(
        record, components=components, cold=(), limits=(), spans=(), warnings=(),
        memory=Memory(None, None, {}, (), 0.02), energy=Energy(12.0, 4, 1.0, "a counter", None),
    )  # fmt: skip


def test_what_was_not_measured_leaves_no_empty_chart() -> None:
    text = page([bare(sample())])
    words = " ".join(read(text).words)
    assert "3 J" in words
    assert "Cold start" not in words
    assert "How far from the limit" not in words
    assert "What makes these figures doubtful" not in words
    assert not [d for d in drawings(text) if d[0].text == "Resident memory over time"]
    assert len(drawings(page([replace(bare(sample()), components=())]))) == 0


def test_several_records_stand_side_by_side() -> None:
    one, other = sample(), replace(sample(), model=replace(sample().model, name="leaner"))
    other = replace(other, memory=replace(other.memory, peak_bytes=41_000_000))
    text = page([one, other], against=compared(one, other))
    words = " ".join(read(text).words)
    assert "Several records" in words
    assert "Against an older record" in words
    assert "leaner" in words
    assert "Several records" not in " ".join(read(page([one])).words)
    with pytest.raises(ValueError, match="at least one record"):
        page([])


def rectangles(drawing: str, kind: str) -> list[float]:
    """Return the widths of bars of a class."""
    tree = ElementTree.fromstring(drawing)
    return [float(e.get("width", 0)) for e in tree.iter("rect") if kind in e.get("class", "").split()]


def test_bars_are_as_long_as_what_they_show() -> None:
    rows = [Timed(name, (s,), s, s, s) for name, s in (("a", 1.0), ("b", 0.25), ("c", 0.5))]
    for width in (840, 328):
        long = rectangles(latency(rows, width), "f0")
        assert long[1] / long[0] == pytest.approx(0.25, abs=0.01)
        assert long[2] / long[0] == pytest.approx(0.5, abs=0.01)
    parts = [Part("a", 3.0, "f0"), Part("b", 1.0, "f1")]
    drawing = share(parts, 840, "whole", "{:g} s".format)
    assert rectangles(drawing, "f0")[0] == pytest.approx(630, abs=0.1)
    assert "75 %" in drawing
    reached = [Reached("a", 50.0, 1e9, "gemm"), Reached("b", 400.0, 1e9, "gemm")]
    full = rectangles(limits(reached, 840), "track")[0]
    half, most = rectangles(limits(reached, 840), "f0")
    assert half / full == pytest.approx(0.5, abs=0.01)
    assert most / full == pytest.approx(1.5, abs=0.01)  # drawn past the mark; the figure says by how much
    assert "400 %" in limits(reached, 840)


def test_no_peak_is_lost_between_samples() -> None:
    moments = [Moment(0.01 * i, 100_000_000, "load" if i < 5000 else "denoiser") for i in range(9001)]
    moments[7777] = Moment(77.77, 900_000_000, "denoiser")
    drawing = memory(moments, 328)
    tops = re.findall(r'<circle cx="([0-9.]+)" cy="([0-9.]+)"', drawing)
    assert tops
    lines = [line for line in re.findall(r'points="([^"]+)"', drawing) if len(line.split()) > 100]
    heights = [float(point.split(",")[1]) for point in lines[-1].split()]
    assert min(heights) == pytest.approx(float(tops[0][1]), abs=0.1)
    assert [(name, round(end - start, 2)) for name, start, end in stages(moments)] == [
        ("load", 50.0), ("denoiser", 40.0),
    ]  # fmt: skip


def test_extremes_do_not_break_a_chart() -> None:
    for width in (840, 328):
        for samples in ((1e-7,), (1e-9, 1e4), (0.0,), (5.0,) * 3):
            middle = sorted(samples)[len(samples) // 2]
            rows = [Timed("a" * 300, samples, middle, max(samples), max(samples))]
            for draw in (latency, spread):
                tree = ElementTree.fromstring(draw(rows, width))
                for element in tree.iter():
                    for name in ("x", "cx", "width"):
                        value = float(element.get(name, 0))
                        assert math.isfinite(value)
                        assert -1 <= value <= width + 1
        runs = [Run("a", 1.0, 1e9), Run("b", 1.0, 1e9), Run("c", 1e3, 1.0)]
        ElementTree.fromstring(plot(runs, width))
        ElementTree.fromstring(plot(runs[:1], width))
    assert Samples((1.0,)).median == 1.0


def test_the_front_is_of_those_that_nothing_beats() -> None:
    runs = [Run("fast", 1.0, 4e9), Run("lean", 4.0, 1e9), Run("beaten", 4.0, 4e9)]
    tree = ElementTree.fromstring(plot(runs, 840))
    kinds = {e[0].text.partition(":")[0]: e.get("class") for e in tree.iter("circle")}  # type: ignore[union-attr]
    assert kinds == {"fast": "best", "lean": "best", "beaten": "beaten"}
