"""Tiny models with random weights, made from configurations: diffusers folders for parity tests. Needs torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LENGTH = 16
WORDS = ("red", "blue", "circle", "square", "cat", "on", "white")


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins of byte-level BPE (Radford et al., 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in printable}
    spare = 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + spare)
            spare += 1
    return [table[b] for b in range(256)]


def write_tokenizer(folder: Path) -> int:
    """Write vocab.json, merges.txt and their configuration for a few whole words; returns the vocabulary's size."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = byte_alphabet()
    entries = letters + [c + "</w>" for c in letters]
    merges: list[str] = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merge = f"{parts[0]} {parts[1]}"
            if merge not in merges:
                merges.append(merge)
                entries.append(parts[0] + parts[1])
            parts = [parts[0] + parts[1], *parts[2:]]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(entries))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
               "unk_token": "<|endoftext|>"}  # fmt: skip
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {**special, "model_max_length": LENGTH, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocabulary)


def pipeline(folder: Path, scheduler: Any, guidance_dims: int | None = None, latent_channels: int = 4) -> Any:
    """Make a diffusers pipeline with random weights, save it to ``folder`` and return it."""
    import torch
    from diffusers import AutoencoderKL, LatentConsistencyModelPipeline, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    size = write_tokenizer(folder / "tokenizer")
    torch.manual_seed(11)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=LENGTH, bos_token_id=size - 2, eos_token_id=size - 1, pad_token_id=size - 1,
        )  # fmt: skip
    )
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=latent_channels, out_channels=latent_channels, block_out_channels=(16, 32),
        layers_per_block=1, norm_num_groups=8, cross_attention_dim=32, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), time_cond_proj_dim=guidance_dims,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=latent_channels,
        scaling_factor=0.4,
    )  # fmt: skip
    kind = StableDiffusionPipeline if guidance_dims is None else LatentConsistencyModelPipeline
    made = kind(
        vae=vae.eval(), text_encoder=text.eval(), unet=unet.eval(), scheduler=scheduler, safety_checker=None,
        tokenizer=CLIPTokenizer.from_pretrained(str(folder / "tokenizer")), feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    made.save_pretrained(folder)
    return made
