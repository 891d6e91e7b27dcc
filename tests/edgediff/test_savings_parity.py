"""The tiny decoder and guidance intervals against diffusers: its AutoencoderTiny in the autoencoder's place,
and loops over its schedulers written out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgediff
from edgediff.errors import InputError, SourceError, UnsupportedError
from tests import tiny

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("onnx")
pytestmark = pytest.mark.parity

OPTIONS: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "np"}


def autoencoder(folder: Path, scale: float, channels: int = 4) -> Any:
    """An AutoencoderTiny of the model's own factor, 2, saved; its scale is not the model's."""
    torch.manual_seed(3)
    made = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(32, 32), decoder_block_out_channels=(32, 32), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(2, 1), latent_channels=channels, scaling_factor=scale,
    )  # fmt: skip
    made.eval().save_pretrained(folder)
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A diffusers pipeline that decodes with the tiny autoencoder, and our bundle's folder."""
    from edgediff.export.main import export_onnx

    folder = tmp_path_factory.mktemp("tiny")
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    reference = tiny.pipeline(folder / "torch", scheduler)
    small = autoencoder(folder / "small", 1.7)
    export_onnx(
        str(folder / "torch"), str(folder / "bundle"), tiny_decoder=str(folder / "small"), step_cache=True
    )
    return reference, small, folder


def test_pictures(made: Any) -> None:
    reference, small, folder = made
    with edgediff.load(folder / "bundle", threads=1) as pipe:
        full = reference.vae
        for decoder, vae in (("full", full), ("tiny", small)):
            reference.vae = vae
            expected = reference("a red cat", generator=torch.Generator().manual_seed(5), **OPTIONS).images
            got = pipe("a red cat", seed=5, decoder=decoder, **OPTIONS).images
            assert np.abs(got - expected).max() < 2 / 255
            assert got.std() > 0.01
        reference.vae = full
        latents = pipe("a red cat", seed=5, **{**OPTIONS, "output_type": "latent"}).images
        assert np.array_equal(pipe.decode(latents, "np", decoder="tiny"), got)
        loaded = pipe.infos()
    assert {"decoder", "tiny_decoder"} <= loaded.keys()


def test_tiles_of_a_decoder_without_norms() -> None:
    """TAESD's own shape loses less in tiles than 8 bits can show, from what lies beyond the margin."""
    from edgediff import tiling

    torch.manual_seed(0)
    net = diffusers.AutoencoderTiny().eval()

    def decode(z: Any) -> Any:
        with torch.no_grad():
            return net.decode(torch.from_numpy(np.ascontiguousarray(z))).sample.numpy()

    latents = np.random.default_rng(0).standard_normal((1, 4, 32, 48), np.float32)
    whole = decode(latents)
    error = np.square(tiling.blended(decode, latents, 32, (8, 8)) - whole).mean()
    assert 0 < error < np.square(whole).mean() * 1e-6


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("interval", [(0.2, 0.8), (0.0, 0.5), (0.55, 1.0)])
def test_guidance_interval(made: Any, name: str, interval: tuple[float, float]) -> None:
    reference, _, folder = made
    saved = (folder / "bundle" / "scheduler" / "scheduler_config.json").read_text()
    scheduler = getattr(diffusers, name).from_config(json.loads(saved))
    count, scale = 7, 4.0
    with torch.no_grad():
        yes, no = reference.encode_prompt("a red cat", "cpu", 1, True, negative_prompt="dog")
        scheduler.set_timesteps(count)
        x = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(5)) * scheduler.init_noise_sigma
        for i, t in enumerate(scheduler.timesteps):
            shown = scheduler.scale_model_input(x, t)
            told = reference.unet(shown, t, yes).sample
            if int(interval[0] * count) <= i < int(interval[1] * count):
                untold = reference.unet(shown, t, no).sample
                told = untold + scale * (told - untold)
            x = scheduler.step(told, t, x).prev_sample
    sampler = {"DDIM": "ddim", "DPMS": "dpmpp_2m", "Eule": "euler"}[name[:4]]
    rows: list[int] = []
    with edgediff.load(folder / "bundle", threads=1) as pipe:
        run = pipe._parts.run

        def counted(role: str, inputs: Any) -> Any:
            rows.extend([len(inputs["sample"])] if role == "denoiser" else [])
            return run(role, inputs)

        pipe._parts.run = counted  # type: ignore[method-assign]
        got = pipe(
            "a red cat", negative_prompt="dog", seed=5, sampler=sampler, num_inference_steps=count,
            guidance_scale=scale, guidance_interval=interval, output_type="latent",
        ).images  # fmt: skip
    assert np.abs(got - x.numpy()).max() < 2e-4 * np.abs(got).max()
    guided = range(int(interval[0] * count), int(interval[1] * count))
    assert rows == [2 if i in guided else 1 for i in range(count)]


@pytest.mark.parametrize("every", [2, 3])
def test_step_cache(made: Any, every: int) -> None:
    """Shallow passes are what diffusers' whole U-Net gives with the features of the last whole step put in
    the place of its own."""
    reference, _, folder = made
    scheduler, count, scale = reference.scheduler, 12, 4.0
    layer = reference.unet.up_blocks[-1].resnets[-1]
    features: list[Any] = []
    whole = True

    def swap(module: Any, inputs: Any) -> Any:
        channels = inputs[0].shape[1] - reference.unet.config.block_out_channels[0]
        if whole:
            features[:] = [inputs[0][:, :channels].clone()]
            return None
        return torch.cat([features[0], inputs[0][:, channels:]], dim=1), *inputs[1:]

    hook = layer.register_forward_pre_hook(swap)
    try:
        with torch.no_grad():
            yes, no = reference.encode_prompt("a red cat", "cpu", 1, True, negative_prompt="dog")
            scheduler.set_timesteps(count)
            x = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(5))
            for i, t in enumerate(scheduler.timesteps):
                whole = i % every == 0
                untold, told = reference.unet(torch.cat([x, x]), t, torch.cat([no, yes])).sample.chunk(2)
                x = scheduler.step(untold + scale * (told - untold), t, x).prev_sample
    finally:
        hook.remove()
    options = {"seed": 5, "num_inference_steps": count, "guidance_scale": scale, "output_type": "latent"}
    with edgediff.load(folder / "bundle", threads=1) as pipe:
        got = pipe("a red cat", negative_prompt="dog", step_cache=every, **options).images
        plain = pipe("a red cat", negative_prompt="dog", **options).images
        again = pipe("a red cat", negative_prompt="dog", step_cache=every, **options).images
        both = pipe("a red cat", step_cache=every, guidance_interval=(0.3, 0.7), **options).images
        with pytest.raises(InputError, match="12 steps or more"):
            pipe("a red cat", step_cache=2, num_inference_steps=11)
    size = np.abs(got).max()
    assert np.abs(got - x.numpy()).max() < 2e-4 * size
    assert np.abs(got - plain).max() > 1e-3 * size, "the cache changes something"
    assert np.array_equal(got, again)
    assert np.isfinite(both).all()


def test_bundle_as_a_source(made: Any) -> None:
    """What is made of a bundle, as packages of Core ML are, has its tiny decoder too."""
    from edgediff.export.families import stable_diffusion
    from edgediff.export.sources import open_source

    model = stable_diffusion.build(open_source(str(made[2] / "bundle")))
    assert model.facts["tiny_decoder"] == {"scaling_factor": 1.7, "shift_factor": 0.0}
    assert [part.role for part in model.parts].count("tiny_decoder") == 1


def test_without_one(made: Any, tmp_path: Path) -> None:
    from edgediff.export.main import export_onnx

    export_onnx(str(made[2] / "torch"), str(tmp_path / "plain"), verify=False)
    with (
        edgediff.load(tmp_path / "plain", threads=1) as pipe,
        pytest.raises(UnsupportedError, match="--tiny-decoder"),
    ):
        pipe("cat", decoder="tiny")
    assert not pipe.infos()


def test_another_models(made: Any, tmp_path: Path) -> None:
    """Latents of other channels, or a full autoencoder, are refused; nothing is written."""
    from edgediff.export.main import export_onnx

    autoencoder(tmp_path / "wide", 1.0, channels=8)
    with pytest.raises(SourceError, match="8 channels"):
        export_onnx(str(made[2] / "torch"), str(tmp_path / "out"), tiny_decoder=str(tmp_path / "wide"))
    with pytest.raises(UnsupportedError, match="AutoencoderKL"):
        export_onnx(str(made[2] / "torch"), str(tmp_path / "out"), tiny_decoder=str(made[2] / "torch/vae"))
    assert not (tmp_path / "out").exists()


def test_quantized(made: Any, tmp_path: Path) -> None:
    """The tiny decoder is calibrated and computes in int8 as the full one does, and is in the record that a
    receipt is made from."""
    from edgediff.export.assemble import Asked, assemble
    from edgediff.export.main import build, export_onnx
    from edgediff.export.quantize.recording import record
    from edgediff.reference_reader import record_of

    asked = {"tiny_decoder": str(made[2] / "small")}
    (tmp_path / "prompts.txt").write_text("a red cat\na blue dog\n")
    export_onnx(
        str(made[2] / "torch"), str(tmp_path / "int8"), quantize="int8", receipt=False, step_cache=True,
        verify=False, calibration=str(tmp_path / "prompts.txt"), **asked,
    )  # fmt: skip
    recipe = json.loads((tmp_path / "int8" / "quantization.json").read_text())
    assert set(recipe["layers"]["tiny_decoder"].values()) == {"float", "int8"}
    with (
        edgediff.load(made[2] / "bundle", threads=1) as floating,
        edgediff.load(tmp_path / "int8", threads=1) as pipe,
    ):
        latents = floating("cat", **{**OPTIONS, "output_type": "latent"}, seed=1).images
        wanted, got = (each.decode(latents, "np", decoder="tiny") for each in (floating, pipe))
        rng = np.random.default_rng(0)
        feeds: dict[str, Any] = {
            "sample": latents, "timestep": np.array([500], np.float32),
            "encoder_hidden_states": rng.standard_normal((1, 16, 16)).astype(np.float32),
        }  # fmt: skip
        kept = floating._parts.run("denoiser", feeds)["deep_features"]
        told = [
            each._parts.run("shallow_denoiser", {**feeds, "deep_features": kept}) for each in (floating, pipe)
        ]
    shallow = [next(iter(each.values())) for each in told]
    assert 0 < np.square(shallow[0] - shallow[1]).mean() < np.square(shallow[0]).mean() / 10
    error = np.square(wanted - got).mean()
    assert 0 < error < np.square(wanted).mean() * 10**-1.2
    model = build(assemble(Asked(str(made[2] / "torch"), **asked)))
    kept = record_of(record(made[2] / "bundle", model, prompts=["a cat"]), "quality.npz")
    assert [each.role for each in kept.passes].count("tiny_decoder") == 1
