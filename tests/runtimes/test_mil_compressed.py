"""Packages that coremltools compressed: the same results as from those that it decompressed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb
from mil_helpers import ct, quiet, ran, write

RNG = np.random.default_rng(1)
W3, W1, WL, TABLE = (
    RNG.standard_normal(shape).astype(np.float16)
    for shape in ((32, 64, 3, 3), (64, 8, 1, 1), (64, 96), (50, 96))
)
INPUTS = {"x": ((1, 8, 6, 5), "float32"), "y": ((1, 7, 96), "float32"), "ids": ((1, 7), "int32")}
FEEDS = {
    "x": RNG.standard_normal((1, 8, 6, 5)).astype(np.float32),
    "y": RNG.standard_normal((1, 7, 96)).astype(np.float32),
    "ids": np.int32([[3, 1, 4, 1, 5, 9, 49]]),
}


def build(x: Any, y: Any, ids: Any) -> Any:
    """Convolutions, a linear layer and an embedding."""
    image = mb.conv(x=mb.cast(x=x, dtype="fp16"), weight=W1)
    image = mb.conv(x=mb.relu(x=image), weight=W3, pad_type="same")
    tokens = mb.add(x=mb.cast(x=y, dtype="fp16"), y=mb.gather(x=TABLE, indices=ids, axis=0))
    tokens = mb.linear(x=tokens, weight=WL)
    return (
        mb.cast(x=image, dtype="fp32", name="image"),
        mb.cast(x=tokens, dtype="fp32", name="tokens"),
    )


def palettes(bits: int, **how: Any) -> Callable[[Any], Any]:
    config = ct.optimize.coreml.OpPalettizerConfig(nbits=bits, mode="uniform", weight_threshold=64, **how)
    return lambda model: ct.optimize.coreml.palettize_weights(
        model, ct.optimize.coreml.OptimizationConfig(global_config=config)
    )


def linear(**how: Any) -> Callable[[Any], Any]:
    config = ct.optimize.coreml.OpLinearQuantizerConfig(weight_threshold=64, **how)
    return lambda model: ct.optimize.coreml.linear_quantize_weights(
        model, ct.optimize.coreml.OptimizationConfig(global_config=config)
    )


def pruned(**how: Any) -> Callable[[Any], Any]:
    config = ct.optimize.coreml.OpMagnitudePrunerConfig(weight_threshold=64, **how)
    return lambda model: ct.optimize.coreml.prune_weights(
        model, ct.optimize.coreml.OptimizationConfig(global_config=config)
    )


SCHEMES: dict[str, tuple[str, Callable[[], Callable[[Any], Any]]]] = {
    **{f"palette of {bits}": ("iOS17", lambda bits=bits: palettes(bits)) for bits in (1, 2, 4, 6, 8)},  # type: ignore[misc]
    **{f"palette of {bits}, iOS18": ("iOS18", lambda bits=bits: palettes(bits)) for bits in (1, 3, 6)},  # type: ignore[misc]
    "grouped palettes": (
        "iOS18",
        lambda: palettes(4, granularity="per_grouped_channel", group_size=8),
    ),
    "scaled palettes": (
        "iOS18",
        lambda: palettes(4, granularity="per_grouped_channel", group_size=8, enable_per_channel_scale=True),
    ),
    "int8": ("iOS17", lambda: linear(mode="linear_symmetric")),
    "uint8 with zero points": ("iOS17", lambda: linear(mode="linear", dtype="uint8")),
    "int8, iOS18": ("iOS18", lambda: linear(mode="linear_symmetric")),
    "int4 in blocks": (
        "iOS18",
        lambda: linear(mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=8),
    ),
    "uint4 with offsets": ("iOS18", lambda: linear(mode="linear", dtype="uint4")),
    "sparse": ("iOS17", lambda: pruned(target_sparsity=0.6)),
    "sparse, iOS18": ("iOS18", lambda: pruned(target_sparsity=0.6)),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_the_same_as_decompressed(name: str, tmp_path: Path) -> None:
    target, scheme = SCHEMES[name]
    plain = write(tmp_path / "plain.mlpackage", build, INPUTS, target)
    with quiet():
        model = ct.models.MLModel(str(plain), skip_model_load=True)
        small = scheme()(model)
        small.save(str(tmp_path / "small.mlpackage"))
        ct.optimize.coreml.decompress_weights(small).save(str(tmp_path / "large.mlpackage"))
    kinds = {op.op_type for op in small._mil_program.functions["main"].operations}
    assert any(kind.startswith("constexpr_") for kind in kinds)
    found, due = ran(tmp_path / "small.mlpackage", FEEDS), ran(tmp_path / "large.mlpackage", FEEDS)
    before = ran(plain, FEEDS)
    for key, value in due.items():
        np.testing.assert_array_equal(found[key], value)
        assert np.abs(found[key] - before[key]).max() > 0  # the weights that were compressed are used


def test_nothing_held_changes_nothing(tmp_path: Path) -> None:
    from mil_helpers import load

    path = write(tmp_path / "plain.mlpackage", build, INPUTS)
    held, read = load(path)(FEEDS), load(path, options={"held": 0})(FEEDS)
    for key, value in held.items():
        np.testing.assert_array_equal(value, read[key])
