"""Operations that move numbers against their formulas in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb
from mil_cases import Cases, X, normal, np_type

case = Cases()


case("reshape", lambda x: mb.reshape(x=x, shape=[2, -1, 5]), lambda x: x.reshape(2, 12, 5), x=X)
case("reshape 0", lambda x: mb.reshape(x=x, shape=[0, -1]), lambda x: x.reshape(4, 30), x=X)
case("reshape by shape", lambda x, y: mb.reshape(x=x, shape=mb.shape(x=y)), lambda x, y: x.reshape(y.shape),
     x=X, y=normal(4, 30))  # fmt: skip
case("reshape_like", lambda x, y: mb.reshape_like(x=x, ref_tensors=(x, y), begins=(0, 1), ends=(2, 0),
     end_masks=(False, True)), lambda x, y: x.reshape(2, 3, 20), x=X, y=normal(7, 20))  # fmt: skip
case("flatten2d", lambda x: mb.flatten2d(x=x, axis=2), lambda x: x.reshape(6, 20), x=X)
case("transpose", lambda x: mb.transpose(x=x, perm=[0, -1, 1, 2]), lambda x: x.transpose(0, 3, 1, 2), x=X)
case("expand_dims", lambda x: mb.expand_dims(x=x, axes=[0, -1]), lambda x: x[None, ..., None], x=normal(2, 3))
case("squeeze", lambda x: mb.squeeze(x=x, axes=[1]), lambda x: x[:, 0], x=normal(2, 1, 1, 3))
case("squeeze all", lambda x: mb.squeeze(x=x), np.squeeze, x=normal(2, 1, 1, 3))
case("concat", lambda x, y: mb.concat(values=(x, y), axis=-2), lambda x, y: np.concatenate([x, y], -2),
     x=X, y=normal(2, 3, 1, 5))  # fmt: skip
case("concat interleaved", lambda x, y: mb.concat(values=(x, y), axis=1, interleave=True),
     lambda x, y: np.stack([x, y], 2).reshape(2, 6, 4, 5), x=X, y=normal(2, 3, 4, 5))  # fmt: skip
case(
    "stack",
    lambda x, y: mb.stack(values=(x, y), axis=1),
    lambda x, y: np.stack([x, y], 1),
    x=X,
    y=normal(2, 3, 4, 5),
)
case("split", lambda x: mb.split(x=x, num_splits=2, axis=2)[1], lambda x: x[:, :, 2:], x=X)
case("split uneven", lambda x: mb.split(x=x, split_sizes=[1, 3, 1], axis=-1)[1], lambda x: x[..., 1:4], x=X)
case("slice", lambda x: mb.slice_by_index(x=x, begin=[0, 1, -3, 4], end=[1, 3, -1, 0], stride=[1, 1, 1, -2],
     begin_mask=[True, False, False, False], end_mask=[True, False, False, True],
     squeeze_mask=[False, False, False, False]), lambda x: x[:, 1:3, -3:-1, 4::-2], x=X)  # fmt: skip
case("slice squeezed", lambda x: mb.slice_by_index(x=x, begin=[0, -1, 0, 0], end=[0, 0, 2, 0],
     end_mask=[True, False, False, True], squeeze_mask=[False, True, False, False]),
     lambda x: x[:, -1, :2], x=X)  # fmt: skip
case("slice_by_size", lambda x: mb.slice_by_size(x=x, begin=[0, 1, 0, 2], size=[2, -1, 1, 2]),
     lambda x: x[:, 1:, :1, 2:4], x=X)  # fmt: skip
case("slice_update iOS18", lambda x, y: mb.slice_update(x=x, update=y, begin=[0, 1, 0, 0], end=[2, 2, 4, 5]),
     lambda x, y: np.concatenate([x[:, :1], y, x[:, 2:]], 1), x=X, y=normal(2, 1, 4, 5))  # fmt: skip
case("tile", lambda x: mb.tile(x=x, reps=[1, 2, 1, 3]), lambda x: np.tile(x, (1, 2, 1, 3)), x=X)
case("reverse", lambda x: mb.reverse(x=x, axes=[1, 3]), lambda x: x[:, ::-1, :, ::-1], x=X)
case("fill", lambda x: mb.add(x=x, y=mb.fill(shape=[4, 5], value=np_type(x)(2.5))), lambda x: x + 2.5, x=X)
case(
    "fill_like",
    lambda x: mb.add(x=x, y=mb.fill_like(ref_tensor=x, value=np_type(x)(2.5))),
    lambda x: x + 2.5,
    x=X,
)
case("band_part", lambda x: mb.band_part(x=x, lower=1, upper=0), lambda x: np.tril(x) - np.tril(x, -2), x=X)
case("cumsum", lambda x: mb.cumsum(x=x, axis=2), lambda x: x.cumsum(2), x=X)
case("cumsum back", lambda x: mb.cumsum(x=x, axis=2, reverse=True, exclusive=True),
     lambda x: np.flip(np.flip(x, 2).cumsum(2), 2) - x, x=X)  # fmt: skip
case("range_1d", lambda x: mb.add(x=x, y=mb.range_1d(
         start=np_type(x)(1), end=np_type(x)(3.4), step=np_type(x)(0.5))),
     lambda x: x + np.arange(1, 3.4, 0.5), x=X)  # fmt: skip
IDS = np.int32([[2, 0, 1], [1, 1, 0]])
case("gather", lambda x, i: mb.gather(x=x, indices=i, axis=1), lambda x, i: x[:, i], x=X, i=IDS)
case("gather in batches", lambda x, i: mb.gather(x=x, indices=i, axis=1, batch_dims=1),
     lambda x, i: np.stack([x[0, i[0]], x[1, i[1]]]), x=X, i=IDS)  # fmt: skip
case("gather_along_axis", lambda x, i: mb.gather_along_axis(x=x, indices=i, axis=1),
     lambda x, i: np.take_along_axis(x, i, 1), x=normal(2, 3), i=IDS)  # fmt: skip
case("gather_nd", lambda x, i: mb.gather_nd(x=x, indices=i), lambda x, i: x[i[:, 0], i[:, 1]], x=X,
     i=np.int32([[0, 2], [1, 0], [1, 1]]))  # fmt: skip
case("gather_nd in batches", lambda x, i: mb.gather_nd(x=x, indices=i, batch_dims=1),
     lambda x, i: np.stack([x[0, i[0, 0], i[0, 1]], x[1, i[1, 0], i[1, 1]]]), x=X,
     i=np.int32([[2, 3], [1, 0]]))  # fmt: skip
case("one_hot", lambda i: mb.one_hot(indices=i, one_hot_vector_size=3, axis=1, on_value=2.0, off_value=0.5),
     lambda i: np.moveaxis(np.where(i[..., None] == np.arange(3), 2.0, 0.5), -1, 1), i=IDS)  # fmt: skip
case("argsort", lambda x: mb.argsort(x=x, axis=1, ascending=True), lambda x: np.argsort(x, 1), x=X)
case("whole numbers", lambda i: mb.floor_div(x=mb.mul(x=i, y=np.int32(-7)), y=np.int32(3)),
     lambda i: i * -7 // 3, i=IDS)  # fmt: skip
case("cast", lambda x: mb.cast(x=mb.mul(x=x, y=np_type(x)(3)), dtype="int32"), lambda x: np.trunc(x * 3), x=X)
case(
    "cast bool",
    lambda x: mb.cast(x=mb.cast(x=mb.relu(x=x), dtype="bool"), dtype="fp32"),
    lambda x: x > 0,
    x=X,
)


@pytest.mark.parametrize("name", case)
def test_formula(name: str, tmp_path: Path) -> None:
    case.check(name, tmp_path)
