"""Small SDXL-type pipelines of diffusers with random weights: base, refiner, and networks that fill in."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tests import tiny

WIDTH, PROJECTED, SIZES = 16, 12, 8
TIMES = ["original_height", "original_width", "crop_top", "crop_left", "target_height", "target_width"]


def manifest(folder: Path, refiner: bool = False, **defaults: Any) -> dict[str, Any]:
    """Write a bundle for the null runtime to ``folder`` and return its manifest; :func:`rewrite` changes it.

    The base has two text encoders of 8 and 4 channels, the refiner the second one alone.
    """
    first, second = write_tokenizers(folder)
    first.rename(folder / "tokenizer")
    second.rename(folder / "tokenizer_2")
    ids = [*TIMES[:4], "aesthetic_score"] if refiner else TIMES
    components: dict[str, Any] = copy.deepcopy(tiny.COMPONENTS)
    states = [
        {"name": f"hidden_states.{i}", "dtype": "float32", "dims": ["batch", tiny.LENGTH, 8]}
        for i in range(3)
    ]
    components["text_encoder"]["graphs"][0]["outputs"] += states
    other = copy.deepcopy(components["text_encoder"])
    other["graphs"][0]["file"] = "text_encoder_2/model.onnx"
    for tensor in other["graphs"][0]["outputs"]:
        tensor["dims"][2] = 4
    other["graphs"][0]["outputs"].append({"name": "text_embeds", "dtype": "float32", "dims": ["batch", 5]})
    components["text_encoder_2"] = other
    reads = components["denoiser"]["graphs"][0]["inputs"]
    reads[2]["dims"][2] = 4 if refiner else 12
    reads.append({"name": "text_embeds", "dtype": "float32", "dims": ["batch", 5]})
    reads.append({"name": "time_ids", "dtype": "float32", "dims": ["batch", len(ids)]})
    components["encoder"] = copy.deepcopy(components["decoder"])
    graph = components["encoder"]["graphs"][0]
    graph["file"] = "vae_encoder/model.onnx"
    graph["inputs"] = [{"name": "sample", "dtype": "float32", "dims": ["batch", 3, "height", "width"]}]
    latent = ["batch", 8, "latent_height", "latent_width"]
    graph["outputs"] = [{"name": "latent_parameters", "dtype": "float32", "dims": latent}]
    if refiner:
        del components["text_encoder"]
    for component in components.values():
        file = folder / component["graphs"][0]["file"]
        file.parent.mkdir(parents=True)
        file.write_bytes(b"no graph")
    places = {"text_encoder": "tokenizer/vocab.json", "text_encoder_2": "tokenizer_2/vocab.json"}
    listed: list[dict[str, Any]] = [
        {"role": role, "length": tiny.LENGTH, "tokenizer": place, "hidden": "hidden_states.1"}
        for role, place in places.items()
        if role in components
    ]
    listed[-1]["pooled"] = "text_embeds"
    text = {"length": tiny.LENGTH, "tokenizer": listed[0]["tokenizer"], "encoders": listed}
    tasks = ["image2image", "inpaint"] if refiner else ["text2image", "image2image", "inpaint"]
    told = tiny.manifest(folder, text={**text, "zero_negative": not refiner}, tasks=tasks, size_ids=ids)
    told["components"], told["format_version"] = components, "1.2"
    told["defaults"] |= defaults
    rewrite(folder, told)
    return told


def rewrite(folder: Path, told: dict[str, Any]) -> None:
    """Write a manifest."""
    (folder / "edgediff.json").write_text(json.dumps(told), encoding="utf-8")


def write_tokenizers(folder: Path) -> tuple[Path, Path]:
    """Write the two tokenizers of SDXL: one vocabulary, and another token for padding (here ``!``)."""
    first, second = tiny.write_tokenizer(folder / "words"), tiny.write_tokenizer(folder / "words_2")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        told = json.loads((second / name).read_text(encoding="utf-8"))
        (second / name).write_text(json.dumps({**told, "pad_token": "!"}), encoding="utf-8")
    return first, second


def _text(layers: int, **more: Any) -> Any:
    import transformers

    vocab, _ = tiny.vocabulary()
    return transformers.CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=layers,
        num_attention_heads=2, max_position_embeddings=tiny.LENGTH, bos_token_id=vocab[tiny.START],
        eos_token_id=vocab[tiny.END], pad_token_id=vocab[tiny.END], **more,
    )  # fmt: skip


def pipeline(folder: Path, scheduler: Any, kind: str = "StableDiffusionXLPipeline", **facts: Any) -> Any:
    """Save a pipeline to ``folder`` and return it; latents are 8x8, a picture 64x64.

    ``kind`` names its class; a U-Net gets 9 channels if it ends with ``9``. ``facts``: ``refiner`` (one text
    encoder, an aesthetic score), ``zeros`` (``force_zeros_for_empty_prompt``), ``guidance_dims``, ``seed``.
    """
    import diffusers
    import torch
    import transformers

    first, second = write_tokenizers(folder)
    torch.manual_seed(facts.get("seed", 0))
    refiner = facts.get("refiner", False)
    ids = 5 if refiner else 6
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        in_channels=9 if kind.endswith("9") else 4, attention_head_dim=(2, 4), use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2),
        cross_attention_dim=WIDTH if refiner else 2 * WIDTH, addition_embed_type="text_time",
        addition_time_embed_dim=SIZES, projection_class_embeddings_input_dim=PROJECTED + ids * SIZES,
        time_cond_proj_dim=facts.get("guidance_dims"),
    )  # fmt: skip
    torch.manual_seed(1)  # base and refiner share the autoencoder
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8, 8, 8), norm_num_groups=4, sample_size=64, latent_channels=4,
        scaling_factor=0.13025, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    one = transformers.CLIPTextModel(_text(3)).eval()
    two = transformers.CLIPTextModelWithProjection(
        _text(4, projection_dim=PROJECTED, hidden_act="gelu")
    ).eval()
    words = transformers.CLIPTokenizer.from_pretrained(str(first))
    more: dict[str, Any] = {"requires_aesthetics_score": True} if refiner else {}
    pipe = getattr(diffusers, "StableDiffusionXLImg2ImgPipeline" if refiner else kind.rstrip("9"))(
        vae=vae.eval(), unet=unet.eval(), scheduler=scheduler, text_encoder=None if refiner else one,
        tokenizer=None if refiner else words, text_encoder_2=two,
        tokenizer_2=transformers.CLIPTokenizer.from_pretrained(str(second)),
        force_zeros_for_empty_prompt=facts.get("zeros", not refiner), add_watermarker=False, **more,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe
