"""The recorded U-Net against diffusers' UNet2DConditionModel, through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from export_helpers import build, difference, run  # noqa: E402
from export_parity import halved, randomise, saved  # noqa: E402

from edgediff.export.checkpoint import plain_spellings  # noqa: E402
from edgediff.export.networks import unet2d_condition  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
BASE: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
THREE: dict[str, Any] = {
    **BASE,
    "block_out_channels": (8, 16, 24),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
CASES: dict[str, tuple[dict[str, Any], int, tuple[int, int]]] = {
    "two levels": (BASE, 1, (8, 8)),
    "odd sizes": (BASE, 2, (9, 13)),
    "guided": ({**BASE, "time_cond_proj_dim": 10}, 2, (8, 8)),
    "three levels, odd": (THREE, 1, (9, 13)),
    "three levels, no square": (THREE, 2, (24, 40)),
    "linear projection, heads and depths by level": (
        {
            **THREE,
            "use_linear_projection": True,
            "attention_head_dim": (1, 4, 8),
            "transformer_layers_per_block": (1, 2, 3),
            "layers_per_block": (2, 1, 3),
        },
        1,
        (11, 6),
    ),
    "asymmetric": ({**THREE, "downsample_padding": 0}, 1, (8, 12)),
    "other switches": (
        {
            **BASE,
            "center_input_sample": True,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "mid_block_scale_factor": 1.7,
            "in_channels": 9,
            "out_channels": 5,
            "conv_in_kernel": 1,
            "conv_out_kernel": 5,
            "norm_eps": 1e-3,
            "norm_num_groups": 8,
            "upcast_attention": True,
            "act_fn": "swish",
            "time_embedding_dim": 20,
        },
        2,
        (5, 7),
    ),
    "no middle": ({**BASE, "mid_block_type": None}, 1, (8, 8)),
}


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CASES)
def test_equal(name: str, storage: Any, tmp_path: Path) -> None:
    config, batch, size = CASES[name]
    reference = randomise(diffusers.UNet2DConditionModel(**config))
    tensors, saved_config = saved(reference, tmp_path)
    graph = unet2d_condition.record(unet2d_condition.configure(saved_config, "config.json"))
    path = build(graph, tensors, plain_spellings, tmp_path, storage)
    if storage == "fp16":
        halved(reference)
    rng = np.random.default_rng(1)
    inputs = {
        "sample": rng.standard_normal((batch, reference.config.in_channels, *size), np.float32),
        "timestep": np.array([617.25], np.float32),
        "encoder_hidden_states": rng.standard_normal((batch, 5, 12), np.float32),
    }
    condition = None
    if reference.config.time_cond_proj_dim is not None:
        inputs["timestep_cond"] = rng.standard_normal((batch, 10), np.float32)
        condition = torch.from_numpy(inputs["timestep_cond"])
    with torch.no_grad():
        wanted = reference(
            torch.from_numpy(inputs["sample"]),
            torch.from_numpy(inputs["timestep"]),
            torch.from_numpy(inputs["encoder_hidden_states"]),
            timestep_cond=condition,
        ).sample.numpy()
    assert difference(run(path, inputs)["out_sample"], wanted) < TOLERANCE
