"""Whole SDXL pictures from text against diffusers' own pipeline: same weights, same seed, a CPU generator;
within 2/255 everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgediff.errors import InputError
from tests.edgediff.xl_pictures import SIZE, difference, exporter, generators

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("onnx")
pytestmark = pytest.mark.parity

OPTIONS: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "np", **SIZE}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    yield from exporter(tmp_path_factory.mktemp, "SDXL from text")


def agrees(
    pair: Any, prompts: Any, seed: Any = 1, theirs: dict[str, Any] | None = None, **options: Any
) -> None:
    """Draw with both, and compare; ``theirs`` spells an argument as diffusers wants it."""
    reference, pipe = pair
    expected = reference(
        prompts, generator=generators(seed), **{**OPTIONS, **options, **(theirs or {})}
    ).images
    assert difference(expected, pipe(prompts, seed=seed, **{**OPTIONS, **options}).images) <= 2


@pytest.mark.parametrize("negative", [None, "", "a dog"])
@pytest.mark.parametrize("zeros", [True, False])
def test_negatives(exported: Any, negative: str | None, zeros: bool) -> None:
    agrees(exported(zeros=zeros), "red circle", negative_prompt=negative)


def test_zeros_are_not_the_empty_prompt(exported: Any) -> None:
    _, pipe = exported()
    drawn = [pipe("red circle", negative_prompt=no, seed=1, **OPTIONS).images for no in (None, "")]
    assert np.abs(drawn[0] - drawn[1]).max() * 255 > 10


@pytest.mark.parametrize("name", ["euler", "ddim", "dpmpp", "euler-v", "ddim-v"])
@pytest.mark.parametrize(
    ("prompts", "per_prompt", "seed"),
    [(["red circle", "a blue cat"], 2, 5), (["red", "blue"], 1, [1, 2**32 - 1])],
)
def test_guided(exported: Any, name: str, prompts: list[str], per_prompt: int, seed: Any) -> None:
    agrees(
        exported(name), prompts, seed, negative_prompt=["square"] * len(prompts),
        num_images_per_prompt=per_prompt,
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 7.5, "guidance_rescale": 0.7},
        {"prompt_2": "a cat"},
        {"prompt_2": "a cat", "negative_prompt": "dog", "negative_prompt_2": "blue"},
        {"original_size": (512, 300), "crops_coords_top_left": (10, 20), "target_size": (100, 200)},
        {"negative_original_size": (512, 300), "negative_target_size": (100, 200)},
        {
            "original_size": (512, 300), "negative_original_size": (300, 400),
            "negative_target_size": (100, 200), "negative_crops_coords_top_left": (4, 8),
        },
        {"clip_skip": 1},
        {"clip_skip": 2, "negative_prompt": "dog"},
        {"height": 64, "width": 128},
    ],
)  # fmt: skip
def test_arguments(exported: Any, options: dict[str, Any]) -> None:
    reference, pipe = exported()
    agrees((reference, pipe), "red circle", **options)
    plain = pipe(
        "red circle", seed=1, **{**OPTIONS, **{k: v for k, v in options.items() if k in SIZE}}
    ).images
    changed = pipe("red circle", seed=1, **{**OPTIONS, **options}).images
    assert "width" in options or np.abs(plain - changed).max() * 255 > 5, (
        "it would agree without the argument"
    )


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("seed", [3, [4, 5]])
def test_turbo(exported: Any, steps: int, seed: Any) -> None:
    prompts = ["red circle", "white"] if isinstance(seed, list) else "red circle"
    agrees(exported("turbo"), prompts, seed, num_inference_steps=steps, guidance_scale=0.0)


def test_guidance_as_an_input_of_the_network(exported: Any) -> None:
    agrees(exported("lcm", guidance_dims=8), "red circle", 2, guidance_scale=6.0)


def test_long_prompts_are_cut_alike(exported: Any) -> None:
    with pytest.warns(UserWarning, match="dropped"):
        agrees(exported(), "a red circle " * 10)


def test_embeddings_go_out_and_in(exported: Any) -> None:
    reference, pipe = exported()
    hidden, pooled = pipe.encode_prompt(["red circle", "a cat"], prompt_2=["blue", "white"], clip_skip=1)
    with torch.no_grad():
        expected = reference.encode_prompt(
            ["red circle", "a cat"],
            prompt_2=["blue", "white"],
            clip_skip=1,
            do_classifier_free_guidance=False,
        )
    assert np.abs(hidden - expected[0].numpy()).max() < 1e-4
    assert np.abs(pooled - expected[2].numpy()).max() < 1e-4
    no = pipe.encode_prompt("dog")
    given = {"prompt_embeds": hidden, "pooled_prompt_embeds": pooled, "seed": 1, **OPTIONS}
    texts = {"prompt_2": ["blue", "white"], "clip_skip": 1, "seed": 1, **OPTIONS}
    prompts = ["red circle", "a cat"]
    assert np.array_equal(pipe(**given).images, pipe(prompts, **texts).images)
    told = pipe(**given, negative_prompt="dog").images
    assert np.array_equal(told, pipe(prompts, negative_prompt="dog", **texts).images)
    again = pipe(**given, negative_prompt_embeds=no[0], negative_pooled_prompt_embeds=no[1]).images
    assert np.array_equal(told, again)
    tensors = {name: torch.from_numpy(given[name]) for name in ("prompt_embeds", "pooled_prompt_embeds")}
    theirs = reference(**tensors, generator=generators(1), **OPTIONS).images
    assert difference(theirs, pipe(**given).images) <= 2


def test_weights_and_chunks(exported: Any) -> None:
    _, pipe = exported()
    plain, pooled = pipe.encode_prompt("a red circle")
    for text, same in (("a red circle", True), ("a (red:1.4) circle", False)):
        hidden, vector = pipe.encode_prompt(text, prompt_syntax="a1111")
        assert np.array_equal(hidden, plain) == same
        assert np.array_equal(vector, pooled)
    hidden, vector = pipe.encode_prompt("a red circle BREAK a cat", prompt_syntax="a1111")
    assert hidden.shape == (1, 2 * plain.shape[1], plain.shape[2])
    assert np.array_equal(hidden[:, : plain.shape[1]], plain)
    assert np.array_equal(vector, pooled)
    shorter, _ = pipe.encode_prompt("a red circle", prompt_2="a BREAK cat", prompt_syntax="a1111")
    assert shorter.shape == hidden.shape  # both encoders get as many chunks as the longest text
    images = pipe("a (red:1.2) circle on white " * 6, prompt_syntax="a1111", seed=0, **OPTIONS).images
    assert images.std() > 0.01


def test_too_many_layers_are_refused_before_anything_is_loaded(exported: Any) -> None:
    _, pipe = exported()
    with pytest.raises(InputError, match=r"clip_skip: 3 layers cannot be left out .* 1 to 2 can"):
        pipe("a", clip_skip=3)
