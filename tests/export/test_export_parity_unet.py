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
from export_unets import BASE, THREE, XL, arguments, random_inputs  # noqa: E402

from edgediff.errors import SourceError  # noqa: E402
from edgediff.export.checkpoint import plain_spellings  # noqa: E402
from edgediff.export.networks import unet2d_condition  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4
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
    "asymmetric": ({**THREE, "downsample_padding": 0}, 1, (11, 13)),
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
    "sizes and a second text": (XL, 2, (9, 11)),
    "one head, sinusoids the other way": (
        {**XL, "flip_sin_to_cos": False, "freq_shift": 1, "attention_head_dim": (1, 2, 3)},
        1,
        (9, 11),
    ),
    "depths by layer, middle without attention": (
        {
            **XL,
            "layers_per_block": 2,
            "transformer_layers_per_block": (1, (2, 1), (3, 1)),
            "reverse_transformer_layers_per_block": ((1, 2, 3), (2, 1, 1), 1),
            "mid_block_type": "UNetMidBlock2D",
            "mid_block_scale_factor": 1.3,
        },
        1,
        (9, 11),
    ),
    "depths by layer, middle as deep as the first": (
        {
            **XL,
            "layers_per_block": 2,
            "transformer_layers_per_block": (1, 1, (3, 1)),
            "reverse_transformer_layers_per_block": ((1, 2, 3), 2, 1),
        },
        1,
        (6, 7),
    ),
    "no attention in the coarsest level, no middle": (
        {**THREE, "mid_block_type": None, "layers_per_block": (1, 2, 1)},
        2,
        (9, 11),
    ),
    "no attention at all": (
        {
            **THREE,
            "down_block_types": ("DownBlock2D",) * 3,
            "mid_block_type": "UNetMidBlock2D",
            "up_block_types": ("UpBlock2D",) * 3,
        },
        1,
        (9, 11),
    ),
    "attention on one way only": (
        {**THREE, "down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("CrossAttnUpBlock2D",) * 3},
        1,
        (9, 11),
    ),
    "labels from a table, text only": (
        {
            **THREE,
            "in_channels": 7,
            "num_class_embeds": 20,
            "only_cross_attention": (True, False, True),
            "use_linear_projection": True,
        },
        3,
        (9, 11),
    ),
    "text only everywhere": ({**BASE, "only_cross_attention": True}, 1, (9, 11)),
    "labels like the time": ({**BASE, "class_embed_type": "timestep"}, 2, (9, 11)),
    "labels as they are": ({**BASE, "class_embed_type": "identity"}, 2, (9, 11)),
    "labels projected": (
        {**BASE, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 14},
        2,
        (9, 11),
    ),
    "labels projected by one layer, behind the time": (
        {
            **BASE,
            "class_embed_type": "simple_projection",
            "projection_class_embeddings_input_dim": 14,
            "class_embeddings_concat": True,
        },
        3,
        (9, 11),
    ),
    "labels and sizes and guidance": ({**XL, "num_class_embeds": 20, "time_cond_proj_dim": 10}, 2, (9, 11)),
    "time scales and shifts": (
        {
            **BASE,
            "resnet_time_scale_shift": "scale_shift",
            "time_embedding_act_fn": "gelu",
            "timestep_post_act": "relu",
        },
        2,
        (9, 11),
    ),
    "switches of other blocks": (
        {
            **BASE,
            "resnet_out_scale_factor": 1.4,
            "resnet_skip_time_act": True,
            "mid_block_only_cross_attention": True,
            "sample_size": (7, 9),
            "time_embedding_act_fn": "silu",
            "timestep_post_act": "silu",
            "cross_attention_dim": (12, 12),
        },
        1,
        (9, 11),
    ),
    "eight channels in": ({**THREE, "in_channels": 8, "act_fn": "swish"}, 1, (9, 11)),
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
    inputs = random_inputs(reference.config, batch, size)
    assert [port.name for port in graph.inputs] == list(inputs)
    with torch.no_grad():
        wanted = reference(**arguments(reference.config, inputs)).sample.numpy()
    assert difference(run(path, inputs)["out_sample"], wanted) < TOLERANCE


def test_five_sizes(tmp_path: Path) -> None:
    """The refiner's signature: the same configuration with one number less has a wider text vector."""
    reference = randomise(diffusers.UNet2DConditionModel(**XL))
    tensors, saved_config = saved(reference, tmp_path)
    net = unet2d_condition.configure(saved_config, "config.json")
    assert net.added is not None
    assert (net.added.inputs, net.added.channels) == (29, 4)
    path = build(unet2d_condition.record(net, ids=5), tensors, plain_spellings, tmp_path)
    inputs = random_inputs(reference.config, 2, (9, 11), ids=5)
    assert inputs["text_embeds"].shape == (2, 9)
    with torch.no_grad():
        wanted = reference(**arguments(reference.config, inputs)).sample.numpy()
    assert difference(run(path, inputs)["out_sample"], wanted) < TOLERANCE
    for ids in (0, 8):
        with pytest.raises(SourceError, match="add_embedding reads 29 numbers"):
            unet2d_condition.record(net, ids=ids)


CONTROLLED: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "three levels": (THREE, (9, 11)),
    "sizes and a second text": (XL, (6, 13)),
    "no middle": ({**THREE, "mid_block_type": None}, (9, 11)),
    "asymmetric, layers by level": (
        {**THREE, "downsample_padding": 0, "layers_per_block": (1, 3, 2)},
        (11, 13),
    ),
}


@pytest.mark.parametrize("name", CONTROLLED)
def test_residuals_are_added(name: str, tmp_path: Path) -> None:
    config, size = CONTROLLED[name]
    reference = randomise(diffusers.UNet2DConditionModel(**config))
    tensors, saved_config = saved(reference, tmp_path)
    net = unet2d_condition.configure(saved_config, "config.json")
    graph = unet2d_condition.record(net, controlled=True)
    path = build(graph, tensors, plain_spellings, tmp_path)
    inputs = random_inputs(reference.config, 2, size)
    extents = unet2d_condition.residual_extents(net, size)
    assert [port.name for port in graph.inputs] == [*inputs, *extents]
    rng = np.random.default_rng(2)
    channels = {port.name: port.value.channels for port in graph.inputs}
    residuals = {
        name: 0.5 * rng.standard_normal((2, channels[name], *extent), np.float32)
        for name, extent in extents.items()
    }
    *down, middle = (torch.from_numpy(value) for value in residuals.values())
    with torch.no_grad():
        wanted = reference(
            **arguments(reference.config, inputs),
            down_block_additional_residuals=tuple(down),
            mid_block_additional_residual=middle,
        ).sample.numpy()
    assert difference(run(path, {**inputs, **residuals})["out_sample"], wanted) < TOLERANCE
    plain = unet2d_condition.record(net)
    assert {p.name: p.shape for p in graph.parameters} == {p.name: p.shape for p in plain.parameters}
