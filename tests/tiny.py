"""A small model's bundle, written in a moment: manifest, a byte-pair vocabulary, graphs given as bytes."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 16
CORPUS = """a red circle to the left of a blue square on a white background the quick brown fox jumps over the
lazy dog it's we're they've i'm you'll he'd don't 1234567890 drawing of an astronaut riding a horse, high
quality, highly detailed; naïve café über straße привет мир 日本語 ελλάδα"""


def byte_symbols() -> list[str]:
    """Return GPT-2's printable stand-in for each of the 256 bytes (Radford et al., 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


@functools.cache
def vocabulary(merges: int = 150) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a vocabulary in CLIP's form and its merges, learnt from CORPUS (Sennrich et al., 2016)."""
    symbols = byte_symbols()
    words = Counter(CORPUS.split())
    split = {w: [*(symbols[b] for b in w.encode()[:-1]), symbols[w.encode()[-1]] + "</w>"] for w in words}
    learnt: list[tuple[str, str]] = []
    for _ in range(merges):
        pairs = Counter({p: 0 for word in split.values() for p in itertools.pairwise(word)})
        for word, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = max(pairs, key=lambda p: (pairs[p], p))
        learnt.append(best)
        for word, parts in split.items():
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == best:
                    merged[-1] += part
                else:
                    merged.append(part)
            split[word] = merged
    order = [symbols[b] for b in (*range(33, 127), *range(161, 173), *range(174, 256))]
    order += [s for s in symbols if s not in order]
    tokens = [*order, *(s + "</w>" for s in order), *(a + b for a, b in learnt), START, END]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, learnt


def write_tokenizer(folder: Path, whole: bool = False) -> Path:
    """Write ``vocab.json`` and ``merges.txt`` (and ``tokenizer.json`` if ``whole``) and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    if whole:
        from edgediff import clip_bpe

        text = str(clip_bpe.build(folder).to_str())
        (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return folder


def _tensor(name: str, *dims: str | int, dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "dims": list(dims)}


def _component(folder: str, inputs: list[dict[str, Any]], output: dict[str, Any]) -> dict[str, Any]:
    graph = {"runtime": "onnxruntime", "profile": "portable", "file": f"{folder}/model.onnx"}
    return {"graphs": [{**graph, "precision": "fp32", "inputs": inputs, "outputs": [output]}]}


LATENT = ("batch", 4, "latent_height", "latent_width")
COMPONENTS: dict[str, Any] = {
    "text_encoder": _component(
        "text_encoder",
        [_tensor("input_ids", "batch", LENGTH, dtype="int64")],
        _tensor("last_hidden_state", "batch", LENGTH, 8),
    ),
    "denoiser": _component(
        "unet",
        [
            _tensor("sample", *LATENT),
            _tensor("timestep", dtype="float32"),
            _tensor("encoder_hidden_states", "batch", LENGTH, 8),
        ],
        _tensor("out_sample", *LATENT),
    ),
    "decoder": _component(
        "vae_decoder",
        [_tensor("latent_sample", *LATENT)],
        _tensor("sample", "batch", 3, "height", "width"),
    ),
}
SCHEDULER = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1,
    "prediction_type": "epsilon",
}  # fmt: skip


def manifest(folder: Path, **model: Any) -> dict[str, Any]:
    """Return the manifest of the files in ``folder``; ``model`` replaces entries of its field."""
    size = {"height": 8, "width": 8}
    facts = {
        "family": "tiny",
        "tasks": ["text2image"],
        "scheduler": SCHEDULER,
        "latents": {
            "channels": 4, "axes": ["batch", "channels", "height", "width"], "downscale": size,
            "scaling_factor": 0.18215, "shift_factor": 0.0,
        },
        "text": {"length": LENGTH, "tokenizer": "tokenizer/tokenizer.json"},
        **model,
    }  # fmt: skip
    files = {
        file.relative_to(folder).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "edgediff.json"
    }
    return {
        "format_version": "1.0",
        "edgediff_version": "0.1.0",
        "origin": {"source": "tests/tiny.py", "license": "apache-2.0"},
        "model": facts,
        "defaults": {
            "sampler": "ddim", "num_inference_steps": 3, "guidance_scale": 5.0,
            "size": {"height": 32, "width": 32},
        },
        "components": COMPONENTS,
        "files": files,
    }  # fmt: skip


def write_bundle(folder: Path, graphs: Mapping[str, bytes] | None = None, **model: Any) -> Path:
    """Write a bundle and return its folder. ``graphs`` maps a role to the bytes of its file."""
    write_tokenizer(folder / "tokenizer", whole=True)
    for role, component in COMPONENTS.items():
        file = folder / component["graphs"][0]["file"]
        file.parent.mkdir(parents=True)
        file.write_bytes(b"no graph" if graphs is None else graphs[role])
    text = json.dumps(manifest(folder, **model), indent=1)
    (folder / "edgediff.json").write_text(text, encoding="utf-8")
    return folder


def pipeline(
    folder: Path, scheduler: Any, guidance_dims: int | None = None, kind: str | None = None, layers: int = 2
) -> Any:
    """Save a diffusers pipeline with random weights to ``folder`` and return it; latents are 8x8.

    ``kind`` names its class; an inpainting one gets a U-Net of 9 channels if it ends with ``9``.
    """
    import diffusers
    import torch
    import transformers

    vocab, _ = vocabulary()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(write_tokenizer(folder / "words")))
    torch.manual_seed(0)
    text = transformers.CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=16, intermediate_size=32, num_hidden_layers=layers,
        num_attention_heads=2, max_position_embeddings=LENGTH, bos_token_id=vocab[START],
        eos_token_id=vocab[END], pad_token_id=vocab[END],
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        in_channels=9 if kind is not None and kind.endswith("9") else 4, attention_head_dim=2,
        cross_attention_dim=16, time_cond_proj_dim=guidance_dims,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, sample_size=16, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    usual = "StableDiffusionPipeline" if guidance_dims is None else "LatentConsistencyModelPipeline"
    pipe = getattr(diffusers, usual if kind is None else kind.rstrip("9"))(
        vae=vae.eval(), text_encoder=transformers.CLIPTextModel(text).eval(), tokenizer=tokenizer,
        unet=unet.eval(), scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(folder)
    return pipe
