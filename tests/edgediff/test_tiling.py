"""Decoding in tiles: geometry in closed form, against the whole decode of the embedded model, and faults."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from benchmarks.seams import measured
from edgediff import tiling
from edgediff.errors import CancelledError, InputError, ResourceError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("extent", [16, 31, 32, 33, 47, 64, 100, 129])
@pytest.mark.parametrize("tile", [32, 40, 64])
def test_spans_cover_and_add_up(extent: int, tile: int) -> None:
    found = tiling.spans(extent, tile, 3)
    total = np.zeros(extent * 3)
    for span in found:
        assert span.stop - span.start == min(tile, extent)
        total[span.start * 3 : span.stop * 3] += span.weights
    assert (found[0].start, found[-1].stop) == (0, extent)
    np.testing.assert_allclose(total, 1, atol=1e-6)
    for one, next_one in itertools.pairwise(found):
        assert one.stop - next_one.start >= tiling.OVERLAP
        margin = tiling.MARGIN * 3
        assert not one.weights[-margin:].any() and not next_one.weights[:margin].any()


def upscaled(latents: Any) -> Any:
    """A decoder that sees one latent at a time: three channels, each latent a 2x2 block."""
    return np.repeat(np.repeat(latents[:, :3], 2, axis=2), 2, axis=3)


@pytest.mark.parametrize(("height", "width"), [(33, 70), (64, 20), (128, 96)])
def test_pointwise_decoders_lose_nothing(height: int, width: int) -> None:
    latents = RNG.standard_normal((2, 4, height, width), np.float32)
    made = tiling.blended(upscaled, latents, 32, (2, 2))
    np.testing.assert_allclose(made, upscaled(latents), atol=1e-6)


def test_what_a_margin_hides_is_hidden() -> None:
    """A decoder with zeros around what it is given, whose context is within the margin, is exact."""

    def mean(latents: Any) -> Any:
        padded = np.pad(latents, ((0, 0), (0, 0), (tiling.MARGIN,) * 2, (tiling.MARGIN,) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * tiling.MARGIN + 1,) * 2, axis=(2, 3))
        return upscaled(windows.mean(axis=(4, 5)))

    latents = RNG.standard_normal((1, 3, 70, 50), np.float32) + 2
    np.testing.assert_allclose(tiling.blended(mean, latents, 36, (2, 2)), mean(latents), atol=1e-5)


def test_progress_is_told_per_tile() -> None:
    told: list[tuple[int, int]] = []
    tiling.blended(upscaled, np.ones((1, 3, 48, 32), np.float32), 32, (2, 2), lambda *now: told.append(now))
    assert told == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("tile", [0, -8, 8, 257, 2.5, True, "many", None])
def test_sides_that_are_none(tile: Any) -> None:
    with pytest.raises(InputError, match="tile_decode"):
        tiling.checked(tile, {"height": 8, "width": 8})


def test_largest() -> None:
    size, factors = {"height": 1024, "width": 768}, {"height": 8, "width": 8}
    assert tiling.largest(size, factors, lambda h, w: True) is None
    found = tiling.largest(size, factors, lambda h, w: h * w <= 512 * 512)
    assert found is not None and found <= 512 and tiling.checked(found, factors) == found
    with pytest.raises(ResourceError, match="tiny decoder"):
        tiling.largest(size, factors, lambda h, w: False)


@pytest.fixture(scope="module")
def embedded() -> Any:
    with edgediff.load(threads=1) as pipe:
        yield pipe


def test_embedded_model(embedded: Any) -> None:
    """Tiles of a picture are near the whole, and their seams are far below those of no overlap."""
    pictures = RNG.uniform(-1, 1, (1, 3, 40, 48)).repeat(8, axis=2).repeat(8, axis=3).astype(np.float32)
    latents = embedded.encode(pictures)
    whole = embedded.decode(latents, "np")
    tiled = embedded.decode(latents, "np", tile_decode=256)
    butted = np.concatenate(
        [embedded.decode(latents[:, :, a : a + 20], "np") for a in (0, 20)], axis=1
    )  # fmt: skip
    cut = np.arange(319) == 159
    mixed = (np.arange(319) >= 64) & (np.arange(319) < 255)
    found = measured(tiled, whole, [mixed, np.arange(383) % 128 == 127])
    control = measured(butted, whole, [cut, np.arange(383) == 0])
    assert found["psnr_db"] > 35
    assert found["seam_levels"] < control["seam_levels"] / 4
    assert np.array_equal(embedded.decode(latents, "np", tile_decode="off"), whole)
    embedded._parts.decode_tile = 256
    try:
        assert np.array_equal(embedded.decode(latents, "np"), tiled)
    finally:
        embedded._parts.decode_tile = None


def test_a_call_in_tiles(embedded: Any) -> None:
    options: dict[str, Any] = {"seed": 1, "height": 264, "width": 256, "num_inference_steps": 1}
    latents = embedded("a red circle", output_type="latent", **options).images
    made = embedded("a red circle", output_type="np", tile_decode=256, **options).images
    assert np.array_equal(made, embedded.decode(latents, "np", tile_decode=256))
    for wrong in (100, 260, "half", True):
        with pytest.raises(InputError, match="tile_decode"):
            embedded("a red circle", tile_decode=wrong, **options)


def test_cancelled_between_tiles(embedded: Any) -> None:
    latents = np.zeros((1, 16, 40, 40), np.float32)
    told: list[int] = []

    def stop(done: int, total: int) -> None:
        told.append(done)
        embedded.cancel()

    with pytest.raises(CancelledError):
        embedded.decode(latents, "np", tile_decode=256, progress=stop)
    assert told == [0]
    embedded._parts.start()


def test_command_line(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from edgediff.cli.run import command

    out = tmp_path / "out.png"
    asked = ["a red circle", "-o", str(out), "-H", "264", "-W", "264", "--steps", "1", "--json"]
    done = CliRunner().invoke(command, [*asked, "--tile-decode", "256"])
    assert done.exit_code == 0 and out.is_file()
    assert '"tile_decode": 256' in done.output
