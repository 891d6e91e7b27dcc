"""Padding, resizing, pooling and quantizing against their formulas in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb
from mil_cases import Cases, X, normal, np_type
from numpy.lib.stride_tricks import sliding_window_view

case = Cases()


# Where coremltools' documentation says that six pixels lie between two.
GRIDS = {
    "DEFAULT": [0, 1 / 3, 2 / 3, 1, 1, 1],
    "STRICT_ALIGN_CORNERS": [0, 0.2, 0.4, 0.6, 0.8, 1],
    "ALIGN_CORNERS": [0, 0.2, 0.4, 0.6, 0.8, 1],
    "OFFSET_CORNERS": [1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12],
    "UNALIGN_CORNERS": [0, 0, 1 / 3, 2 / 3, 1, 1],
}
for _mode, _numpy in (("constant", "constant"), ("reflect", "reflect"), ("replicate", "edge")):
    case(f"pad {_mode}", lambda x, m=_mode: mb.pad(x=x, pad=[1, 0, 2, 1], mode=m),
         lambda x, m=_numpy: np.pad(x, ((0, 0), (0, 0), (1, 0), (2, 1)), m), x=X)  # fmt: skip
case("upsample", lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
     lambda x: x.repeat(2, 2).repeat(3, 3), x=X)  # fmt: skip
case("resize", lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=7, target_size_width=3),
     lambda x: x[:, :, np.arange(7) * 4 // 7][..., np.arange(3) * 5 // 3], x=X)  # fmt: skip
for _mode in ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS"):
    case(f"resize_bilinear {_mode}", lambda x, m=_mode: mb.resize_bilinear(
             x=x, target_size_height=6, target_size_width=1, sampling_mode=m),
         lambda x, m=_mode: np.float64(GRIDS[m])[:, None] * (x[:, :1, 1:, :1] - x[:, :1, :1, :1])
         + x[:, :1, :1, :1], x=normal(1, 1, 2, 1))  # fmt: skip
case("upsample_bilinear", lambda x: mb.upsample_bilinear(x=x, scale_factor_height=3, scale_factor_width=1,
     align_corners=False),
     lambda x: np.float64(GRIDS["UNALIGN_CORNERS"])[:, None] * (x[:, :, 1:] - x[:, :, :1]) + x[:, :, :1],
     x=normal(1, 1, 2, 1))  # fmt: skip
case("resize nearest", lambda x: mb.resize(x=x, shape=[7, 3], resized_dims=np.uint32(2),
     interpolation_mode="NEAREST_NEIGHBOR"),
     lambda x: x[:, :, np.arange(7) * 4 // 7][..., np.arange(3) * 5 // 3], x=X)  # fmt: skip
case("resize linear", lambda x: mb.resize(x=x, shape=[6, 0], resized_dims=np.uint32(2),
     interpolation_mode="LINEAR", sampling_mode="UNALIGN_CORNERS"),
     lambda x: np.float64(GRIDS["UNALIGN_CORNERS"])[:, None] * (x[:, :, 1:] - x[:, :, :1]) + x[:, :, :1],
     x=normal(1, 1, 2, 4))  # fmt: skip
case("avg_pool", lambda x: mb.avg_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid"),
     lambda x: x[:, :, :4, :4].reshape(2, 3, 2, 2, 2, 2).mean((3, 5)), x=X)  # fmt: skip
case("avg_pool inside", lambda x: mb.avg_pool(x=x, kernel_sizes=[4, 5], strides=[4, 5], pad_type="custom",
     pad=[0, 4, 0, 0], exclude_padding_from_average=True),
     lambda x: np.concatenate([x.mean((2, 3), keepdims=True), 0 * x[:, :, :1, :1]], 2)[:, :, :1],
     x=normal(2, 3, 3, 5))  # fmt: skip
case("max_pool", lambda x: mb.max_pool(x=x, kernel_sizes=[3, 3], strides=[1, 1], pad_type="same"),
     lambda x: sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-9),
                                   (3, 3), (2, 3)).max((-1, -2)), x=X)  # fmt: skip
case("pixel_shuffle", lambda x: mb.pixel_shuffle(x=x, upscale_factor=2),
     lambda x: x.reshape(1, 3, 2, 2, 4, 5).transpose(0, 1, 4, 2, 5, 3).reshape(1, 3, 8, 10),
     x=normal(1, 12, 4, 5))  # fmt: skip
case("pixel_unshuffle", lambda x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
     lambda x: x.reshape(1, 3, 2, 2, 3, 2).transpose(0, 1, 3, 5, 2, 4).reshape(1, 12, 2, 3),
     x=normal(1, 3, 4, 6))  # fmt: skip
case("space_to_depth", lambda x: mb.space_to_depth(x=x, block_size=2),
     lambda x: x.reshape(1, 3, 2, 2, 3, 2).transpose(0, 3, 5, 1, 2, 4).reshape(1, 12, 2, 3),
     x=normal(1, 3, 4, 6))  # fmt: skip
case("depth_to_space", lambda x: mb.depth_to_space(x=mb.space_to_depth(x=x, block_size=2), block_size=2),
     lambda x: x, x=normal(1, 3, 4, 6))  # fmt: skip

SCALE = np.float32([0.05, 0.1, 0.02])
case("quantize and back", lambda x: mb.dequantize(
         input=mb.quantize(input=x, scale=SCALE.astype(np_type(x)), axis=1, output_dtype="int8"),
         scale=SCALE.astype(np_type(x)), axis=1),
     lambda x: np.clip(np.rint(x / SCALE.reshape(3, 1, 1)), -128, 127) * SCALE.reshape(3, 1, 1),
     x=np.float32(np.rint(normal(2, 3, 4, 5) * 40)) * SCALE.reshape(3, 1, 1))  # fmt: skip
case("quantize uint8", lambda x: mb.dequantize(
         input=mb.quantize(input=x, scale=np_type(x)(0.125), zero_point=np.uint8(7), output_dtype="uint8"),
         scale=np_type(x)(0.125), zero_point=np.uint8(7)),
     lambda x: (np.clip(np.rint(x * 8) + 7, 0, 255) - 7) / 8, x=normal(2, 30) * 20)  # fmt: skip


@pytest.mark.parametrize("name", case)
def test_formula(name: str, tmp_path: Path) -> None:
    case.check(name, tmp_path)
