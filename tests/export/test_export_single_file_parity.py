"""Names and configurations of the original layout against diffusers' modules and diffusers' own converter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from diffusers.loaders import single_file_utils as theirs  # noqa: E402
from original_layout import KINDS, components, kind_folder, original_unet, single_file  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from edgediff.export.checkpoint import match, plain_spellings  # noqa: E402
from edgediff.export.networks import autoencoder_kl, autoencoder_tiny, controlnet, unet2d_condition  # noqa: E402
from edgediff.export.original.names import controlnet_names, unet_names, vae_names  # noqa: E402
from edgediff.export.original.shapes import Shapes  # noqa: E402
from edgediff.export.original.unet import controlnet_config, unet_config  # noqa: E402
from edgediff.export.original.vae import vae_config  # noqa: E402
from edgediff.export.single_file import open_part  # noqa: E402
from edgediff.export.tensors import Entry  # noqa: E402

pytestmark = pytest.mark.parity

_XL_BLOCKS: dict[str, Any] = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
# The configurations with which these models were published.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Stable Diffusion 1": {"cross_attention_dim": 768},
    "Stable Diffusion 2": {
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "SDXL": {**_XL_BLOCKS, "transformer_layers_per_block": [1, 2, 10]},
    "SDXL refiner": {
        "block_out_channels": [384, 768, 1536, 1536],
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "transformer_layers_per_block": 4,
        "use_linear_projection": True,
        "attention_head_dim": [6, 12, 24, 24],
        "cross_attention_dim": 1280,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2560,
    },
    "SSD-1B": {
        **_XL_BLOCKS,
        "mid_block_type": "UNetMidBlock2D",
        "transformer_layers_per_block": [1, [2, 2], [4, 4]],
        "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
    },
    "small, without a middle": {"cross_attention_dim": 768, "layers_per_block": 1, "mid_block_type": None},
    "uneven levels": {"cross_attention_dim": 768, "layers_per_block": [1, 2, 1, 3]},
    "a finer level that is wider": {
        "cross_attention_dim": 768,
        "block_out_channels": [64, 32],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    },
    "guided": {"cross_attention_dim": 768, "time_cond_proj_dim": 256},
}


def made(kind: Any, config: Mapping[str, Any]) -> Any:
    """A module that has shapes and no numbers."""
    with torch.device("meta"):
        return kind(**config)


def shapes_of(tensors: Mapping[str, Any]) -> Shapes:
    where = Path("x.safetensors")
    return Shapes(where, {n: Entry(where, "F32", tuple(t.shape), 0) for n, t in tensors.items()})


def modules(tensors: Mapping[str, Any]) -> set[str]:
    return {name.rpartition(".")[0] for name in tensors}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_unets(name: str) -> None:
    """A configuration that is made from shapes alone says what the published one says."""
    config = PUBLISHED[name]
    state = made(diffusers.UNet2DConditionModel, config).state_dict()
    names = unet_names(config)
    assert set(names.values()) == modules(state)
    original = original_unet(state)
    assert set(names) == modules(original)
    wanted = unet2d_condition.configure(config, name)
    for tensors in (state, original):
        found = unet_config(shapes_of(tensors))
        assert unet2d_condition.configure(found, name) == wanted
        for key in (
            "transformer_layers_per_block",
            "reverse_transformer_layers_per_block",
            "layers_per_block",
        ):
            if key in config:
                assert found[key] == config[key]


@pytest.mark.parametrize(
    "config",
    [
        {"cross_attention_dim": 768},
        {k: v for k, v in PUBLISHED["SDXL"].items() if k != "up_block_types"},
        {
            "cross_attention_dim": 768,
            "conditioning_embedding_out_channels": [16, 32],
            "conditioning_channels": 1,
        },
    ],
)
def test_controlnets(config: dict[str, Any]) -> None:
    state = made(diffusers.ControlNetModel, config).state_dict()
    names = controlnet_names(config)
    assert set(names.values()) == modules(state)
    old = {new: name for name, new in names.items()}
    original = {f"{old[m]}.{p}": t for (m, _, p), t in ((n.rpartition("."), t) for n, t in state.items())}
    if config == {"cross_attention_dim": 768}:  # diffusers' converter knows this depth of hints
        again = theirs.convert_controlnet_checkpoint(dict(original), {"layers_per_block": 2})
        assert {n: tuple(t.shape) for n, t in again.items()} == {n: tuple(t.shape) for n, t in state.items()}
        assert all(again[n] is state[n] for n in state)
    wanted = controlnet.configure(config, "")
    for tensors in (state, original):
        assert controlnet.configure(controlnet_config(shapes_of(tensors)), "") == wanted


@pytest.mark.parametrize("attends", [True, False])
def test_autoencoders(attends: bool) -> None:
    config: dict[str, Any] = {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "mid_block_add_attention": attends,
        "sample_size": 512,
    }
    state = made(diffusers.AutoencoderKL, config).state_dict()
    names = vae_names(config)
    assert set(names.values()) == modules(state)
    old = {new: name for name, new in names.items()}
    original = {f"{old[m]}.{p}": t for (m, _, p), t in ((n.rpartition("."), t) for n, t in state.items())}
    for tensors in (state, original):
        found = vae_config(shapes_of(tensors), xl=False)
        assert autoencoder_kl.configure(found, "") == autoencoder_kl.configure(config, "")


def test_parts_of_diffusers(tmp_path: Path) -> None:
    """A ControlNet in both layouts, and a tiny autoencoder, from files alone."""
    levels = {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "cross_attention_dim": 64,
        "conditioning_embedding_out_channels": (16, 32),
    }
    net = diffusers.ControlNetModel(**levels)
    state = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    old = {new: name for name, new in controlnet_names(net.config).items()}
    original = {
        f"control_model.{old[m]}.{p}": state[f"{m}.{p}"] for m, _, p in (n.rpartition(".") for n in state)
    }
    for tensors in (state, original):
        save_file(tensors, tmp_path / "x.safetensors")
        part = open_part(tmp_path / "x.safetensors", "controlnet")
        assert part.class_name == "ControlNetModel"
        shape = controlnet.configure(part.config, "")
        wanted = {k: v for k, v in net.config.items() if k in levels}
        assert shape == controlnet.configure(wanted, "")
        names = match(controlnet.record(shape).parameters, part.tensors, plain_spellings, part.where)
        for name in names.values():
            np.testing.assert_array_equal(part.tensors.whole(name), state[name])
    tiny = diffusers.AutoencoderTiny()
    save_file({n: t.numpy() for n, t in tiny.state_dict().items()}, tmp_path / "x.safetensors")
    part = open_part(tmp_path / "x.safetensors", "vae")
    assert part.class_name == "AutoencoderTiny"
    net = autoencoder_tiny.configure(part.config, "")
    assert net == autoencoder_tiny.configure({}, "")
    graphs = [autoencoder_tiny.record_encoder(net), autoencoder_tiny.record_decoder(net)]
    parameters = {p.name: p for graph in graphs for p in graph.parameters}.values()
    assert match(parameters, part.tensors, plain_spellings, part.where)


CONVERTERS: dict[str, Callable[..., Any]] = {
    "unet": theirs.convert_ldm_unet_checkpoint,
    "vae": theirs.convert_ldm_vae_checkpoint,
}


@pytest.mark.parametrize("kind", ["sd1", "sd2-v", "sdxl", "refiner"])
def test_our_files_are_what_diffusers_reads(kind: str, tmp_path: Path) -> None:
    """The helper that writes files for the other tests writes the original layout: diffusers' converter
    brings back the folder's tensors from them."""
    folder = kind_folder(tmp_path / kind, kind)
    from safetensors.torch import load_file

    whole = load_file(single_file(tmp_path / "x.safetensors", folder))
    for name, tensors in components(folder).items():
        if name in CONVERTERS:
            module = diffusers.UNet2DConditionModel if name == "unet" else diffusers.AutoencoderKL
            config = dict(made(module, KINDS[kind].get(name) or _vae()).config)
            again = CONVERTERS[name](dict(whole), config)
        elif kind.startswith("sd1") or (kind == "sdxl" and name == "text_encoder"):
            again = theirs.convert_ldm_clip_checkpoint(dict(whole))
        else:
            at = {"sd2-v": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}
            prefix = at.get(kind, "conditioner.embedders.0.model.")
            again = theirs.convert_open_clip_checkpoint(None, dict(whole), prefix)
        for tensor, array in tensors.items():
            np.testing.assert_array_equal(again[tensor].numpy(), array)


def _vae() -> dict[str, Any]:
    from original_layout import _VAE

    return {k: v for k, v in _VAE.items() if not k.startswith("_")}
