"""The parts of a comparison: the front, axes, colours, labels, text, drawings."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

from edgediff.compare import axes, colours, letters, output, units
from edgediff.compare.figures import pair
from edgediff.compare.front import costs, front
from edgediff.compare.marks import Point
from edgediff.compare.pareto import plot
from edgediff.compare.places import Box, placed
from edgediff.compare.scene import Label, Scene, to_picture
from edgediff.compare.sheet import cell
from edgediff.compare.svg import to_svg
from edgediff.errors import InputError, ResourceError

SVG = "{http://www.w3.org/2000/svg}"


def brute_force(found: list[tuple[float, ...]]) -> list[bool]:
    """The definition of a front, written with arrays."""
    c = np.array(found)
    return [not any((d <= mine).all() and (d < mine).any() for d in c) for mine in c]


def test_the_front() -> None:
    assert front([(1, 1)]) == [True]
    assert front([(1, 2), (2, 1), (2, 2), (1, 2)]) == [True, True, False, True]  # equal ones share it
    draw = np.random.RandomState(0)
    for _ in range(50):
        found = [tuple(map(float, row)) for row in draw.randint(0, 4, (6, 3))]
        assert front(found) == brute_force(found)


def test_what_the_front_compares() -> None:
    same = costs(0.5, math.inf, 14_177_070)
    assert same == costs(0.503, math.inf, 14_177_911)
    assert costs(0.5, 30.0, 1000) < costs(0.52, 30.0, 1000)
    assert costs(0.5, 30.2, 1000)[1] < costs(0.5, 30.0, 1000)[1]
    assert costs(0.5, math.inf, 1000)[1] == -math.inf


@pytest.mark.parametrize("values", [[1.2], [0.02, 0.03], [5.0, 5.0], [0.4, 9.0, 120.0], [1e-4, 1e4]])
def test_axes_of_times(values: list[float]) -> None:
    axis = axes.from_zero(values, 100, 500)
    assert 3 <= len(axis.ticks) <= 12
    assert all(100 <= axis.at(v) <= 500 for v in (*values, *axis.ticks))
    assert all(a < b for a, b in pairwise(axis.ticks))
    assert axis.logarithmic == (max(values) / min(values) > 12)
    if not axis.logarithmic:
        assert axis.at(0) == 100


@pytest.mark.parametrize("values", [[30.0], [35.0, 35.0], [3.2, 71.3], [0.0], [14.9, 15.0, 35.3]])
def test_axes_of_ratios(values: list[float]) -> None:
    axis = axes.fitting(values, 400, 100)  # upwards
    assert 3 <= len(axis.ticks) <= 9
    assert all(100 <= axis.at(v) <= 400 for v in (*values, *axis.ticks))
    assert axis.ticks[0] >= 0


def test_steps_are_round() -> None:
    found = [axes.round_step(v) for v in (1, 1.01, 2.1, 2.6, 5.1, 0.03, 700)]
    assert found == pytest.approx([1, 2, 2.5, 5, 10, 0.05, 1000])


def test_the_heat_map_is_ordered_to_the_eye() -> None:
    # Relative luminance by IEC 61966-2-1 and Rec. 709, lightness by CIE 1976: not what the map is made from.
    shown = colours.heat_colours() / 255
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = 116 * np.cbrt(luminance) - 16
    steps = -np.diff(lightness[::8])
    assert lightness[0] > 95
    assert lightness[-1] < 25
    assert (steps > 0.5 * steps.mean()).all()
    assert (steps < 1.6 * steps.mean()).all()


def test_the_heat_map_has_a_fixed_scale() -> None:
    levels = np.array([[0, 16, 64, 200]], np.uint8)
    assert colours.place(levels).tolist() == [[0, 0.5, 1, 1]]
    made = colours.heat(levels)
    table = colours.heat_colours()
    assert np.array_equal(made[0], table[[0, 128, 255, 255]])


def test_a_pair_of_pictures() -> None:
    a = np.random.RandomState(0).randint(20, 200, (16, 12, 3)).astype(np.uint8)
    b = a.copy()
    b[3, 4] += np.array([1, 0, 9], np.uint8)
    found = pair(a, b)
    assert found.difference[3, 4] == 9
    assert found.difference.sum() == 9
    assert found.psnr_db == pytest.approx(10 * math.log10(255**2 * a.size / (1 + 81)))
    assert found.ssim is not None
    assert found.ssim < 1
    assert pair(a[:8], b[:8]).ssim is None
    assert pair(a, a).psnr_db == math.inf


def points(*values: tuple[float, float, int]) -> list[Point]:
    """Points at latency, PSNR and size."""
    return [
        Point(chr(65 + i), f"bundle {i}", t, 0.9 * t, 1.2 * t, q, size, True)
        for i, (t, q, size) in enumerate(values)
    ]


PLOTS = {
    "one": points((1.2, math.inf, 3_000_000)),
    "equal": points(*[(0.5, math.inf, 7_000_000)] * 4),
    "several": points((1.0, math.inf, 1 << 32), (0.4, 30.1, 1 << 30), (1.1, 44, 1 << 30), (1.3, 25, 1 << 29)),
    "far": points((120.0, math.inf, 4 << 30), (0.4, 3.2, 1 << 20), (9.0, 71.3, 1 << 30)),
    "none equal": points((1.0, 20.0, 10), (2.0, 30.0, 20)),
}  # fmt: skip


@pytest.mark.parametrize("name", PLOTS)
def test_plots(name: str) -> None:
    scene = plot(PLOTS[name])
    drawn = ET.fromstring(to_svg(scene).replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ', 1))
    texts = [e.text for e in drawn.iter(f"{SVG}text")]
    for p in PLOTS[name]:
        assert any(f"{p.letter} bundle" in str(text) for text in texts)
    assert ("identical" in texts) == any(math.isinf(p.psnr_db) for p in PLOTS[name])
    for e in drawn.iter():
        for key in ("x", "cx"):
            assert 0 <= float(e.get(key, 0)) <= scene.width
        for key in ("y", "cy"):
            assert 0 <= float(e.get(key, 0)) <= scene.height
    picture = to_picture(scene)
    assert picture.size == (2 * scene.width, 2 * scene.height)
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 10


def test_labels_do_not_cover_each_other() -> None:
    inside = Box(0, 0, 800, 500)
    texts = [(f"bundle {i}", "0.41 s, 31.2 dB, 320 MB") for i in range(6)]
    marks = [Box(395 + 4 * i, 240, 415 + 4 * i, 260) for i in range(6)]
    found = placed(texts, marks, [], inside)
    boxes = []
    for (name, figures), place in zip(texts, found, strict=True):
        wide = max(letters.width(name, 14), letters.width(figures, 12))
        left = place.x - wide * {"start": 0, "middle": 0.5, "end": 1}[place.anchor]
        boxes.append(Box(left, place.top, left + wide, place.top + 32))
    for a, b in combinations([*boxes], 2):
        assert a.overlap(b) == 0
    assert all(b.left >= 0 and b.right <= 800 and b.top >= 0 and b.bottom <= 500 for b in boxes)


def test_svg_is_escaped() -> None:
    nasty = '</text><script>alert("1")</script>&'
    made = to_svg(Scene(10, 10, (Label(1, 2, nasty, 12, "#000"),), nasty))
    found = ET.fromstring(made)
    assert [e.tag for e in found.iter()] == ["svg", "text"]
    assert found[0].text == nasty
    assert found.get("aria-label") == nasty


def test_numbers_as_people_read_them() -> None:
    assert [units.seconds(v) for v in (0.0123, 0.41, 0.9997, 3.2, 71.04, 1234)] == [
        "12.3 ms", "410 ms", "1 s", "3.2 s", "71 s", "1234 s",
    ]  # fmt: skip
    assert [units.size(v) for v in (7, 999, 1000, 7_613_574, 999_600, 4.27e9, 2e12, None)] == [
        "7 bytes", "999 bytes", "1 kB", "7.61 MB", "1 MB", "4.27 GB", "2000 GB", "unknown",
    ]  # fmt: skip
    assert [units.decibel(v) for v in (31.24, math.inf, None)] == ["31.2 dB", "identical", "not comparable"]
    assert [units.similarity(v) for v in (0.99999, 1.0, 0.5, None)] == ["0.9999", "1", "0.5000", "too small"]


def test_text_that_would_mislead_is_shown_as_what_it_is() -> None:
    assert units.visible("a\u202eb\x1b[0m\nc\udc80 日本 é") == "a\\u202eb\\x1b[0m\\nc\\udc80 日本 é"


def test_text_on_pictures() -> None:
    assert letters.drawable("„Übergröße“ – naïve ×2, 日本 ı") == "”Ubergrosse“ - naive x2, ?? ?"
    lines = letters.wrapped("a large yellow star on a navy background " * 5, 150, 14, 4)
    assert len(lines) == 4
    assert lines[-1].endswith("…")
    assert all(letters.width(line, 14) <= 150 for line in lines)
    assert letters.wrapped("short", 150, 14, 4) == ["short"]
    assert letters.wrapped("", 150, 14, 4) == []
    long = letters.wrapped("x" * 100, 150, 14, 9)
    assert "".join(long) == "x" * 100
    assert all(letters.width(line, 14) <= 150 for line in long)


def test_cells_keep_the_shape_of_pictures() -> None:
    assert cell(64, 64) == (256, 256)
    assert cell(100, 60) == (200, 120)
    assert cell(512, 512) == (256, 256)
    assert cell(1024, 256) == (256, 64)
    assert cell(64, 64, 160) == (128, 128)


def test_a_disk_that_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for name in ("made", "made.html"):
        with pytest.raises(ResourceError, match="No space left"):
            output.write(tmp_path / name, {"compare.html": b"x"})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(InputError, match="it exists"):
        output.write(tmp_path / "made", {"compare.html": b"x"})
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_a_link_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    with pytest.raises(InputError, match="not replaced"):
        output.checked(tmp_path / "link", overwrite=True)
