"""Tasks without a reference beside them: what is refused, what is cut, what is kept, what is remembered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgediff
from edgediff.errors import CancelledError, InputError, NumericError
from edgediff.runtimes.onnxruntime import OnnxGraph

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The embedded model: it has every part."""
    with edgediff.load(threads=1) as pipe:
        yield pipe


def picture(width: int = 64, height: int = 64) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([rows * 3, columns * 3, rows + columns], axis=-1).astype(np.uint8))


def mask(width: int = 64, height: int = 64) -> Image.Image:
    shape = np.zeros((height, width), np.uint8)
    shape[height // 2 :] = 255
    return Image.fromarray(shape)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("image2image", {"image": picture(), "strength": 0}, "strength: 0 would return"),
    ("image2image", {"image": picture(), "strength": 1.0001}, "strength"),
    ("image2image", {"image": picture(), "strength": float("nan")}, "strength"),
    ("image2image", {"image": picture(), "strength": True}, "strength"),
    ("image2image", {"image": picture(), "strength": 0.1, "sampler": "ddim"}, "at least 10 steps"),
    ("image2image", {"image": None}, "image"),
    ("image2image", {"image": []}, "image"),
    ("image2image", {"image": "no-such-file.png"}, "no-such-file.png"),
    ("image2image", {"image": picture(60, 64)}, "width: 60 is no multiple of 8; the nearest is 64"),
    ("image2image", {"image": picture(72, 64), "width": 64}, "resize, crop, fill"),
    ("image2image", {"image": picture(), "fit": "stretch"}, "fit"),
    ("image2image", {"image": [picture(), picture()]}, "2 were given for 1 prompts"),
    ("inpaint", {"image": picture(), "mask_image": mask(32, 64)}, "mask_image"),
    ("inpaint", {"image": picture(), "mask_image": None}, "mask_image"),
    ("inpaint", {"image": picture(), "mask_image": []}, "mask_image"),
    ("inpaint", {"image": picture(), "mask_image": mask(), "mask_blur": -1}, "mask_blur"),
    ("inpaint", {"image": picture(), "mask_image": mask(), "padding_mask_crop": 1.5}, "padding_mask_crop"),
    ("inpaint", {"image": [picture()] * 2, "mask_image": mask(), "padding_mask_crop": 2}, "one at a time"),
    ("__call__", {"denoising_end": 2}, "denoising_end"),
    ("__call__", {"denoising_start": 0.5}, "latents"),
    ("__call__", {"denoising_start": 0.6, "denoising_end": 0.5}, "no step"),
    ("__call__", {"denoising_end": 0.0}, "no step"),
    ("__call__", {"noise": "mersenne"}, "noise"),
    ("__call__", {"seed": 2**32}, "4294967295"),
    ("__call__", {"seed": 2**64, "noise": "philox"}, "18446744073709551615"),
    ("__call__", {"clip_skip": -1}, "clip_skip"),
    ("__call__", {"prompt_syntax": "compel"}, "prompt_syntax"),
    ("__call__", {"prompt_embeds": np.zeros((1, 3, 4), np.float32)}, "either a prompt or prompt_embeds"),
    ("__call__", {"prompt": None}, "either a prompt or prompt_embeds"),
    ("__call__", {"prompt": None, "prompt_embeds": np.zeros((3, 4), np.float32)}, "prompt_embeds"),
    ("__call__", {"prompt": None, "prompt_embeds": np.full((1, 3, 4), np.nan)}, "prompt_embeds"),
    ("__call__", {"callback_on_step_end_tensor_inputs": ["noise_pred"]}, "noise_pred"),
]  # fmt: skip


def named(value: object) -> str:
    """A case's name, without the address of a picture in it, which is another in each process."""
    return re.sub(" at 0x[0-9A-Fa-f]+", "", str(value))[:60]


@pytest.mark.parametrize(("method", "arguments", "says"), WRONG, ids=named)
def test_refused_before_any_graph_is_loaded(method: str, arguments: dict[str, Any], says: str) -> None:
    with edgediff.load() as fresh:
        with pytest.raises(InputError, match=says):
            getattr(fresh, method)(**{"prompt": "a", **arguments})
        assert not fresh.infos()


def test_a_bundle_without_an_encoder_says_so(fake_bundle: Path) -> None:
    pipe = edgediff.load(fake_bundle, runtime="null")
    with pytest.raises(InputError, match="has no encoder"):
        pipe.image2image("a", picture(32, 32))
    with pytest.raises(InputError, match="has no encoder"):
        pipe.inpaint("a", picture(32, 32), mask(32, 32))


def test_a_mask_needs_its_image(pipe: Any) -> None:
    with pytest.raises(InputError, match="give the image too"):
        pipe.stream("a", mask_image=mask())


@pytest.mark.parametrize("fit", ["resize", "crop", "fill"])
def test_other_sizes_by_a_rule(pipe: Any, fit: str) -> None:
    got = pipe.image2image("a red circle", picture(100, 50), fit=fit, height=64, width=64, seed=0).images[0]
    assert got.size == (64, 64)
    whole = pipe.image2image("a red circle", picture(61, 67), fit=fit, seed=0).images[0]
    assert whole.size == (64, 64)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_stopping_and_going_on_is_one_run(pipe: Any, sampler: str, share: float) -> None:
    options = {"seed": 3, "sampler": sampler, "num_inference_steps": 6}
    whole = pipe("a red circle", output_type="np", **options).images
    half = pipe("a red circle", denoising_end=share, output_type="latent", **options).images
    rest = pipe("a red circle", denoising_start=share, latents=half, output_type="np", **options).images
    assert np.array_equal(rest, whole)


def test_streams_of_all_tasks(pipe: Any) -> None:
    options = {"image": picture(), "seed": 1, "num_inference_steps": 4}
    last = list(pipe.stream("a blue square", strength=0.7, **options))[-1]
    whole = pipe.image2image("a blue square", strength=0.7, **options).images[0]
    assert np.array_equal(np.asarray(pipe.decode(last.x)[0]), np.asarray(whole))
    last = list(pipe.stream("a blue square", mask_image=mask(), **options))[-1]
    whole = pipe.inpaint("a blue square", mask_image=mask(), **options).images[0]
    assert np.array_equal(np.asarray(pipe.decode(last.x)[0]), np.asarray(whole))


def test_a_sample_may_be_changed_in_place(pipe: Any) -> None:
    def halved(pipe: Any, i: int, t: float, given: dict[str, Any]) -> dict[str, Any]:
        return {"latents": given["latents"] * 0.5} if i == 1 else {}

    options = {"seed": 2, "num_inference_steps": 4, "sampler": "dpmpp_2m"}
    expected = pipe("a red circle", callback_on_step_end=halved, output_type="latent", **options).images
    for step in pipe.stream("a red circle", **options):
        if step.i == 1:
            step.x[...] = step.x * np.float32(0.5)
    assert np.array_equal(step.x, expected)
    with pytest.raises(InputError, match="callback_on_step_end"):
        pipe("a", callback_on_step_end=lambda *given: {"latents": np.zeros(3)})
    with pytest.raises(CancelledError):
        pipe("a", callback_on_step_end=lambda pipe, *given: pipe.cancel())


def test_nan_from_a_callback_is_found(pipe: Any) -> None:
    with pytest.raises(NumericError):
        pipe("a", callback_on_step_end=lambda p, i, t, given: {"latents": given["latents"] * np.nan})


def test_encoded_prompts_in_and_out(pipe: Any) -> None:
    embeds = pipe.encode_prompt(["a red circle", "a blue square"])
    assert embeds.shape[0] == 2
    assert embeds.dtype == np.float32
    expected = pipe(["a red circle", "a blue square"], seed=5, output_type="np").images
    assert np.array_equal(pipe(prompt_embeds=embeds, seed=5, output_type="np").images, expected)


def test_guided_embeddings(onnx_bundle: Path) -> None:
    with edgediff.load(onnx_bundle, threads=1) as pipe:
        expected = pipe("red", negative_prompt="blue", seed=1, output_type="np").images
        given = {"prompt_embeds": pipe.encode_prompt("red"), "seed": 1, "output_type": "np"}
        assert np.array_equal(pipe(negative_prompt="blue", **given).images, expected)
        no = pipe.encode_prompt("blue")
        assert np.array_equal(pipe(negative_prompt_embeds=no, **given).images, expected)
        with pytest.raises(InputError, match="differ in tokens"):
            pipe(negative_prompt_embeds=no[:, :3], **given)


def test_a_prompt_is_encoded_once(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe("a green star", seed=0)
    ran: list[set[str]] = []
    plain = OnnxGraph.__call__

    def call(self: OnnxGraph, feeds: Any) -> Any:
        ran.append(set(feeds))
        return plain(self, feeds)

    monkeypatch.setattr(OnnxGraph, "__call__", call)
    first = pipe("a green star", seed=1).images[0]
    assert {"input_ids"} not in ran
    pipe._parts.memory.clear()
    assert np.array_equal(np.asarray(pipe("a green star", seed=1).images[0]), np.asarray(first))
    assert {"input_ids"} in ran


def test_weights_and_long_prompts(pipe: Any) -> None:
    plain = pipe.encode_prompt("a red circle")
    assert np.array_equal(pipe.encode_prompt("a red circle", prompt_syntax="a1111"), plain)
    assert not np.array_equal(pipe.encode_prompt("a (red:1.4) circle", prompt_syntax="a1111"), plain)
    long = pipe.encode_prompt(["a red circle " * 30, "a"], prompt_syntax="a1111")
    assert long.shape[1] > plain.shape[1]
    images = pipe("a (red:1.2) circle on a white background " * 6, prompt_syntax="a1111", seed=0).images
    assert images[0].size == (64, 64)


@pytest.mark.parametrize("noise", ["torch", "philox", "numpy"])
def test_noise_streams_draw_pictures(pipe: Any, noise: str) -> None:
    one = pipe("a red circle", seed=[3, 4], num_images_per_prompt=2, noise=noise, output_type="np").images
    alone = pipe("a red circle", seed=4, noise=noise, output_type="np").images
    assert np.abs(one[1] - alone[0]).max() < 1e-4
    assert np.abs(one[0] - one[1]).max() > 0.05


def test_unmasked_bytes_stay(pipe: Any) -> None:
    given, shape = picture(), mask()
    got = pipe.inpaint("a red circle", given, shape, keep_unmasked=True, seed=0).images[0]
    kept = np.asarray(shape) == 0
    assert np.array_equal(np.asarray(got)[kept], np.asarray(given)[kept])
    assert not np.array_equal(np.asarray(got)[~kept], np.asarray(given)[~kept])
    large = picture(200, 120)
    spot = np.zeros((120, 200), np.uint8)
    spot[90:110, 150:180] = 255
    got = pipe.inpaint("a red circle", large, Image.fromarray(spot), padding_mask_crop=8, seed=0).images[0]
    assert got.size == (200, 120)
    assert np.array_equal(np.asarray(got)[spot == 0], np.asarray(large)[spot == 0])
