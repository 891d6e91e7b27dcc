"""SDXL-type bundles through the null runtime: what networks are fed, what is refused, hand-over, limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from edgediff import cli, refining, tasks
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, InputError
from edgediff.noise import TorchNoise
from edgediff.parts import parse_devices
from edgediff.runtimes.null import NullGraph
from tests import tiny, tiny_xl

EMBEDS, POOLED = np.ones((1, tiny.LENGTH, 12), np.float32), np.ones((1, 5), np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("xl")
    for name in ("base", "refiner"):
        (place / name).mkdir()
        tiny_xl.manifest(place / name, refiner=name == "refiner")
    return {name: place / name for name in ("base", "refiner")}


@pytest.fixture
def pipe(folders: dict[str, Path]) -> Iterator[edgediff.Pipeline]:
    with edgediff.load(folders["base"], runtime="null") as pipeline:
        yield pipeline


@pytest.fixture
def refiner(folders: dict[str, Path]) -> Iterator[edgediff.Pipeline]:
    with edgediff.load(folders["refiner"], runtime="null") as pipeline:
        yield pipeline


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each run of a graph is fed. Text encoders give their first real token's number, everywhere."""
    seen: list[dict[str, Any]] = []
    plain = NullGraph.__call__

    def call(self: NullGraph, inputs: Any) -> Any:
        seen.append(dict(inputs))
        outputs = plain(self, inputs)
        if "input_ids" in inputs:
            outputs = {name: array + np.float32(inputs["input_ids"][0, 1]) for name, array in outputs.items()}
        return outputs

    monkeypatch.setattr(NullGraph, "__call__", call)
    return seen


def denoiser_of(fed: list[dict[str, Any]]) -> dict[str, Any]:
    return next(inputs for inputs in fed if "timestep" in inputs)


def token(word: str) -> int:
    return tiny.vocabulary()[0][f"{word}</w>"]


def test_each_encoder_reads_with_its_own_tokenizer(pipe: Any, fed: list[dict[str, Any]]) -> None:
    pipe("red", negative_prompt="a", num_inference_steps=1)
    rows = [inputs["input_ids"][0].tolist() for inputs in fed if "input_ids" in inputs]
    end, other = tiny.vocabulary()[0][tiny.END], tiny.vocabulary()[0]["!"]
    start = tiny.vocabulary()[0][tiny.START]
    padded = [[start, token(word), end] + [pad] * 13 for pad in (end, other) for word in ("a", "red")]
    assert rows == padded


def test_states_are_joined_and_negatives_come_first(pipe: Any, fed: list[dict[str, Any]]) -> None:
    pipe(
        ["red", "fox"], negative_prompt="a", prompt_2="white", num_images_per_prompt=2, num_inference_steps=1
    )
    reads = denoiser_of(fed)
    texts = reads["encoder_hidden_states"]
    assert texts.shape == (8, tiny.LENGTH, 12)
    red, fox, a, white = (token(word) for word in ("red", "fox", "a", "white"))
    assert texts[:, 0, 0].tolist() == [a] * 4 + [red, red, fox, fox]
    assert texts[:, 0, 8].tolist() == [a] * 4 + [white] * 4
    assert reads["text_embeds"][:, 0].tolist() == [a] * 4 + [white] * 4


def test_no_negative_prompt_is_zeros(pipe: Any, refiner: Any, fed: list[dict[str, Any]]) -> None:
    pipe("red", num_inference_steps=1)
    reads = denoiser_of(fed)
    assert not reads["encoder_hidden_states"][0].any()
    assert not reads["text_embeds"][0].any()
    assert reads["text_embeds"][1, 0] == token("red")
    fed.clear()
    refiner.image2image("red", latents=np.zeros((1, 4, 4, 4), np.float32), denoising_start=0.5)
    assert denoiser_of(fed)["text_embeds"][0, 0] == tiny.vocabulary()[0][tiny.END]  # the empty text


@pytest.mark.parametrize(
    ("options", "positive", "negative"),
    [
        ({}, [32, 48, 0, 0, 32, 48], [32, 48, 0, 0, 32, 48]),
        ({"original_size": (9, 8)}, [9, 8, 0, 0, 32, 48], [9, 8, 0, 0, 32, 48]),
        (
            {"crops_coords_top_left": [5, 6], "negative_target_size": (1, 2)},
            [32, 48, 5, 6, 32, 48],
            [32, 48, 5, 6, 1, 2],
        ),
        (
            {
                "target_size": (7, 7),
                "negative_original_size": (3, 4),
                "negative_crops_coords_top_left": (1, 1),
            },
            [32, 48, 0, 0, 7, 7],
            [3, 4, 1, 1, 7, 7],
        ),
    ],
)
def test_sizes(
    pipe: Any, fed: list[dict[str, Any]], options: dict[str, Any], positive: list[int], negative: list[int]
) -> None:
    pipe(["red", "blue"], width=48, num_inference_steps=1, **options)
    assert denoiser_of(fed)["time_ids"].tolist() == [negative] * 2 + [positive] * 2


def test_scores_of_the_refiner(refiner: Any, fed: list[dict[str, Any]]) -> None:
    given: dict[str, Any] = {"latents": np.zeros((1, 4, 4, 4), np.float32), "denoising_start": 0.5}
    refiner.image2image("red", **given)
    assert denoiser_of(fed)["time_ids"].tolist() == [[32, 32, 0, 0, 2.5], [32, 32, 0, 0, 6]]
    fed.clear()
    refiner.image2image("red", aesthetic_score=9, negative_aesthetic_score=0, guidance_scale=1.0, **given)
    assert denoiser_of(fed)["time_ids"].tolist() == [[32, 32, 0, 0, 9]]
    with pytest.warns(UserWarning, match="target_size: no effect"):
        refiner.image2image("red", target_size=(8, 8), **given)


def test_a_prompt_is_encoded_once_for_each_encoder(pipe: Any, fed: list[dict[str, Any]]) -> None:
    pipe("red", num_inference_steps=1)
    assert sum("input_ids" in inputs for inputs in fed) == 2
    pipe("red", prompt_2="blue", num_inference_steps=1)
    assert sum("input_ids" in inputs for inputs in fed) == 3
    pipe("red", clip_skip=1, num_inference_steps=1)
    assert sum("input_ids" in inputs for inputs in fed) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_2": ["a", "b", "c"]}, "prompt_2: 3 were given for 1 prompts"),
        ({"negative_prompt_2": "a"}, "negative_prompt_2: it goes with a negative_prompt"),
        ({"prompt_2": 5}, "prompt_2: expected a string"),
        ({"prompt": None, "prompt_embeds": EMBEDS}, "pooled_prompt_embeds: this model reads them"),
        ({"pooled_prompt_embeds": POOLED}, "pooled_prompt_embeds: they go with prompt_embeds"),
        (
            {"prompt": None, "prompt_embeds": EMBEDS, "pooled_prompt_embeds": POOLED[0]},
            r"pooled_prompt_embeds: expected finite floats of shape \(prompts, width\)",
        ),
        (
            {"prompt": None, "prompt_embeds": EMBEDS, "pooled_prompt_embeds": POOLED.repeat(2, 0)},
            "pooled_prompt_embeds: 2 for 1 prompt_embeds",
        ),
        (
            {"prompt": None, "prompt_embeds": EMBEDS, "pooled_prompt_embeds": POOLED, "prompt_2": "a"},
            "prompt_2: it goes with a prompt",
        ),
        ({"negative_prompt_embeds": EMBEDS}, "negative_pooled_prompt_embeds: this model reads them"),
        ({"clip_skip": 2}, "clip_skip: 2 layers cannot be left out of this text encoder; 1 to 1 can"),
        ({"original_size": 5}, "original_size: 5 is not a pair"),
        ({"original_size": (5, 5, 5)}, "original_size: .* is not a pair"),
        ({"target_size": (5, 0.5)}, "target_size: 0.5 is not a whole number"),
        ({"negative_crops_coords_top_left": (-1, 0)}, "negative_crops_coords_top_left: -1 is not"),
        ({"aesthetic_score": float("nan")}, "aesthetic_score: nan is not between"),
    ],
)
@pytest.mark.filterwarnings("ignore:aesthetic_score")
def test_refused(pipe: Any, fed: list[dict[str, Any]], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe(**{"prompt": "red", **arguments})
    assert not fed


@pytest.mark.parametrize("name", ["prompt_2", "negative_prompt_2", "pooled_prompt_embeds"])
def test_a_model_with_one_encoder_has_no_second_text(fake_bundle: Path, name: str) -> None:
    given: dict[str, Any] = {name: POOLED if "pooled" in name else "a"}
    with edgediff.load(fake_bundle, runtime="null") as one, pytest.raises(InputError, match=f"^{name}: this"):
        one("red", **given)


@pytest.mark.filterwarnings("ignore:original_size")
def test_sizes_mean_nothing_to_other_models(fake_bundle: Path) -> None:
    with edgediff.load(fake_bundle, runtime="null") as one, pytest.warns(UserWarning, match="no effect"):
        one("red", original_size=(8, 8), num_inference_steps=1)


def _drop_pooled(told: dict[str, Any]) -> None:
    del told["model"]["text"]["encoders"][1]["pooled"]


def _wider(told: dict[str, Any]) -> None:
    told["components"]["text_encoder_2"]["graphs"][0]["outputs"][2]["dims"][2] = 6


def _other_states(told: dict[str, Any]) -> None:
    told["model"]["text"]["encoders"][0]["hidden"] = "hidden_states.7"


def _other_pooled(told: dict[str, Any]) -> None:
    told["model"]["text"]["encoders"][1]["pooled"] = "pooler_output"


def _pooled_width(told: dict[str, Any]) -> None:
    told["components"]["text_encoder_2"]["graphs"][0]["outputs"][4]["dims"][1] = 6


def _fewer_sizes(told: dict[str, Any]) -> None:
    told["model"]["size_ids"] = told["model"]["size_ids"][:4]


def _no_sizes(told: dict[str, Any]) -> None:
    told["model"]["size_ids"] = []


def _longer(told: dict[str, Any]) -> None:
    told["components"]["text_encoder_2"]["graphs"][0]["inputs"][0]["dims"][1] = 77


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop_pooled, "denoiser has an input text_embeds, which contradicts model.text.encoders"),
        (_wider, "encoder_hidden_states has 12, which contradicts the text encoders' states, joined, of 14"),
        (_other_states, r"text_encoder has the outputs .* names hidden_states.7"),
        (_other_pooled, r"text_encoder_2 has the outputs .* names pooler_output"),
        (_pooled_width, "text_embeds has 5, which contradicts the text encoders' pooled vector of 6"),
        (_fewer_sizes, "time_ids has 6, which contradicts model.size_ids of 4"),
        (_no_sizes, "time_ids"),
        (_longer, "text_encoder_2's input_ids has 77, which contradicts model.text.length of 16"),
    ],
)
def test_manifests_that_contradict_themselves(
    folders: dict[str, Path], tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    told = json.loads((folders["base"] / "edgediff.json").read_text())
    change(told)
    tiny_xl.rewrite(tmp_path, told)
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path)


def test_devices_by_part() -> None:
    assert parse_devices("text_encoder_2=cpu")["text_encoder_2"] == "cpu"


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m"])
@pytest.mark.parametrize("seed", [3, [4, 5]])
def test_a_hand_over_is_one_walk_with_one_stream_of_noise(
    pipe: Any, refiner: Any, sampler: str, seed: Any
) -> None:
    """The null networks are alike, so that both models' walks make the one that a single model makes."""
    options: dict[str, Any] = {"sampler": sampler, "num_inference_steps": 6, "seed": seed, "width": 48}
    prompts = ["red", "blue"]
    over = refining.checked(pipe.bundle, refiner.bundle, prompts, 0.5, **options)
    steps = list(pipe.walk(over.first))
    rest = list(refiner.walk(over.second(steps[-1].x)))
    assert len(steps) + len(rest) == 6
    whole = pipe(prompts, output_type="latent", **options).images
    assert np.allclose(rest[-1].x, whole, rtol=1e-5, atol=1e-5)


def test_hand_overs_that_are_refused(
    pipe: Any, refiner: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    base, other = pipe.bundle, refiner.bundle
    for start in (0, 1, 1.5, "half"):
        with pytest.raises(InputError, match="refiner_start"):
            refining.checked(base, other, "red", start)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="inpaint without one"):
        refining.checked(base, other, "red", image="a.png", mask_image="b.png")
    with pytest.raises(InputError, match="no step"):
        refining.checked(base, other, "red", 0.999, num_inference_steps=2)
    told = json.loads((folders["refiner"] / "edgediff.json").read_text())
    told["model"]["latents"]["scaling_factor"] = 0.5
    tiny_xl.rewrite(tmp_path, told)
    with pytest.raises(InputError, match=r"latents of .* are not those of"):
        refining.checked(base, Bundle.open(tmp_path), "red")


def test_refiner_on_the_command_line(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.showwarning", None)  # the command sets its own; put the old one back

    def run(*options: object) -> tuple[Any, str]:
        words = ["run", "red", "-m", folders["base"], "--runtime", "null", "--steps", 5, *options]
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        return ended.value.code, capsys.readouterr().out

    status, out = run("--refiner", folders["refiner"], "-o", "a.png", "--json", "--prompt-2", "blue")
    told = json.loads(out)
    assert status in (0, None)
    assert Path("a.png").is_file()
    assert told["parameters"]["refiner_start"] == 0.8
    assert told["parameters"]["prompt_2"] == ["blue"]
    assert (told["steps"], told["refiner"]["steps"]) == (4, 1)
    assert {"text_encoder", "text_encoder_2", "denoiser"} <= set(told["providers"])
    assert {"text_encoder_2", "denoiser", "decoder"} <= set(told["refiner"]["providers"])
    assert "decoder" in told["refiner"]["timings"]
    assert "decoder" not in told["timings"]
    assert run("--refiner-start", "0.5")[0] == 2
    status, _ = run("--refiner", folders["refiner"], "--refiner-start", 1, "-o", "no.png")
    assert (status, Path("no.png").exists()) == (2, False)


@pytest.mark.parametrize("outright", [True, False])
def test_an_encoder_that_gives_latents_draws_nothing(
    folders: dict[str, Path], tmp_path: Path, outright: bool
) -> None:
    told = json.loads((folders["base"] / "edgediff.json").read_text())
    if outright:
        (output,) = told["components"]["encoder"]["graphs"][0]["outputs"]
        output["name"], output["dims"][1] = "latents", 4
    for file in folders["base"].iterdir():
        if file.is_dir():
            (tmp_path / file.name).symlink_to(file)
    tiny_xl.rewrite(tmp_path, told)
    picture = np.zeros((32, 32, 3), np.float32)
    with edgediff.load(tmp_path, runtime="null", verify=False) as pipe:
        plan = tasks.plan(pipe._parts, tasks.checked(pipe.bundle, "red", image=picture, strength=1.0, seed=7))
    stream = TorchNoise(7)
    draws = [stream.draw((1, 4, 4, 4)) for _ in range(2)]
    at = plan.schedule.hops[0][0]
    posterior = 0 if outright else draws[0] * np.float32(0.18215)  # of a log variance of 0
    assert np.allclose(plan.x, at.alpha * posterior + at.sigma * draws[0 if outright else 1], atol=1e-6)
