"""What `edgediff show` says of a Core ML package, alone and in a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from edgediff import cli
from edgediff.cli import show_package
from edgediff.mil_program import Blob as At
from edgediff.mil_program import Block, Constant, Function, Named, Operation, TypeOf
from edgediff.mil_summary import Stored, summary
from tests.edgediff import coreml_bundle
from tests.edgediff import mil_bytes as mil


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setattr("warnings.showwarning", None)  # the command sets its own; put the old one back

    def call(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return call


def test_a_package_alone(run: Run, tmp_path: Path) -> None:
    path = mil.write(tmp_path)
    code, text, _ = run("show", path)
    assert code == 0
    assert "<- x: float32 [1, 4]" in text and "-> y: float32 [1, 4]" in text
    assert "operations 2 mul" in text and "computes   2 float32" in text
    assert "weights    float32: 1 arrays of 4 numbers" in text
    assert "may leave the Neural Engine: 2 mul: computes in float32" in text and "https://" in text
    code, text, _ = run("show", path, "--json")
    facts = json.loads(text)
    assert code == 0 and facts["operations"] == {"mul": 2} and facts["weight_bytes"] == len(mil.BLOB)
    assert facts["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 4]}]
    assert facts["neural_engine"][0]["operation"] == "mul"
    assert facts["neural_engine"][0]["source"]["url"].startswith("https://")


def test_what_is_wrong_is_one_line(run: Run, tmp_path: Path) -> None:
    path = mil.write(tmp_path, weights=mil.BLOB[:-1])
    code, _, text = run("show", path)
    assert code == 3 and "beyond the file" in text and text.count("\n") == 1
    compiled = tmp_path / "a.mlmodelc"
    compiled.mkdir()
    code, _, text = run("show", compiled)
    assert code == 5 and "compiled model" in text
    code, _, text = run("show", path, "--table")
    assert code == 2 and "no sampler" in text


def test_in_a_bundle(run: Run, tmp_path: Path) -> None:
    folder = coreml_bundle.write(tmp_path / "bundle")
    unet = folder / "coreml" / "Unet.mlpackage"
    shutil.rmtree(unet)
    mil.write(tmp_path).rename(unet)
    code, text, _ = run("show", folder)
    assert code == 0
    assert "      coreml/Unet.mlpackage\n        program    CoreML7 (format 8), 2 operations" in text
    assert "      coreml/VAEDecoder.mlpackage\n        not read: " in text
    code, text, _ = run("show", folder, "--json")
    graphs = json.loads(text)["graphs"]
    assert graphs["denoiser"][0]["packages"][0]["operations"] == {"mul": 2}
    assert "no JSON" in graphs["decoder"][0]["packages"][0]["error"]


def test_metadata_cannot_drive_the_terminal(run: Run, tmp_path: Path) -> None:
    description = mil.part(1, mil.feature("x")) + mil.part(10, mil.feature("y"))
    described = description + mil.part(100, mil.entry(100, "note", b"\x1b[2J" + b"<html>" * 10_000))
    code, text, _ = run("show", mil.write(tmp_path, mil.model(description=described)))
    assert code == 0 and "\x1b" not in text and len(text) < 5000


def half(*shape: int) -> TypeOf:
    return TypeOf("float16", shape)


HALF = half(4, 8)


def stored(**inputs: TypeOf) -> dict[str, Constant]:
    return {name: Constant(kind, At("", 64)) for name, kind in inputs.items()}


def weight(kind: str, **inputs: TypeOf) -> Operation:
    given = {name: (constant,) for name, constant in stored(**inputs).items()}
    return Operation(kind, given, (Named("w", HALF),))


FORMS: dict[str, list[Operation]] = {
    "float16": [Operation("const", {}, (Named("w", HALF),), stored(val=HALF))],
    "palette-6": [
        Operation(
            "constexpr_lut_to_dense", {}, (Named("w", HALF),),
            stored(indices=TypeOf("uint8", (24,)), lut=half(64)),
        )
    ],
    "palette-3": [
        weight("constexpr_lut_to_dense", indices=TypeOf("uint3", (4, 8)), lut=half(1, 1, 8, 1))
    ],
    "palette-4 by groups": [
        weight("constexpr_lut_to_dense", indices=TypeOf("uint4", (4, 8)), lut=half(2, 1, 16, 1))
    ],
    "palette-2 of vectors": [
        weight("constexpr_lut_to_dense", indices=TypeOf("uint2", (1, 8)), lut=half(1, 1, 4, 4))
    ],
    "palette-4 of int8": [
        Operation(
            "constexpr_blockwise_shift_scale",
            {k: (v,) for k, v in stored(
                data=TypeOf("int8", (1, 1, 16, 1)), scale=half(1, 1, 1, 1)).items()},
            (Named("t", half(1, 1, 16, 1)),),
        ),
        Operation(
            "constexpr_lut_to_dense",
            {"indices": (Constant(TypeOf("uint4", (4, 8)), At("", 64)),), "lut": ("t",)},
            (Named("w", HALF),),
        ),
    ],
    "int8": [
        weight("constexpr_affine_dequantize", quantized_data=TypeOf("int8", (4, 8)), scale=half(4))
    ],
    "int4": [
        weight(
            "constexpr_blockwise_shift_scale", data=TypeOf("int4", (4, 8)), scale=half(4, 1))
    ],
    "int4 per block": [
        weight(
            "constexpr_blockwise_shift_scale", data=TypeOf("int4", (4, 8)), scale=half(4, 2))
    ],
    "sparse float16": [
        weight("constexpr_sparse_to_dense", mask=TypeOf("uint1", (4, 8)), nonzero_data=half(9))
    ],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_weights(form: str) -> None:
    use = Operation("mul", {"x": ("x",), "y": ("w",)}, (Named("y", HALF),))
    block = Block((), ("y",), (*FORMS[form], use, Operation("add", use.inputs, (Named("z", HALF),))))
    found = summary(Function((Named("x", HALF),), "CoreML8", block))
    assert dict(found.weights) == {form: Stored(1, 32)}
    assert found.elements == 32 and dict(found.operations) == {"mul": 1, "add": 1}


def test_constants_in_the_program_are_no_weights() -> None:
    one = Operation("const", {}, (Named("w", HALF),), {"val": Constant(HALF, ())})
    use = Operation("mul", {"x": ("x",), "y": ("w",)}, (Named("y", HALF),))
    found = summary(Function((Named("x", HALF),), "CoreML8", Block((), ("y",), (one, use))))
    assert dict(found.weights) == {}


def test_names_that_are_packages() -> None:
    assert all(show_package.is_package(name) for name in ("a.mlpackage", "b/a.mlpackage/", "c.mlmodelc"))
    assert not any(show_package.is_package(name) for name in ("bundle", "org/name", "a.safetensors"))
