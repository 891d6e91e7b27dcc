"""The facade through the null runtime: what comes out, what is refused, who may call it when."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgediff
from edgediff.errors import BusyError, CancelledError, InputError, NumericError, UnsupportedError
from edgediff.parts import parse_devices
from edgediff.runtimes.null import NullGraph


@pytest.fixture
def pipe(fake_bundle: Path) -> Iterator[edgediff.Pipeline]:
    with edgediff.load(fake_bundle, runtime="null") as pipeline:
        yield pipeline


def test_a_picture(pipe: edgediff.Pipeline) -> None:
    output = pipe("a red circle", seed=7)
    (image,) = output.images
    assert isinstance(image, Image.Image)
    assert image.size == (32, 32)
    assert set(np.asarray(image).ravel()) == {128}  # the null decoder's zeros are the middle of [-1, 1]
    assert output.seed == 7
    assert output[0] is output.images
    assert {"load", "text_encoder", "denoiser", "decoder", "total"} <= set(output.timings)


def test_sizes(pipe: edgediff.Pipeline) -> None:
    assert pipe("a", width=48, height=8).images[0].size == (48, 8)


def test_batches(pipe: edgediff.Pipeline) -> None:
    assert len(pipe(["a", "b", "c"]).images) == 3
    assert len(pipe("a", num_images_per_prompt=4).images) == 4
    output = pipe(["a", "b"], num_images_per_prompt=2, negative_prompt=["c", "d"], seed=[1, 2, 3, 4])
    assert len(output.images) == 4
    assert output.seed == (1, 2, 3, 4)


def test_output_types(pipe: edgediff.Pipeline) -> None:
    array = pipe(["a", "b"], output_type="np").images
    assert (array.dtype, array.shape) == (np.float32, (2, 32, 32, 3))
    assert np.all(array == 0.5)
    latents = pipe("a", output_type="latent", width=16).images
    assert (latents.dtype, latents.shape) == (np.float32, (1, 4, 4, 2))
    assert pipe.decode(latents)[0].size == (16, 32)
    assert pipe.decode(latents, "np").shape == (1, 32, 16, 3)


def test_a_seed_decides_everything(pipe: edgediff.Pipeline) -> None:
    def draw(**arguments: Any) -> Any:
        return pipe(**{"prompt": "a", "output_type": "latent", **arguments}).images

    assert np.array_equal(draw(seed=1), draw(seed=1))
    assert not np.array_equal(draw(seed=1), draw(seed=2))
    assert not np.array_equal(draw(), draw())
    both = draw(prompt=["a", "b"], seed=[1, 2])
    assert np.array_equal(both[:1], draw(seed=1))
    assert np.array_equal(both[1:], draw(seed=2))


def test_a_random_seed_is_reported(pipe: edgediff.Pipeline) -> None:
    first = pipe("a", output_type="latent")
    assert isinstance(first.seed, int)
    again = pipe("a", output_type="latent", seed=first.seed)
    assert np.array_equal(first.images, again.images)


def test_latents_replace_the_noise(pipe: edgediff.Pipeline) -> None:
    start = np.zeros((1, 4, 4, 4))
    assert not pipe("a", latents=start, output_type="latent", seed=3).images.any()


def test_a_stream_ends_in_the_same_picture(pipe: edgediff.Pipeline) -> None:
    steps = list(pipe.stream("a", seed=5, num_inference_steps=4))
    assert [step.i for step in steps] == [0, 1, 2, 3]
    assert np.array_equal(steps[-1].x, pipe("a", seed=5, num_inference_steps=4, output_type="latent").images)
    assert pipe.decode(steps[0].clean)[0].size == (32, 32)


def test_a_stream_checks_its_arguments_at_once(pipe: edgediff.Pipeline) -> None:
    with pytest.raises(InputError, match="num_inference_steps"):
        pipe.stream("a", num_inference_steps=0)


def test_one_call_at_a_time(pipe: edgediff.Pipeline) -> None:
    stream = pipe.stream("a")
    next(stream)
    with pytest.raises(BusyError, match="drawing already"):
        pipe("b")
    with pytest.raises(BusyError):
        next(pipe.stream("b"))
    stream.close()  # type: ignore[attr-defined]
    assert pipe("b").images


def cancel_during(pipe: edgediff.Pipeline, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Let another thread cancel while the nth graph of the next call runs."""
    calls = 0
    plain = NullGraph.__call__

    def call(self: NullGraph, inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            other = threading.Thread(target=pipe.cancel)
            other.start()
            other.join()
        return plain(self, inputs)

    monkeypatch.setattr(NullGraph, "__call__", call)


@pytest.mark.parametrize("nth", [1, 3, 5, 6], ids=["text", "first-step", "last-step", "decoder"])
def test_cancel_from_another_thread(
    pipe: edgediff.Pipeline, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    expected = np.asarray(pipe("a", seed=0).images[0])
    pipe._parts.memory.clear()  # so that the prompts are encoded once more: two calls
    cancel_during(pipe, monkeypatch, nth)
    with pytest.raises(CancelledError, match="nothing was written"):
        pipe("a", seed=0)
    monkeypatch.undo()
    assert np.array_equal(np.asarray(pipe("a", seed=0).images[0]), expected)


def test_cancel_of_a_stream(pipe: edgediff.Pipeline) -> None:
    stream = pipe.stream("a")
    next(stream)
    pipe.cancel()
    with pytest.raises(CancelledError):
        next(stream)
    assert pipe("a").images


def test_the_pipeline_survives_errors(pipe: edgediff.Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = pipe("a", seed=0, output_type="latent").images
    for _ in range(20):
        with monkeypatch.context() as patch:
            patch.setattr(NullGraph, "__call__", lambda self, inputs: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                pipe("a", seed=0)
        assert np.array_equal(pipe("a", seed=0, output_type="latent").images, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("nth", "says"),
    [(1, "text_encoder"), (3, "denoiser|step 1"), (5, "denoiser|step 3"), (6, "decoder")],
)
def test_one_bad_number_is_enough(
    pipe: edgediff.Pipeline, monkeypatch: pytest.MonkeyPatch, value: float, nth: int, says: str
) -> None:
    calls = 0
    plain = NullGraph.__call__

    def call(self: NullGraph, inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        outputs = plain(self, inputs)
        if calls == nth:
            next(iter(outputs.values())).reshape(-1)[-1] = value
        return outputs

    pipe._parts.memory.clear()
    monkeypatch.setattr(NullGraph, "__call__", call)
    with pytest.raises(NumericError, match=says):
        pipe("a", seed=0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": ["a"] * 33, "num_images_per_prompt": 2}, "66 results"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt"),
        ({"negative_prompt": 3}, "negative_prompt"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 1001}, "num_inference_steps"),
        ({"num_inference_steps": 1.5}, "num_inference_steps"),
        ({"num_inference_steps": True}, "num_inference_steps"),
        ({"num_inference_steps": "4"}, "num_inference_steps"),
        ({"num_inference_steps": float("nan")}, "num_inference_steps"),
        ({"num_inference_steps": 2, "timesteps": [3, 1]}, "timesteps"),
        ({"timesteps": []}, "timesteps"),
        ({"timesteps": [1, 3]}, "timesteps"),
        ({"timesteps": [1000, 3]}, "timesteps"),
        ({"timesteps": ["a"]}, "timesteps"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"guidance_scale": 101}, "guidance_scale"),
        ({"guidance_scale": "7"}, "guidance_scale"),
        ({"guidance_rescale": 1.1}, "guidance_rescale"),
        ({"eta": -0.1}, "eta"),
        ({"height": 0}, "height"),
        ({"height": 7}, "the nearest is 8"),
        ({"width": 65}, "the nearest is 64"),
        ({"width": 16385}, "16384"),
        ({"width": -8}, "width"),
        ({"width": 8.0}, "width"),
        ({"width": 1 << 40}, "width"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 32}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"seed": [1, 2]}, "seed"),
        ({"seed": []}, "seed"),
        ({"seed": ["a"]}, "seed"),
        ({"latents": np.zeros((1, 4, 4, 5))}, "latents"),
        ({"latents": np.full((1, 4, 4, 4), np.nan)}, "latents"),
        ({"latents": np.zeros((1, 4, 4, 4), int)}, "latents"),
        ({"latents": "noise"}, "latents"),
        ({"sampler": "nothing"}, "sampler 'nothing' is unknown"),
        ({"output_type": "jpeg"}, "output_type"),
    ],
)
def test_wrong_arguments(pipe: edgediff.Pipeline, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        pipe(**{"prompt": "a", **arguments})
    assert "\n" not in str(caught.value)
    assert not pipe.infos()  # refused before anything was loaded


def test_latents_of_the_other_byte_order(pipe: edgediff.Pipeline) -> None:
    start = np.random.RandomState(0).standard_normal((1, 4, 4, 4)).astype(np.float32)
    swapped = np.asfortranarray(start.astype(">f4"))
    first, second = (pipe("a", latents=x, output_type="latent").images for x in (start, swapped))
    assert np.array_equal(first, second)


def test_a_negative_prompt_without_guidance_is_said_to_be_idle(pipe: edgediff.Pipeline) -> None:
    with pytest.warns(UserWarning, match="negative_prompt has no effect"):
        pipe("a", negative_prompt="b", guidance_scale=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe("a", negative_prompt="b", guidance_scale=1.01)


def test_nothing_is_loaded_before_it_is_needed(fake_bundle: Path) -> None:
    pipe = edgediff.load(fake_bundle, runtime="null")
    assert pipe.infos() == {}
    stream = pipe.stream("a")
    assert pipe.infos() == {}
    next(stream)
    assert set(pipe.infos()) == {"text_encoder", "denoiser"}
    stream.close()  # type: ignore[attr-defined]
    pipe.close()
    assert pipe.infos() == {}
    assert pipe("a").images  # closing gives memory back; the next call loads again


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads(fake_bundle: Path, threads: Any) -> None:
    with pytest.raises(InputError, match="threads"):
        edgediff.load(fake_bundle, threads=threads)


def test_devices_by_part() -> None:
    assert parse_devices("cuda") == {"": "cuda"}
    assert parse_devices("denoiser=cuda, decoder=cpu") == {"": "auto", "denoiser": "cuda", "decoder": "cpu"}
    assert parse_devices("coreml,decoder=cpu") == {"": "coreml", "decoder": "cpu"}
    for wrong in ("", "denoiser=", "=cpu", "vae=cpu", "a=b=c", "cpu,", "decoder=cpu,decoder=cuda"):
        with pytest.raises(InputError, match="ROLE=DEVICE"):
            parse_devices(wrong)


def test_runtimes_by_name(fake_bundle: Path) -> None:
    with pytest.raises(InputError, match=r"runtime 'tpu' is unknown; choose one of .*null"):
        edgediff.load(fake_bundle, runtime="tpu")("a")


def test_a_runtime_that_is_not_installed(fake_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "edgediff.runtimes.recorded", None)
    with pytest.raises(UnsupportedError, match="recorded"):
        edgediff.load(fake_bundle, runtime="recorded")("a")
