"""Parameters and numbers that are wrong (rows F102 to F116 of the fault table): each ends as it must, named.

Nothing is loaded when an argument is refused, and the message names the argument.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from edgediff import media, sampler
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, InputError, NumericError, UnsupportedError
from edgediff.runtimes.null import NullGraph
from edgediff.schedule import Request
from tests import tiny

NAN, INF = float("nan"), float("inf")
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    **{f"F102 steps {v!r}": ({"num_inference_steps": v}, "num_inference_steps")
       for v in (0, -1, 10**9, 1.5, NAN, "4", True, [4], 1001)},
    "F102 no timesteps": ({"timesteps": []}, "timesteps"),
    "F102 rising timesteps": ({"timesteps": [1, 999]}, "timesteps"),
    "F102 steps and timesteps": ({"num_inference_steps": 2, "timesteps": [9]}, "give one of them"),
    "F103 more steps than it was distilled on": (
        {"sampler": "lcm", "num_inference_steps": 51}, "distilled on 50"),
    **{f"F104 guidance {v!r}": ({"guidance_scale": v}, "guidance_scale")
       for v in (NAN, INF, -INF, -1, 1e6, "7", True)},
    **{f"F104 rescale {v!r}": ({"guidance_rescale": v}, "guidance_rescale") for v in (NAN, -0.1, 1.1, "a")},
    **{f"F105 seed {v!r}": ({"seed": v}, "seed")
       for v in (-1, 2**32, 2**63, 2**64, 2**65, 1.5, True, "7", NAN)},
    **{f"F105 philox seed {v!r}": ({"seed": v, "noise": "philox"}, "seed") for v in (-1, 2**64, 1.5)},
    "F105 seeds too few": ({"prompt": ["a", "b"], "seed": [1]}, "1 seeds were given for 2"),
    **{f"F106 height {v!r}": ({"height": v}, "height") for v in (0, -8, 10**9, 2**31, 8.0, "8", True)},
    "F106 width 7": ({"width": 7}, "the nearest is 8"),
    "F106 width 513": ({"width": 513}, "the nearest is 512"),
    **{f"F108 batch {v!r}": ({"num_images_per_prompt": v}, "num_images_per_prompt")
       for v in (0, -1, 10**6, 1.5)},
    "F108 batch of prompts": ({"prompt": ["a"] * 33, "num_images_per_prompt": 2}, "at most 64"),
    "F113 unknown sampler": ({"sampler": "magic"}, "unknown; choose one of"),
    "F113 option of another sampler": ({"sampler": "euler", "eta": 0.5}, "no option of it"),
}  # fmt: skip


@pytest.mark.parametrize("row", REFUSED)
def test_refused(fake_bundle: Path, row: str) -> None:
    arguments, says = REFUSED[row]
    pipe = edgediff.load(fake_bundle, runtime="null")
    with pytest.raises(InputError, match=says):
        pipe(**{"prompt": "a", **arguments})
    assert not pipe.infos(), "something was loaded"


def test_f105_no_seed_is_drawn_and_reported(fake_bundle: Path) -> None:
    pipe = edgediff.load(fake_bundle, runtime="null")
    first, second = pipe("a"), pipe("a")
    assert isinstance(first.seed, int)
    assert first.seed != second.seed
    assert np.array_equal(
        np.asarray(pipe("a", seed=first.seed, output_type="latent").images),
        np.asarray(pipe("a", seed=first.seed, output_type="latent").images),
    )


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_f109_f111_one_bad_number_at_step_k(
    fake_bundle: Path, monkeypatch: pytest.MonkeyPatch, value: float, step: int
) -> None:
    """A single NaN, at any step: the stage and the step are named and nothing is returned."""
    pipe = edgediff.load(fake_bundle, runtime="null")
    plain, calls = NullGraph.__call__, 0

    def call(self: NullGraph, inputs: Any) -> Any:
        nonlocal calls
        outputs = plain(self, inputs)
        if "sample" in inputs and "timestep" in inputs:
            calls += 1
            if calls == step:
                next(iter(outputs.values())).reshape(-1)[3] = value
        return outputs

    monkeypatch.setattr(NullGraph, "__call__", call)
    with pytest.raises(NumericError, match=f"step {step} of 3: denoiser"):
        pipe("a", seed=0, num_inference_steps=3)


def test_f110_f111_one_bad_pixel_of_the_decoder(fake_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = edgediff.load(fake_bundle, runtime="null")
    plain = NullGraph.__call__

    def call(self: NullGraph, inputs: Any) -> Any:
        outputs = plain(self, inputs)
        if "latent_sample" in inputs:
            outputs["sample"].reshape(-1)[-1] = INF
        return outputs

    monkeypatch.setattr(NullGraph, "__call__", call)
    with pytest.raises(NumericError, match="decoder"):
        pipe("a", seed=0)


def test_f109_nothing_is_written(tmp_path: Path, fake_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgediff import cli

    plain = NullGraph.__call__
    monkeypatch.setattr(
        NullGraph, "__call__", lambda self, x: {k: v + np.float32(NAN) for k, v in plain(self, x).items()}
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.showwarning", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "a", "-m", str(fake_bundle), "--runtime", "null"])
    assert ended.value.code == 7
    assert not list(tmp_path.iterdir())


def test_f112_a_flat_picture_is_said_to_be_one() -> None:
    flat = np.full((1, 8, 8, 3), 0.5, np.float32)
    assert "one colour" in str(media.suspicious(flat))
    flat[0, 3, 3, 0] = 0.9
    assert media.suspicious(flat) is None


SCHEDULERS: dict[str, tuple[dict[str, Any], type[Exception] | tuple[type[Exception], ...]]] = {
    "unknown class": ({"_class_name": "NoScheduler"}, UnsupportedError),
    "no class": ({"_class_name": None}, BundleError),
    "beta of 1": ({"beta_schedule": "linear", "beta_end": 1.5}, BundleError),
    "negative beta": ({"trained_betas": [-0.1, 0.2]}, BundleError),
    "betas that are words": ({"trained_betas": ["a"]}, BundleError),
    "unknown schedule": ({"beta_schedule": "wavy"}, BundleError),
    "no timesteps": ({"num_train_timesteps": 0}, BundleError),
    "too many timesteps": ({"num_train_timesteps": 10**9}, BundleError),
    "timesteps that are words": ({"num_train_timesteps": "1000"}, BundleError),
    "unknown spacing": ({"timestep_spacing": "random"}, BundleError),
    "unknown prediction": ({"prediction_type": "score"}, (UnsupportedError, BundleError)),
    "offset beyond the table": ({"steps_offset": 5000}, BundleError),
    "beta that is a word": ({"beta_start": "small"}, BundleError),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_f113_schedulers_that_make_no_sense(tmp_path: Path, name: str) -> None:
    change, error = SCHEDULERS[name]
    folder = tiny.write_bundle(tmp_path / "bundle", scheduler={**tiny.SCHEDULER, **change})
    value = json.loads((folder / "edgediff.json").read_text())
    if "_class_name" in change:
        value["defaults"]["sampler"] = "none_such"
        (folder / "edgediff.json").write_text(json.dumps(value))
        with pytest.raises(error):
            sampler.find(Bundle.open(folder).scheduler)
        return
    with pytest.raises(error):
        edgediff.load(folder, runtime="null")("a")


def test_f113_every_sampler_refuses_nonsense_in_our_words() -> None:
    """Whatever single value of a configuration is replaced by nonsense, no sampler ends in a bare error."""
    import importlib

    for name in sampler.names():
        family = importlib.import_module(sampler.module_of(name))
        for key in family.DEFAULTS:
            for nonsense in ("nonsense", -5, [], 1e300):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    np.seterr(all="ignore")
                    try:
                        solver = sampler.find({key: nonsense}, name)
                        solver.schedule(Request(3, tokens=64))
                    except edgediff.EdgediffError:
                        pass
                    finally:
                        np.seterr(all="warn")


def test_f114_rounding_of_what_is_not_quite_in_range() -> None:
    values = np.float32([-0.0, 1.0000001, -1e-9, 0.5, 1.0])
    picture = media.unit_range((values * 2 - 1).reshape(1, 1, 1, 5))
    assert media.to_bytes(picture).ravel().tolist() == [0, 255, 0, 128, 255]


def test_f115_threads_do_not_change_the_noise_and_hardly_the_picture() -> None:
    one = edgediff.load(threads=1)("a red circle", seed=3, output_type="np").images
    two = edgediff.load(threads=2)("a red circle", seed=3, output_type="np").images
    again = edgediff.load(threads=1)("a red circle", seed=3, output_type="np").images
    assert np.array_equal(one, again)
    assert np.abs(one - two).max() < 1 / 255


def test_f116_the_clock_has_no_effect(fake_bundle: Path) -> None:
    script = (
        "import time, sys; time.time = lambda: 0.0; time.gmtime = None; import edgediff; "
        f"pipe = edgediff.load({str(fake_bundle)!r}, runtime='null'); "
        "print(pipe('a', seed=1, output_type='latent').images.sum())"
    )
    environment = {**os.environ, "TZ": "No/Where"}
    odd = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    even = edgediff.load(fake_bundle, runtime="null")("a", seed=1, output_type="latent").images.sum()
    assert odd.stdout.strip() == str(even)
