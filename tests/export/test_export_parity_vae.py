"""The recorded encoder and decoder against diffusers' AutoencoderKL, through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from export_cases import AUTOENCODERS as CASES  # noqa: E402
from export_cases import blocks  # noqa: E402
from export_helpers import build, difference, run, write_safetensors  # noqa: E402
from export_parity import halved, randomise, saved  # noqa: E402

from edgediff.export.checkpoint import autoencoder_spellings, match  # noqa: E402
from edgediff.export.networks import autoencoder_kl  # noqa: E402
from edgediff.export.tensors import TensorFiles, Tensors  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CASES)
def test_equal(name: str, storage: Any, tmp_path: Path) -> None:
    config, batch, size = CASES[name]
    reference = randomise(diffusers.AutoencoderKL(**config))
    tensors, saved_config = saved(reference, tmp_path)
    net = autoencoder_kl.configure(saved_config, "config.json")
    graphs = [autoencoder_kl.record_decoder(net), autoencoder_kl.record_encoder(net)]
    names = match([p for g in graphs for p in g.parameters], tensors, autoencoder_spellings, tmp_path)
    assert len(names) == len(tensors.entries)
    decoder, encoder = (build_part(graph, tensors, tmp_path, storage) for graph in graphs)
    if storage == "fp16":
        halved(reference)
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((batch, net.latent_channels, *size), np.float32)
    # One row more than a multiple: the halvings have to round.
    picture = rng.standard_normal(
        (batch, net.in_channels, size[0] * net.downscale + 1, size[1] * net.downscale), np.float32
    )
    with torch.no_grad():
        decoded = reference.decode(torch.from_numpy(latents)).sample.numpy()
        encoded = reference.encode(torch.from_numpy(picture)).latent_dist.parameters.numpy()
    assert difference(run(decoder, {"latent_sample": latents})["sample"], decoded) < TOLERANCE
    found = run(encoder, {"sample": picture})["latent_parameters"]
    # The library clamps nothing here: both halves, mean and log-variance, must agree.
    assert difference(found, encoded) < TOLERANCE


def test_old_attention_names(tmp_path: Path) -> None:
    reference = randomise(diffusers.AutoencoderKL(**blocks(8, 16)))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, value in reference.state_dict().items():
        for new, former in old.items():
            name = name.replace(f"{new}.", f"{former}.")
        square = "attentions" in name and value.ndim == 2
        state[name] = (value[:, :, None, None] if square else value).contiguous().numpy()
    write_safetensors(tmp_path / "diffusion_pytorch_model.safetensors", state)
    tensors = TensorFiles([tmp_path / "diffusion_pytorch_model.safetensors"])
    net = autoencoder_kl.configure(blocks(8, 16), "config.json")
    path = build_part(autoencoder_kl.record_decoder(net), tensors, tmp_path, "fp32")
    latents = np.random.default_rng(1).standard_normal((1, 4, 4, 5), np.float32)
    with torch.no_grad():
        decoded = reference.decode(torch.from_numpy(latents)).sample.numpy()
    assert difference(run(path, {"latent_sample": latents})["sample"], decoded) < TOLERANCE


def build_part(graph: Any, tensors: Tensors, folder: Path, storage: Any) -> Path:
    """One of the two graphs that share a checkpoint: the other's tensors are left out."""
    half = TensorFiles([])
    shared = ("quant_conv", "post_quant_conv")
    side = "decoder" if graph.name == "vae_decoder" else "encoder"
    mine = {p.name for p in graph.parameters}
    for name, entry in tensors.entries.items():
        if name.startswith(f"{side}.") or (name.startswith(shared) and name in mine):
            half.entries[name] = entry
    return build(graph, half, autoencoder_spellings, folder, storage)
