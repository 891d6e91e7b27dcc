"""Products, convolutions and attention against their formulas in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb
from mil_cases import Cases, X, normal, np_type, softmax
from numpy.lib.stride_tricks import sliding_window_view

case = Cases()


for _tx in (False, True):
    for _ty in (False, True):
        case(f"matmul {_tx} {_ty}",
             lambda x, y, a=_tx, b=_ty: mb.matmul(x=x, y=y, transpose_x=a, transpose_y=b),
             lambda x, y, a=_tx, b=_ty: (x.swapaxes(-1, -2) if a else x) @ (y.swapaxes(-1, -2) if b else y),
             x=normal(*((2, 5, 4) if _tx else (2, 4, 5))),
             y=normal(*((3, 1, 6, 5) if _ty else (3, 1, 5, 6))))  # fmt: skip
W, WB = normal(6, 5), normal(6)
case("linear", lambda x: mb.linear(x=x, weight=W.astype(np_type(x)), bias=WB.astype(np_type(x))),
     lambda x: x @ W.T.astype(float) + WB, x=X)  # fmt: skip
for _equation, _a, _b in (
    ("bkhc,bchq->bkhq", (2, 5, 1, 8), (2, 8, 1, 6)),
    ("bchk,bkhq->bchq", (2, 8, 1, 5), (2, 5, 1, 6)),
    ("nchw,nwhu->nchu", (2, 3, 4, 5), (2, 5, 4, 6)),
):
    case(f"einsum {_equation}", lambda x, y, e=_equation: mb.einsum(values=(x, y), equation=e),
         lambda x, y, e=_equation: np.einsum(e, x, y), x=normal(*_a), y=normal(*_b))  # fmt: skip


def _convolved(
    x: Any, w: Any, strides: Any = (1, 1), pads: Any = (0, 0, 0, 0), dilations: Any = (1, 1), groups: int = 1
) -> Any:
    """The definition: a sum over the window at each pixel."""
    x = np.pad(x, ((0, 0), (0, 0), pads[:2], pads[2:]))
    span = [(size - 1) * gap + 1 for size, gap in zip(w.shape[2:], dilations, strict=True)]
    seen = sliding_window_view(x, span, (2, 3))[:, :, :: strides[0], :: strides[1]]
    seen = seen[..., :: dilations[0], :: dilations[1]]
    parts = zip(np.split(seen, groups, 1), np.split(w, groups), strict=True)
    return np.concatenate([np.einsum("bihwyx,oiyx->bohw", x, w, optimize=True) for x, w in parts], 1)


def convolution(
    name: str, x: Any, w: Any, bias: Any = None, how: Any = None, pads: Any = (0, 0, 0, 0), **given: Any
) -> None:
    def build(x: Any) -> Any:
        more = {} if bias is None else {"bias": bias.astype(np_type(x))}
        return mb.conv(x=x, weight=w.astype(np_type(x)), **more, **(how or {}), **given)

    def truth(x: Any) -> Any:
        wide = w.astype(np.float64)
        found = _convolved(x, wide, pads=pads, **given)
        return found if bias is None else found + bias[:, None, None]

    case(f"conv {name}", build, truth, x=x)


IMAGE = normal(2, 4, 9, 11)
convolution(
    "3x3", IMAGE, normal(6, 4, 3, 3), normal(6), {"pad_type": "custom", "pad": [1, 1, 1, 1]}, (1, 1, 1, 1)
)
convolution("valid", IMAGE, normal(6, 4, 3, 2))
convolution("1x1", IMAGE, normal(6, 4, 1, 1), normal(6))
convolution("stride 1x1", IMAGE, normal(6, 4, 1, 1), strides=[2, 3])
convolution(
    "uneven",
    IMAGE,
    normal(6, 4, 3, 3),
    None,
    {"pad_type": "custom", "pad": [0, 1, 2, 0]},
    (0, 1, 2, 0),
    strides=[2, 2],
)
convolution("same", IMAGE, normal(6, 4, 3, 4), None, {"pad_type": "same"}, (1, 1, 1, 2), strides=[2, 1])
convolution(
    "same_lower", IMAGE, normal(6, 4, 3, 4), None, {"pad_type": "same_lower"}, (1, 1, 2, 1), strides=[2, 1]
)
convolution("dilated", IMAGE, normal(6, 4, 3, 3), dilations=[2, 3])
convolution("groups", IMAGE, normal(6, 2, 3, 3), normal(6), groups=2)
convolution("each channel", IMAGE, normal(4, 1, 3, 3), None, {"pad_type": "same"}, (1, 1, 1, 1), groups=4)
convolution(
    "few outputs",
    normal(2, 16, 9, 7),
    normal(2, 16, 3, 3),
    normal(2),
    {"pad_type": "same"},
    (1, 1, 1, 1),
    dilations=[1, 1],
)
convolution(
    "in blocks", normal(1, 64, 90, 50), normal(32, 64, 3, 3), None, {"pad_type": "same"}, (1, 1, 1, 1)
)
convolution("tokens", normal(2, 8, 1, 30), normal(12, 8, 1, 1), normal(12))


def _attended(q: Any, k: Any, v: Any, mask: Any = 0.0) -> Any:
    return softmax(q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5 + mask, -1) @ v


Q, K, VALUES = normal(2, 3, 7, 8), normal(2, 3, 5, 8), normal(2, 3, 5, 6)
case("scaled_dot_product_attention iOS18",
     lambda q, k, v: mb.scaled_dot_product_attention(query=q, key=k, value=v), 
     _attended, q=Q, k=K, v=VALUES)  # fmt: skip
case("scaled_dot_product_attention masked iOS18",
     lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
     _attended, q=Q, k=K, v=VALUES, m=normal(2, 1, 7, 5))  # fmt: skip


@pytest.mark.parametrize("name", case)
def test_formula(name: str, tmp_path: Path) -> None:
    case.check(name, tmp_path)
