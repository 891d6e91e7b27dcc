"""Reduced self-attention against diffusers' U-Net with attention processors that do the same in PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from export_helpers import build, difference, run  # noqa: E402
from export_parity import randomise, saved  # noqa: E402
from export_unets import THREE, XL, arguments, random_inputs  # noqa: E402

from edgediff.export.checkpoint import plain_spellings  # noqa: E402
from edgediff.export.emit.onnx import PORTABLE, Profile  # noqa: E402
from edgediff.export.emit.onnx_fused import ORT_CPU  # noqa: E402
from edgediff.export.emit.onnx_openvino import OPENVINO  # noqa: E402
from edgediff.export.emit.reduce import Cut, parse, reduced  # noqa: E402
from edgediff.export.networks import unet2d_condition  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4


class Processor:
    """Self-attention reduced as the cut says, over a grid; tiles as slices, blocks by PyTorch's pooling."""

    def __init__(self, cut: Cut, grid: tuple[int, int], turned: bool) -> None:
        self.cut, self.grid, self.turned = cut, grid, turned

    def __call__(self, attn: Any, hidden_states: Any, *_: Any, **__: Any) -> Any:
        x = hidden_states
        (height, width), size = self.grid, self.cut.size
        if self.cut.way in ("pooled", "strided"):
            picture = x.transpose(1, 2).reshape(len(x), -1, height, width)
            if self.cut.way == "pooled":
                few = torch.nn.functional.avg_pool2d(picture, size, ceil_mode=True, count_include_pad=False)
            else:
                few = picture[:, :, ::size, ::size]
            return attn.to_out[0](attend(attn, x, few.flatten(2).transpose(1, 2)))
        picture = x.reshape(len(x), height, width, -1)
        tall, wide = -(-height // size), -(-width // size)
        if self.turned:
            picture = picture.roll((-(tall // 2), -(wide // 2)), (1, 2))
        made = torch.zeros_like(picture)
        # From the last tile to the first: where they overlap the first one counts.
        for i in reversed(range(size)):
            for j in reversed(range(size)):
                top, left = i * (height - tall) // (size - 1), j * (width - wide) // (size - 1)
                place = (slice(None), slice(top, top + tall), slice(left, left + wide))
                tile = picture[place]
                tokens = tile.flatten(1, 2)
                made[place] = attend(attn, tokens, tokens).reshape(tile.shape)
        if self.turned:
            made = made.roll((tall // 2, wide // 2), (1, 2))
        return attn.to_out[0](made.flatten(1, 2))


def attend(attn: Any, queries: Any, keys: Any) -> Any:
    """All heads, by PyTorch."""
    parts = (attn.to_q(queries), attn.to_k(keys), attn.to_v(keys))
    q, k, v = (each.unflatten(2, (attn.heads, -1)).transpose(1, 2) for each in parts)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def level_of(name: str, levels: int) -> int:
    """The level of a module of diffusers' U-Net."""
    block, _, rest = name.partition(".")
    if block == "mid_block":
        return levels
    number = int(rest.partition(".")[0])
    return number + 1 if block == "down_blocks" else levels - number


def reference_of(config: dict[str, Any], text: str, size: tuple[int, int]) -> Any:
    """The network with processors in the place of those that the reduction means."""
    reference = randomise(diffusers.UNet2DConditionModel(**config))
    count, reduction, turn = len(config["block_out_channels"]), parse(text), 0
    processors = dict(reference.attn_processors)
    transformers: dict[str, bool] = {}
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    for name in sorted(processors, key=lambda each: order[each.partition(".")[0]]):
        level = level_of(name, count)
        cut = reduction.at(level)
        if cut is None or ".attn1." not in name:
            continue
        owner = name.partition(".transformer_blocks.")[0]
        if owner not in transformers:
            transformers[owner] = cut.way == "shifted" and turn % 2 == 1
            turn += 1
        grid = size
        for _ in range(level - 1):
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        processors[name] = Processor(cut, grid, transformers[owner])
    reference.set_attn_processor(processors)
    return reference


CASES: dict[str, tuple[dict[str, Any], str, tuple[int, int], Profile]] = {
    "tiles": (THREE, "tiles:2@1", (8, 12), PORTABLE),
    "tiles that overlap": (THREE, "tiles:2@1", (9, 11), PORTABLE),
    "three tiles, fused": (THREE, "tiles:3@1", (9, 11), ORT_CPU),
    "tiles of two levels": (THREE, "tiles:2@1+tiles:3@2", (13, 9), ORT_CPU),
    "shifted": (THREE, "shifted:2@1,2", (9, 14), PORTABLE),
    "shifted on openvino's form": (THREE, "shifted:3@1", (12, 7), OPENVINO),
    "pooled": (THREE, "pooled:2@1", (8, 12), PORTABLE),
    "pooled with smaller blocks": (THREE, "pooled:3@1,2", (9, 11), ORT_CPU),
    "pooled on openvino's form": (THREE, "pooled:2@1", (9, 11), OPENVINO),
    "strided": (THREE, "strided:2@1", (9, 11), PORTABLE),
    "of all kinds": (THREE, "tiles:2@1+strided:3@2", (10, 7), ORT_CPU),
    "depths": (XL, "tiles:2@2+pooled:2@3", (8, 12), PORTABLE),
}


@pytest.mark.parametrize("name", CASES)
def test_equal(name: str, tmp_path: Path) -> None:
    config, text, size, profile = CASES[name]
    reference = reference_of(config, text, size)
    tensors, saved_config = saved(reference, tmp_path)
    whole = unet2d_condition.record(unet2d_condition.configure(saved_config, "config.json"))
    graph = reduced(whole, parse(text))
    inputs = random_inputs(reference.config, 2, size)
    with torch.no_grad():
        wanted = reference(**arguments(reference.config, inputs)).sample.numpy()
    found = run(build(graph, tensors, plain_spellings, tmp_path, "fp32", profile), inputs)["out_sample"]
    assert difference(found, wanted) < TOLERANCE
    # The reduction matters at all: the whole network is much further away.
    plain = build(replace(whole, name="whole"), tensors, plain_spellings, tmp_path)
    assert difference(run(plain, inputs)["out_sample"], wanted) > 10 * TOLERANCE
