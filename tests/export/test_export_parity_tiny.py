"""The recorded tiny encoder and decoder against diffusers' AutoencoderTiny, through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from export_cases import TINY_AUTOENCODERS as CASES  # noqa: E402
from export_helpers import build, difference, run  # noqa: E402
from export_parity import halved, randomise, saved  # noqa: E402

from edgediff.export.checkpoint import match, plain_spellings  # noqa: E402
from edgediff.export.networks import autoencoder_tiny  # noqa: E402
from edgediff.export.tensors import TensorFiles  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CASES)
def test_equal(name: str, storage: Any, tmp_path: Path) -> None:
    config, batch, size = CASES[name]
    reference = randomise(diffusers.AutoencoderTiny(**config))
    tensors, saved_config = saved(reference, tmp_path)
    net = autoencoder_tiny.configure(saved_config, "config.json")
    assert (net.scaling_factor, net.shift_factor) == (
        reference.config.scaling_factor,
        reference.config.shift_factor,
    )
    graphs = [autoencoder_tiny.record_decoder(net), autoencoder_tiny.record_encoder(net)]
    names = match([p for g in graphs for p in g.parameters], tensors, plain_spellings, tmp_path)
    assert len(names) == len(tensors.entries)
    paths = []
    for graph in graphs:
        half = TensorFiles([])
        half.entries |= {p.name: tensors.entries[p.name] for p in graph.parameters}
        paths.append(build(graph, half, plain_spellings, tmp_path, storage))
    if storage == "fp16":
        halved(reference)
    rng = np.random.default_rng(1)
    # Wide enough to reach where the decoder bends its latents.
    latents = 3 * rng.standard_normal((batch, net.latent_channels, *size), np.float32)
    # One row more than a multiple: the halvings have to round.
    picture = rng.uniform(
        -1, 1, (batch, net.in_channels, size[0] * net.downscale + 1, size[1] * net.downscale)
    ).astype(np.float32)
    with torch.no_grad():
        decoded = reference.decode(torch.from_numpy(latents)).sample.numpy()
        encoded = reference.encode(torch.from_numpy(picture)).latents.numpy()
    assert decoded.shape[2:] == (size[0] * net.downscale, size[1] * net.downscale)
    assert difference(run(paths[0], {"latent_sample": latents})["sample"], decoded) < TOLERANCE
    assert difference(run(paths[1], {"sample": picture})["latents"], encoded) < TOLERANCE
