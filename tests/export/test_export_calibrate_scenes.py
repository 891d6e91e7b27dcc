"""Prompts and pictures to calibrate with: the files that are refused, and what the pictures are like."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from export_helpers import model_folder

from edgediff.errors import InputError
from edgediff.export.quantize.prompts import FILE, own_prompts, read_prompts
from edgediff.export.quantize.scenes import dead_leaves, edges, gradient, signed
from edgediff.export.sources import open_source

SIZE = {"height": 96, "width": 128}


def test_prompts_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("a café\r\n\r\n  a tree \n".encode())
    assert [each.strip() for each in read_prompts(file)] == ["a café", "a tree"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "0 prompts"),
        (b"\n \n", "0 prompts"),
        (b"\x89PNG\x00\x01", "no text"),
        ("a tree".encode("utf-16"), "UTF-16"),
        (b"a tr\xffee", "not UTF-8"),
        (b"a tree\n" * 65, "65 prompts"),
        (b"x" * ((1 << 20) + 1), "bytes allowed"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, data: bytes, told: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(data)
    with pytest.raises(InputError, match=told):
        read_prompts(file)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a regular file"):
        read_prompts(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "none.txt")


def test_a_model_carries_its_own(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    assert own_prompts(open_source(str(folder))) is None
    (folder / FILE).write_text("a circle\na star\n", encoding="utf-8")
    assert own_prompts(open_source(str(folder))) == ["a circle", "a star"]
    (folder / FILE).write_bytes(b"\0")
    with pytest.raises(InputError, match="no text"):
        own_prompts(open_source(str(folder)))
    assert own_prompts(open_source(str(folder)), "other.txt") is None


def test_the_reference_model_has_captions_that_training_saw() -> None:
    grammar = pytest.importorskip("benchmarks.reference.grammar")
    lines = read_prompts(Path(grammar.__file__).with_name(FILE))
    assert len(lines) == len(set(lines)) == 64
    assert not any(map(grammar.held_out_caption, lines))


def test_pictures_are_in_range_and_the_same_every_time() -> None:
    for picture in (gradient(SIZE), dead_leaves(SIZE, 3), edges(dead_leaves(SIZE, 3))):
        assert picture.shape == (96, 128, 3)
        assert picture.dtype == np.float32
        assert 0 <= picture.min() < picture.max() <= 1
    assert np.array_equal(dead_leaves(SIZE, 3), dead_leaves(SIZE, 3))
    assert not np.array_equal(dead_leaves(SIZE, 3), dead_leaves(SIZE, 4))
    read = signed(gradient(SIZE))
    assert read.shape == (1, 3, 96, 128)
    assert (read.min(), read.max()) == (-1, 1)
    assert json.dumps(read[0, :, 0, 0].tolist()) == json.dumps((gradient(SIZE)[0, 0] * 2 - 1).tolist())


def test_dead_leaves_have_the_spectrum_of_photographs() -> None:
    """Power falls about with the square of the frequency (Field, 1987; Ruderman and Bialek, 1994)."""
    side = 256
    slopes = []
    for seed in range(4):
        grey = dead_leaves({"height": side, "width": side}, seed).mean(axis=2)
        window = np.outer(np.hanning(side), np.hanning(side))
        power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
        at = np.fft.fftfreq(side) * side
        radius = np.hypot(*np.meshgrid(at, at))
        bands = np.geomspace(4, side / 4, 9)
        means = [power[(radius >= a) & (radius < b)].mean() for a, b in pairwise(bands)]
        middles = np.sqrt(bands[1:] * bands[:-1])
        slopes.append(np.polyfit(np.log(middles), np.log(means), 1)[0])
    assert -3.2 < np.mean(slopes) < -1.6


def test_edges_are_where_colours_change() -> None:
    picture = np.zeros((4, 6, 3), np.float32)
    picture[:, 3:] = 1
    assert np.argwhere(edges(picture)[..., 0]).tolist() == [[row, 2] for row in range(4)]
    assert not edges(np.full((4, 6, 3), 0.5, np.float32)).any()
