"""Compressed programs: what is saved decodes to what was promised, and takes the bytes that the bits say."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgediff.errors import InputError, UnsupportedError
from edgediff.export.coreml.compress import compress, weights_of
from edgediff.export.coreml.compress_codes import bytes_of, coded, error_of
from edgediff.export.coreml.compress_sizes import sizes
from edgediff.export.coreml.schemes import BYTES, PALETTES, Scheme, scheme_of
from edgediff.export.emit.mil_form import MilForm, Target
from edgediff.export.emit.mil_model import coremltools, to_model
from edgediff.mil_blob import Blobs
from edgediff.mil_constants import decoded, is_compressed
from edgediff.mil_program import Blob, Constant
from edgediff.mil_spec import read_spec
from edgediff.mlpackage import open_package

pytest.importorskip("coremltools")
Array = NDArray[Any]

_RNG = np.random.default_rng(0)
KERNEL = (_RNG.standard_normal((48, 32, 3, 3)) * 0.05).astype(np.float32)
KERNEL[3] = 0  # a channel without a scale
POINTS = (_RNG.standard_t(3, (64, 48, 1, 1)) * 0.05).astype(np.float32)
FEW = (_RNG.standard_normal((4, 64, 3, 3)) * 0.05).astype(np.float32)
TABLE = _RNG.standard_normal((300, 32)).astype(np.float32)
WEIGHTS = {"kernel": KERNEL, "points": POINTS, "few": FEW}
GROUPED = {"granularity": "per-grouped-channel"}
ASKED: dict[str, tuple[str, Mapping[str, Any]]] = {
    **{f"palette-{bits}": (f"palette-{bits}", {}) for bits in (8, 6, 4, 2, 1)},
    "int8-weights": ("int8-weights", {}),
    "int8": ("int8", {}),
}
NEWER: dict[str, tuple[str, Mapping[str, Any]]] = {
    **ASKED,
    "palette-3": ("palette-3", {}),
    "palette-4, grouped": ("palette-4", GROUPED),
    "palette-2, grouped by 8": ("palette-2", {**GROUPED, "group_size": 8}),
    "int4-weights": ("int4-weights", {}),
    "int4-weights, blocks of 16": ("int4-weights", {"group_size": 16}),
}
CASES: list[tuple[Target, str]] = [
    *(("iOS17", name) for name in ASKED),  # type: ignore[list-item]
    *(("iOS18", name) for name in NEWER),  # type: ignore[list-item]
]


def scheme(name: str, target: Target) -> Scheme:
    kind, more = NEWER[name]
    return scheme_of(kind, target=target, **more)


def built(target: Target, dtype: Any = np.float16) -> Any:
    """A program of a table, three layers and a bias; the weights' names are those of ``WEIGHTS``."""
    ct = coremltools()
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    spec = [mb.TensorSpec((1,), dtype=types.int32)]

    @mb.program(input_specs=spec, opset_version=getattr(ct.target, target))
    def program(ids: Any) -> Any:
        table = mb.const(val=TABLE.astype(dtype), name="table")
        x = mb.reshape(x=mb.gather(x=table, indices=ids, axis=0), shape=(1, 32, 1, 1))
        for name, weight in WEIGHTS.items():
            held = mb.const(val=weight.astype(dtype), name=name)
            bias = mb.const(val=np.ones(len(weight), dtype), name=f"{name}_bias")
            x = mb.conv(x=x, weight=held, bias=bias, pad_type="same", name=f"{name}_conv")
        return mb.cast(x=x, dtype="fp32", name="out")

    return program


def saved(program: Any, target: Target, folder: Path) -> Path:
    path = folder / "x.mlpackage"
    to_model(program, MilForm(target=target)).save(str(path))
    return path


def stored(path: Path) -> dict[str, Array]:
    """Every constant of a package as our reader decodes it, by the name of its weight."""
    package = open_package(path)
    blobs = Blobs(package.weights)
    found = {}

    def value(constant: Constant) -> Any:
        held = constant.value
        return blobs.array(held, constant.type) if isinstance(held, Blob) else held

    for operation in read_spec(package.model).main.block.walk():
        name = operation.outputs[0].name.removesuffix("_palettized").removesuffix("_quantized")
        held = {key: value(constant) for key, constant in operation.constants()}
        if is_compressed(operation):
            found[name] = np.asarray(decoded(operation, held))
        elif operation.type == "const" and isinstance(held["val"], np.ndarray):
            found[name] = held["val"]
    return found


def compressed_types(path: Path) -> dict[str, str]:
    """The constexpr operation of every compressed weight."""
    operations = read_spec(open_package(path).model).main.block.walk()
    return {o.outputs[0].name.rpartition("_")[0]: o.type for o in operations if is_compressed(o)}


@pytest.mark.parametrize(("target", "name"), CASES)
def test_what_is_saved_is_what_was_promised(target: Target, name: str, tmp_path: Path) -> None:
    asked = scheme(name, target)
    path = saved(compress(built(target), asked, target=target), target, tmp_path)
    found = stored(path)
    for weight in ("kernel", "points", "few"):
        assert found[weight].dtype == np.float16
        assert np.array_equal(found[weight].astype(np.float32), coded(WEIGHTS[weight], asked)), weight
    assert set(compressed_types(path)) == set(WEIGHTS)
    assert np.array_equal(found["table"], TABLE.astype(np.float16))
    # The same by coremltools' own reading of its package.
    ct = coremltools()
    opened = ct.models.MLModel(str(path), skip_model_load=True)
    plain = ct.optimize.coreml.decompress_weights(opened)
    plain.save(str(tmp_path / "plain.mlpackage"))
    for weight, value in stored(tmp_path / "plain.mlpackage").items():
        known = weight.removesuffix("_decompressed").removesuffix("_palettized").removesuffix("_quantized")
        if known in WEIGHTS:
            assert np.array_equal(value, found[known]), weight


@pytest.mark.parametrize(("target", "name"), CASES)
def test_sizes_are_what_the_bits_say(target: Target, name: str, tmp_path: Path) -> None:
    asked = scheme(name, target)
    taken = sizes(saved(compress(built(target), asked, target=target), target, tmp_path))
    assert taken["table"] == TABLE.size * 2
    for weight in ("kernel", "points"):
        wanted = bytes_of(WEIGHTS[weight].shape, asked)
        count = WEIGHTS[weight].size
        # Zero points are stored on iOS 17 only, and tables of fewer than ten numbers lie in the program.
        assert wanted - len(WEIGHTS[weight]) - 8 <= taken[weight] <= wanted, weight
        assert count * asked.bits / 8 <= taken[weight] < count * 2


def test_a_small_error_costs_bits(tmp_path: Path) -> None:
    errors = [error_of(POINTS, PALETTES[bits]) for bits in (8, 6, 4, 3, 2, 1)]
    assert errors == sorted(errors)
    plain = np.sum((coded(POINTS, PALETTES[4]).astype(np.float64) - POINTS) ** 2)
    assert error_of(POINTS, PALETTES[4]) == pytest.approx(plain, rel=1e-5)
    grouped = scheme_of("palette-4", granularity="per-grouped-channel", target="iOS18")
    assert error_of(POINTS, grouped) < error_of(POINTS, PALETTES[4])
    # A matrix and its form as a kernel of one place are one weight.
    assert error_of(POINTS[:, :, 0, 0], grouped) == error_of(POINTS, grouped)


def test_every_layer_its_own(tmp_path: Path) -> None:
    plan = {"kernel": PALETTES[2], "points": BYTES, "table": PALETTES[6], "elsewhere": PALETTES[8]}
    path = saved(compress(built("iOS17"), plan, target="iOS17"), "iOS17", tmp_path)
    found = stored(path)
    assert compressed_types(path) == {
        "kernel": "constexpr_lut_to_dense",
        "points": "constexpr_affine_dequantize",
        "table": "constexpr_lut_to_dense",
    }
    assert np.array_equal(found["kernel"].astype(np.float32), coded(KERNEL, PALETTES[2]))
    assert np.array_equal(found["points"].astype(np.float32), coded(POINTS, BYTES))
    assert np.array_equal(found["table"].astype(np.float32), coded(TABLE, PALETTES[6]))
    assert np.array_equal(found["few"], FEW.astype(np.float16))


def test_what_is_kept_and_what_is_small_stays(tmp_path: Path) -> None:
    assert set(weights_of(built("iOS17"))) == set(WEIGHTS)
    assert set(weights_of(built("iOS17"), threshold=POINTS.size)) == {"kernel"}
    program = compress(built("iOS17"), PALETTES[4], target="iOS17", keep={"kernel"}, threshold=FEW.size)
    assert set(compressed_types(saved(program, "iOS17", tmp_path))) == {"points"}


def test_float32_programs_keep_float32_tables(tmp_path: Path) -> None:
    program = compress(built("iOS17", np.float32), PALETTES[6], target="iOS17")
    found = stored(saved(program, "iOS17", tmp_path))
    assert found["kernel"].dtype == np.float32
    assert np.array_equal(found["kernel"], coded(KERNEL, PALETTES[6], np.float32))


@pytest.mark.parametrize("name", ["palette-4", "int8-weights"])
def test_two_runs_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    files = []
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        program = compress(built("iOS17"), scheme(name, "iOS17"), target="iOS17")
        package = open_package(saved(program, "iOS17", tmp_path / run))
        assert package.weights is not None
        files.append(package.weights.read_bytes())
    assert files[0] == files[1]


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    program = built("iOS17")
    capfd.readouterr()
    lines: list[str] = []
    compress(program, PALETTES[4], target="iOS17", report=lines.append)
    assert capfd.readouterr() == ("", "")
    assert lines == ["storing 3 weights as palette-4"]


def test_searches_have_to_be_done_before() -> None:
    with pytest.raises(InputError, match="mixed"):
        compress(built("iOS17"), scheme_of("mixed"), target="iOS17")
    with pytest.raises(InputError, match="mixed"):
        coded(KERNEL, scheme_of("mixed"))


def test_a_program_that_cannot_hold_the_scheme_is_refused_whole() -> None:
    program = built("iOS17")
    with pytest.raises(UnsupportedError, match="iOS 18"):
        compress(program, {"kernel": PALETTES[4], "points": PALETTES[3]}, target="iOS17")
    assert set(weights_of(program)) == set(WEIGHTS)


def test_pytorch_is_not_needed(tmp_path: Path) -> None:
    code = """
        import sys

        class Wall:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("torch", "sklearn", "diffusers", "transformers"):
                    raise ImportError(name)

        sys.meta_path.insert(0, Wall())
        from edgediff.export.emit.mil_model import coremltools

        coremltools()  # before pytest imports it with all that it has to say
        from test_export_coreml_compress import PALETTES, built, compress, saved
        from pathlib import Path

        saved(compress(built("iOS17"), PALETTES[6], target="iOS17"), "iOS17", Path(sys.argv[1]))
        assert "torch" not in sys.modules
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert set(compressed_types(tmp_path / "x.mlpackage")) == set(WEIGHTS)
