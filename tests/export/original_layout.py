"""Tiny diffusers folders, and the same models as one file in the original layout (LDM, SGM).

The renaming goes from diffusers' names to the original ones by counting blocks in the order in which they
run; the exporter goes the other way from configurations. ``test_export_parity_single_file`` holds this
helper itself to diffusers' own converter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from export_helpers import TINY_VAE, random_tensor, write_json, write_tokenizer
from safetensors.numpy import load_file, save_file

from edgediff.export.emit.graph import Parameter
from edgediff.export.networks import autoencoder_kl, clip_text, unet2d_condition

Arrays = dict[str, np.ndarray[Any, Any]]

_PLAIN_LEVELS: dict[str, Any] = {
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 64,
    "transformer_layers_per_block": 1,
}
_LINEAR_LEVELS: dict[str, Any] = {
    **_PLAIN_LEVELS,
    "block_out_channels": [64, 128],
    "use_linear_projection": True,
    "attention_head_dim": [1, 2],
}
_XL_LEVELS: dict[str, Any] = {
    **_LINEAR_LEVELS,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2],
    "cross_attention_dim": 128,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 64 + 6 * 256,
    "sample_size": 128,
}
_TEXT: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "max_position_embeddings": 12,
    "eos_token_id": 2,
}
_OPENCLIP: dict[str, Any] = {**_TEXT, "hidden_act": "gelu"}
_VAE: dict[str, Any] = {
    **TINY_VAE,
    "block_out_channels": [32, 64],
    "norm_num_groups": 32,
    "force_upcast": False,
}
_XL_VAE: dict[str, Any] = {**_VAE, "scaling_factor": 0.13025, "force_upcast": True}
_BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "steps_offset": 1, "clip_sample": False, "trained_betas": None,
}  # fmt: skip
PNDM = {**_BETAS, "_class_name": "PNDMScheduler", "prediction_type": "epsilon", "skip_prk_steps": True}
PNDM["set_alpha_to_one"] = False
DDIM_V = {
    **_BETAS,
    "_class_name": "DDIMScheduler",
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
}
EULER = {**_BETAS, "_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon"}
EULER |= {"timestep_spacing": "leading", "interpolation_type": "linear", "use_karras_sigmas": False}
EULER_A = {**_BETAS, "_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "epsilon"}

# For each kind: its pipeline, the U-Net, and the text encoders as folders have them.
KINDS: dict[str, dict[str, Any]] = {
    "sd1": {"class": "StableDiffusionPipeline", "unet": {**_PLAIN_LEVELS, "sample_size": 64}},
    "sd1-inpaint": {
        "class": "StableDiffusionInpaintPipeline",
        "unet": {**_PLAIN_LEVELS, "sample_size": 64, "in_channels": 9},
    },
    "sd1-instruct": {
        "class": "StableDiffusionInstructPix2PixPipeline",
        "unet": {**_PLAIN_LEVELS, "sample_size": 64, "in_channels": 8},
        "scheduler": EULER_A,
    },
    "sd2-base": {
        "class": "StableDiffusionPipeline",
        "unet": {**_LINEAR_LEVELS, "sample_size": 64},
        "text_encoder": _OPENCLIP,
    },
    "sd2-v": {
        "class": "StableDiffusionPipeline",
        "unet": {**_LINEAR_LEVELS, "sample_size": 96, "upcast_attention": True},
        "text_encoder": _OPENCLIP,
        "scheduler": DDIM_V,
    },
    "sdxl": {
        "class": "StableDiffusionXLPipeline",
        "unet": _XL_LEVELS,
        "text_encoder_2": {**_OPENCLIP, "projection_dim": 64},
        "vae": _XL_VAE,
        "scheduler": EULER,
    },
    "sdxl-inpaint": {
        "class": "StableDiffusionXLInpaintPipeline",
        "unet": {**_XL_LEVELS, "in_channels": 9},
        "text_encoder_2": {**_OPENCLIP, "projection_dim": 64},
        "vae": _XL_VAE,
        "scheduler": EULER,
    },
    "refiner": {
        "class": "StableDiffusionXLImg2ImgPipeline",
        "unet": {
            **_XL_LEVELS,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "transformer_layers_per_block": 2,
            "cross_attention_dim": 64,
            "projection_class_embeddings_input_dim": 64 + 5 * 256,
        },
        "text_encoder": None,
        "text_encoder_2": {**_OPENCLIP, "projection_dim": 64},
        "vae": _XL_VAE,
        "scheduler": EULER,
    },
}


def kind_folder(folder: Path, kind: str) -> Path:
    """A model of that kind with random weights, as diffusers lays it out."""
    told = {"scheduler": PNDM, "text_encoder": _TEXT, "vae": _VAE, "text_encoder_2": None, **KINDS[kind]}
    xl = "XL" in told["class"]
    index: dict[str, Any] = {
        "_class_name": told["class"],
        "scheduler": ["diffusers", told["scheduler"]["_class_name"]],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if xl:
        index |= {"force_zeros_for_empty_prompt": kind != "refiner"}
    if kind == "refiner":
        index["requires_aesthetics_score"] = True
    write_json(folder / "scheduler" / "scheduler_config.json", told["scheduler"])
    for seed, name in enumerate(("unet", "vae", "text_encoder", "text_encoder_2")):
        config = told[name]
        if config is None:
            continue
        write_json(folder / name / "config.json", config)
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        save_file(_random(_parameters(name, config), seed), folder / name / f"{stem}.safetensors")
        if name.startswith("text"):
            projected = name == "text_encoder_2"
            index[name] = ["transformers", "CLIPTextModel" + ("WithProjection" if projected else "")]
            index[name.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
            write_tokenizer(folder / name.replace("text_encoder", "tokenizer"))
    write_json(folder / "model_index.json", index)
    return folder


def components(folder: Path) -> dict[str, Arrays]:
    """All tensors of a folder, by component."""
    return {path.parent.name: load_file(path) for path in sorted(folder.glob("*/*.safetensors"))}


def single_file(path: Path, folder: Path, metadata: dict[str, str] | None = None, **extra: Any) -> Path:
    """The folder's model as one file. ``extra`` tensors are added; None takes a component's prefix out."""
    found = components(folder)
    xl, both = "text_encoder_2" in found, "text_encoder" in found
    openclip = not xl and "sd2" in folder.name
    arrays: Arrays = {}
    arrays |= _under("model.diffusion_model.", original_unet(found["unet"]))
    arrays |= _under("first_stage_model.", original_vae(found["vae"]))
    if both:
        text = found["text_encoder"]
        at = "conditioner.embedders.0.transformer." if xl else "cond_stage_model.transformer."
        if openclip:  # files hold a layer more than version 2 draws with
            arrays |= _under("cond_stage_model.model.", {**original_text(text), **_surplus(text)})
        else:
            arrays |= _under(at, {**text, "text_model.embeddings.position_ids": np.arange(12)[None]})
    if xl:
        at = f"conditioner.embedders.{1 if both else 0}.model."
        arrays |= _under(at, {**original_text(found["text_encoder_2"]), "logit_scale": np.float32([1.0])})
    arrays["model_ema.decay"] = np.float32([0.9999])
    arrays["model_ema.diffusion_modelinput_blocks00weight"] = np.zeros((2, 2), np.float32)
    arrays |= {name: np.asarray(value) for name, value in extra.items()}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata)
    return path


def original_unet(tensors: Mapping[str, Any]) -> Arrays:
    """A U-Net by the original layout's names."""
    modules = {name.rpartition(".")[0] for name in tensors}
    table = dict(_counted(modules))
    inner = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
    inner |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    renamed: Arrays = {}
    for name, array in tensors.items():
        for new, old in table.items():
            if name.startswith(new + "."):
                rest = name[len(new) + 1 :]
                if ".resnets." in new:
                    module, _, parameter = rest.partition(".")
                    rest = f"{inner[module]}.{parameter}"
                renamed[f"{old}.{rest}"] = array
                break
        else:
            raise AssertionError(name)
    return renamed


def _counted(modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """diffusers' blocks with the numbers that they have when they are counted in the order of running."""
    modules = set(modules)
    yield "conv_in", "input_blocks.0.0"
    yield "time_embedding.linear_1", "time_embed.0"
    yield "time_embedding.linear_2", "time_embed.2"
    yield "time_embedding.cond_proj", "time_embed.cond_proj"
    yield "add_embedding.linear_1", "label_emb.0.0"
    yield "add_embedding.linear_2", "label_emb.0.2"
    yield "conv_norm_out", "out.0"
    yield "conv_out", "out.2"
    yield "mid_block.resnets.0", "middle_block.0"
    yield "mid_block.attentions.0", "middle_block.1"
    yield "mid_block.resnets.1", "middle_block.2"
    n = 0
    for i in range(9):
        for j in range(9):
            if f"down_blocks.{i}.resnets.{j}.conv1" in modules:
                n += 1
                yield f"down_blocks.{i}.resnets.{j}", f"input_blocks.{n}.0"
                yield f"down_blocks.{i}.attentions.{j}", f"input_blocks.{n}.1"
        if f"down_blocks.{i}.downsamplers.0.conv" in modules:
            n += 1
            yield f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{n}.0.op"
    n = -1
    for i in range(9):
        for j in range(9):
            if f"up_blocks.{i}.resnets.{j}.conv1" in modules:
                n += 1
                yield f"up_blocks.{i}.resnets.{j}", f"output_blocks.{n}.0"
                yield f"up_blocks.{i}.attentions.{j}", f"output_blocks.{n}.1"
        attends = f"up_blocks.{i}.attentions.0.norm" in modules
        yield f"up_blocks.{i}.upsamplers.0.conv", f"output_blocks.{n}.{2 if attends else 1}.conv"


def original_vae(tensors: Mapping[str, Any]) -> Arrays:
    """An autoencoder by the original layout's names."""
    levels = 1 + max(int(match[1]) for name in tensors if (match := re.search(r"up_blocks\.(\d+)", name)))
    renamed: Arrays = {}
    for name, array in tensors.items():
        old = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", name)
        old = re.sub(r"up_blocks\.(\d+)\.", lambda match: f"up.{levels - 1 - int(match[1])}.", old)
        old = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", old)
        old = old.replace("mid_block.attentions.0", "mid.attn_1").replace(".resnets.", ".block.")
        old = old.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        old = old.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if ".attn_1." in old:
            for new, short in (("group_norm", "norm"), ("to_out.0", "proj_out"), ("to_", "")):
                old = old.replace(f"attn_1.{new}", f"attn_1.{short}")
            array = array[:, :, None, None] if array.ndim == 2 else array
        renamed[old] = array
    return renamed


def original_text(tensors: Mapping[str, Any]) -> Arrays:
    """A text encoder by OpenCLIP's names: one matrix for queries, keys and values."""
    plain = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.final_layer_norm.weight": "ln_final.weight",
        "text_model.final_layer_norm.bias": "ln_final.bias",
    }
    renamed: Arrays = {}
    for name, array in tensors.items():
        if name in plain:
            renamed[plain[name]] = array
        elif name == "text_projection.weight":
            renamed["text_projection"] = array.T
        elif ".q_proj." in name:
            together = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            renamed[_resblock(name).replace("q_proj.", "in_proj_")] = np.concatenate(together)
        elif ".k_proj." not in name and ".v_proj." not in name:
            renamed[_resblock(name)] = array
    return renamed


def _resblock(name: str) -> str:
    old = name.replace("text_model.encoder.layers.", "transformer.resblocks.").replace("self_attn", "attn")
    old = old.replace("layer_norm", "ln_")
    return old.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")


def _surplus(text: Mapping[str, Any]) -> Arrays:
    """One more layer and the projection, which version 2 leaves out."""
    layers = {name: array for name, array in original_text(text).items() if ".resblocks.0." in name}
    more = {name.replace(".0.", ".2.", 1): array + 1 for name, array in layers.items()}
    return {**more, "text_projection": np.ones((64, 64), np.float32), "logit_scale": np.float32([1.0])}


def _under(prefix: str, tensors: Mapping[str, Any]) -> Arrays:
    return {prefix + name: array for name, array in tensors.items()}


def _parameters(name: str, config: Mapping[str, Any]) -> list[Parameter]:
    if name == "vae":
        vae = autoencoder_kl.configure(config, name)
        graphs = [autoencoder_kl.record_encoder(vae), autoencoder_kl.record_decoder(vae)]
    elif name == "unet":
        graphs = [unet2d_condition.record(unet2d_condition.configure(config, name), ids=1)]
    else:
        graphs = [clip_text.record(clip_text.configure(config, name, name == "text_encoder_2"))]
    return list({p.name: p for graph in graphs for p in graph.parameters}.values())


def _random(parameters: Iterable[Parameter], seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {p.name: random_tensor(p, rng) for p in parameters}
