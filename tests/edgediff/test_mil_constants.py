"""Compressed weights, decoded here, against coremltools' own decompression of the same packages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff.errors import BundleError
from edgediff.mil_blob import Blobs
from edgediff.mil_constants import decoded, is_compressed
from edgediff.mil_program import Constant, Named, Operation, TypeOf
from edgediff.mil_spec import read_spec
from edgediff.mlpackage import open_package

logging.getLogger("coremltools").setLevel(logging.ERROR)
ct = pytest.importorskip("coremltools")

import coremltools.optimize.coreml as cto  # noqa: E402
from coremltools.converters.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
SMALL = {"weight_threshold": 10}


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Any:
    import tqdm

    made = tqdm.std.tqdm.__init__
    patch = pytest.MonkeyPatch()
    patch.setattr(
        tqdm.std.tqdm,
        "__init__",
        lambda self, *given, **options: made(self, *given, **{**options, "disable": True}),
    )
    yield
    patch.undo()


def network(target: str) -> Any:
    """Two convolutions, whose weights have rows, columns and blocks of different sizes."""
    random = np.random.default_rng(0)
    first = random.standard_normal((16, 12, 3, 3)).astype(np.float16)
    second = random.standard_normal((32, 16, 1, 1)).astype(np.float16)
    opset = getattr(ct.target, target)

    @mb.program(input_specs=[mb.TensorSpec((1, 12, 8, 8), dtype=types.fp32)], opset_version=opset)
    def program(x: Any) -> Any:
        half = mb.cast(x=x, dtype="fp16")
        half = mb.conv(x=half, weight=first, pad_type="same", name="first")
        half = mb.conv(x=half, weight=second, pad_type="valid", name="second")
        return mb.cast(x=half, dtype="fp32", name="y")

    return ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=opset, skip_model_load=True,
        compute_precision=ct.precision.FLOAT32,
    )  # fmt: skip


def palette(target: str, *, mode: str = "uniform", **options: Any) -> Any:
    config = cto.OpPalettizerConfig(mode=mode, **SMALL, **options)
    return cto.palettize_weights(network(target), cto.OptimizationConfig(config))


def linear(target: str, model: Any = None, joint: bool = False, **options: Any) -> Any:
    config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(**SMALL, **options))
    return cto.linear_quantize_weights(model or network(target), config, joint_compression=joint)


def pruned(target: str) -> Any:
    config = cto.OpMagnitudePrunerConfig(target_sparsity=0.6, **SMALL)
    return cto.prune_weights(network(target), cto.OptimizationConfig(config))


def pruned_palette() -> Any:
    config = cto.OptimizationConfig(cto.OpPalettizerConfig(mode="uniform", nbits=4, **SMALL))
    return cto.palettize_weights(pruned("iOS18"), config, joint_compression=True)


GROUPED: dict[str, Any] = {"granularity": "per_grouped_channel", "group_size": 4}
BLOCKS: dict[str, Any] = {"granularity": "per_block"}
FORMS: dict[str, tuple[Callable[[], Any], set[str]]] = {
    **{
        f"palette-{bits}, {target}": (
            lambda bits=bits, target=target: palette(target, nbits=bits),
            {"constexpr_lut_to_dense"},
        )
        for target, all_bits in (("iOS16", (1, 2, 4, 6, 8)), ("iOS17", (6,)), ("iOS18", (1, 2, 3, 4, 6, 8)))
        for bits in all_bits
    },
    **{
        f"palette-{bits}, grouped": (
            lambda bits=bits: palette("iOS18", nbits=bits, **GROUPED),
            {"constexpr_lut_to_dense"},
        )
        for bits in (2, 3, 4)
    },
    "palette-4, grouped by columns": (
        lambda: palette("iOS18", nbits=4, channel_axis=1, **GROUPED),
        {"constexpr_lut_to_dense"},
    ),
    "palette-4, scaled": (
        lambda: palette("iOS18", nbits=4, enable_per_channel_scale=True),
        {"constexpr_lut_to_dense", "constexpr_blockwise_shift_scale"},
    ),
    "palette-3 of vectors": (
        lambda: palette("iOS18", mode="kmeans", nbits=3, cluster_dim=4),
        {"constexpr_lut_to_dense"},
    ),
    "palette-4 of int8": (
        lambda: linear("iOS18", palette("iOS18", nbits=4), joint=True, granularity="per_tensor"),
        {"constexpr_lut_to_dense", "constexpr_blockwise_shift_scale"},
    ),
    "int8, iOS16": (lambda: linear("iOS16"), {"constexpr_affine_dequantize"}),
    "int8 with offsets, iOS17": (lambda: linear("iOS17", mode="linear"), {"constexpr_affine_dequantize"}),
    "uint8 with offsets, iOS17": (
        lambda: linear("iOS17", mode="linear", dtype="uint8"),
        {"constexpr_affine_dequantize"},
    ),
    "int8 per tensor, iOS17": (
        lambda: linear("iOS17", granularity="per_tensor"),
        {"constexpr_affine_dequantize"},
    ),
    "int8, iOS18": (lambda: linear("iOS18"), {"constexpr_blockwise_shift_scale"}),
    "uint8 with offsets, iOS18": (
        lambda: linear("iOS18", mode="linear", dtype="uint8"),
        {"constexpr_blockwise_shift_scale"},
    ),
    "int4 per channel": (lambda: linear("iOS18", dtype="int4"), {"constexpr_blockwise_shift_scale"}),
    "int4 per block": (
        lambda: linear("iOS18", dtype="int4", block_size=4, **BLOCKS),
        {"constexpr_blockwise_shift_scale"},
    ),
    "uint4 per block with offsets": (
        lambda: linear("iOS18", mode="linear", dtype="uint4", block_size=2, **BLOCKS),
        {"constexpr_blockwise_shift_scale"},
    ),
    "pruned, iOS17": (lambda: pruned("iOS17"), {"constexpr_sparse_to_dense"}),
    "pruned, iOS18": (lambda: pruned("iOS18"), {"constexpr_sparse_to_dense"}),
    "pruned palette": (pruned_palette, {"constexpr_lut_to_sparse", "constexpr_sparse_to_dense"}),
    "pruned int8": (
        lambda: linear("iOS18", pruned("iOS18"), joint=True),
        {"constexpr_sparse_blockwise_shift_scale", "constexpr_sparse_to_dense"},
    ),
}


def weights(model: Any, path: Path) -> tuple[dict[str, Any], set[str]]:
    """The weights of the convolutions of a saved model, as they come out here, and what made them."""
    model.save(str(path))
    package = open_package(path)
    found, kinds, known = {}, set(), {}
    with Blobs(package.weights) as blobs:
        for operation in read_spec(package.model).main.block.walk():
            given = {
                name: blobs.value(argument) if isinstance(argument, Constant) else known.get(argument)
                for name, argument in [
                    *operation.attributes.items(),
                    *((name, many[0]) for name, many in operation.inputs.items()),
                ]
            }
            outputs = [output.name for output in operation.outputs]
            if operation.type == "const":
                known[outputs[0]] = given["val"]
            elif is_compressed(operation):
                made = decoded(operation, given)
                known.update(zip(outputs, made if isinstance(made, tuple) else (made,), strict=True))
                kinds.add(operation.type)
            elif operation.type == "conv":
                found[outputs[0]] = given["weight"]
    return found, kinds


@pytest.mark.parametrize("form", FORMS)
def test_as_coremltools_decompresses(form: str, tmp_path: Path) -> None:
    make, kinds = FORMS[form]
    model = make()
    found, used = weights(model, tmp_path / "a.mlpackage")
    plain, none = weights(cto.decompress_weights(model), tmp_path / "b.mlpackage")
    assert used == kinds and not none
    assert found.keys() == plain.keys() == {"first", "second"}
    for name in found:
        assert found[name].dtype == plain[name].dtype == np.float16
        np.testing.assert_array_equal(found[name], plain[name])


def operation(kind: str, *shape: int, dtype: str = "float32") -> Operation:
    return Operation(kind, {}, (Named("w", TypeOf(dtype, shape)),))


def test_cast() -> None:
    half = np.arange(3, dtype=np.float16)
    found = decoded(operation("constexpr_cast", 3), {"source_val": half, "output_dtype": "fp32"})
    assert isinstance(found, np.ndarray) and found.dtype == np.float32
    np.testing.assert_array_equal(found, half)


TABLE = np.arange(4, dtype=np.float16)
PACKED = {"lut": TABLE, "indices": np.zeros(1, np.uint8), "shape": np.array([4], np.uint32)}
FOUR = {"lut": TABLE.reshape(1, 4, 1), "indices": np.zeros(4, np.uint8)}
BLOCK = {"data": np.zeros((4, 6), np.int8), "scale": np.ones((2, 3), np.float16)}
SPARSE = {"mask": np.array([1, 0, 1, 0], np.uint8), "nonzero_data": np.ones(2, np.float16)}
AFFINE = {"quantized_data": np.zeros((2, 3), np.int8), "scale": np.ones(3, np.float16), "axis": np.int32(1)}
DAMAGE: dict[str, tuple[str, tuple[int, ...], dict[str, Any], str]] = {
    "unknown": ("constexpr_magic", (1,), {}, "does not read"),
    "no table": ("constexpr_lut_to_dense", (4,), {**PACKED, "lut": None}, "damaged"),
    "table of three": ("constexpr_lut_to_dense", (4,), {**PACKED, "lut": TABLE[:3]}, "no whole bits"),
    "too few bytes": ("constexpr_lut_to_dense", (8,), {**PACKED, "shape": np.array([8])}, "do not hold"),
    "other shape": ("constexpr_lut_to_dense", (2, 2), PACKED, "comes out"),
    "too large": ("constexpr_lut_to_dense", (1 << 20, 1 << 20), PACKED, "too large"),
    "beyond the table": (
        "constexpr_lut_to_dense", (4,), {**FOUR, "indices": np.full(4, 9, np.uint8)}, "beyond the 4"),
    "vectors without axis": (
        "constexpr_lut_to_dense", (4,), {**FOUR, "lut": TABLE.reshape(1, 2, 2)}, "no axis"),
    "table of too few axes": ("constexpr_lut_to_dense", (4,), {**FOUR, "lut": TABLE}, "axes for indices"),
    "blocks that do not divide": (
        "constexpr_blockwise_shift_scale", (4, 6), {**BLOCK, "scale": np.ones((3, 3), np.float16)},
        "no multiple"),
    "scale of integers": (
        "constexpr_blockwise_shift_scale", (4, 6), {**BLOCK, "scale": np.ones((2, 3), np.int8)}, "no float"),
    "no scale": ("constexpr_blockwise_shift_scale", (4, 6), {"data": BLOCK["data"]}, "lacks the input"),
    "mask of another size": (
        "constexpr_sparse_to_dense", (4,), {**SPARSE, "nonzero_data": np.ones(3, np.float16)},
        "does not fit"),
    "mask of too few bytes": (
        "constexpr_sparse_to_dense", (80,), {**SPARSE, "shape": np.array([80])}, "does not hold"),
    "scales of another axis": (
        "constexpr_affine_dequantize", (2, 3), {**AFFINE, "axis": np.int32(0)}, "do not fit 2"),
    "no such axis": ("constexpr_affine_dequantize", (2, 3), {**AFFINE, "axis": np.int32(2)}, "no axis 2"),
    "cast to an integer": (
        "constexpr_cast", (1,), {"source_val": np.ones(1), "output_dtype": "int8"}, "no float"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights_are_refused(damage: str) -> None:
    kind, shape, given, says = DAMAGE[damage]
    with pytest.raises(BundleError, match=says):
        decoded(operation(kind, *shape, dtype="float16"), given)
