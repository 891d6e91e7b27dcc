"""Every example manifest through the schema and through the loader, which must agree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgediff import manifest
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, UnsupportedError

EXAMPLES = Path(__file__).parent.parent / "bundles"
VALID = sorted((EXAMPLES / "valid").glob("*.json"))
INVALID = sorted((EXAMPLES / "invalid").glob("*.json"))
SCHEMA = json.loads((Path(manifest.__file__).parent / "bundle.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

NO_JSON = {
    "git-lfs-pointer", "html-page", "json-comment", "json-single-quotes", "json-trailing-garbage",
    "json-truncated",
}  # fmt: skip
# What JSON Schema cannot say, and why; everything else both must refuse.
LOADER_ONLY = {
    "key-twice": "a parser keeps the last",
    "number-nan": "no JSON, though Python's parser reads it",
    "number-infinity": "no JSON, though Python's parser reads it",
    "number-1e999": "infinite once it is parsed",
    "number-400-digits": "beyond every number type",
    "channels-whole-float": "4.0 is an integer to JSON Schema",
    "nested-too-deep": "unknown fields may hold anything",
    "string-with-nul": "holds for every string",
    "string-with-lone-surrogate": "holds for every string",
    "file-not-listed": "compares two fields",
    "weights-not-listed": "compares two fields",
    "stages-not-listed": "compares two fields",
    "stages-of-onnx": "compares two fields",
    "extents-of-no-dim": "compares two fields",
    "tokenizer-not-listed": "compares two fields",
    "parameters-not-listed": "compares two fields",
    "tables-not-listed": "compares two fields",
    "names-fold-together": "compares keys",
    "downscale-of-other-axis": "compares two fields",
    "downscale-missing-axis": "compares two fields",
    "encoders-of-absent-role": "compares two fields",
    "encoders-of-two-lengths": "compares two fields",
    "encoders-twice": "compares two fields",
    "controls-of-absent-role": "compares two fields",
    "projections-of-absent-role": "compares two fields",
    "projections-of-two-widths": "compares two fields",
    "projections-unread": "compares two fields",
    "limits-upside-down": "compares two fields",
}
# What the message must name, where it is not the file's own name before the dash.
NAMES = {
    "path-escapes": "../model.onnx", "path-escapes-inside": "unet/../../model.onnx",
    "path-absolute": "/etc/passwd", "path-windows-drive": "C:/model.onnx", "path-backslashes": "server",
    "path-url": "file:///model.onnx", "path-windows-device": "CON.onnx",
    "path-windows-device-number": "lpt1", "path-stream": "onnx:stream", "path-ends-with-dot": "unet/model.",
    "path-ends-with-space": "onnx ", "path-hidden": ".ssh", "path-empty": "file",
    "path-empty-part": "unet//model.onnx", "path-too-deep": "a/b/c/d/e/f/g/h/model.onnx",
    "path-too-long": "aaaa",
    "path-not-ascii": "mod", "path-right-to-left": "202e", "path-of-weights": "../weights",
    "path-of-tokenizer": "/tokenizer.json", "path-of-parameters": "../parameters.json",
    "path-of-file": "../secret", "not-an-object": "expected an object", "version-major": "reads 1.x",
    "edgediff-version-missing": "edgediff_version", "scaling-factor-zero": "scaling_factor",
    "scaling-factor-text": "scaling_factor", "scaling-factor-true": "scaling_factor",
    "shift-factor-missing": "shift_factor", "text-length-two": "text.length",
    "text-tokenizer-missing": "tokenizer", "steps-zero": "num_inference_steps",
    "steps-1001": "num_inference_steps", "steps-true": "num_inference_steps", "sampler-empty": "sampler",
    "guidance-negative": "guidance_scale", "guidance-101": "guidance_scale",
    "guidance-embedding-one": "guidance_embedding.dims", "guidance-embedding-number": "guidance_embedding",
    "graph-text": "graphs[0]", "tensor-name-empty": "inputs[0].name",
    "bytes-negative": "unet/model.onnx.bytes", "git-lfs-pointer": "git-LFS", "html-page": "JSON",
    "key-twice": "format_version", "nested-too-deep": "nested", "number-nan": "NaN",
    "number-infinity": "Infinity", "number-1e999": "scaling_factor", "number-400-digits": "scaling_factor",
    "string-with-nul": "source", "string-with-lone-surrogate": "source",
    "file-not-listed": "unet/model.onnx", "weights-not-listed": "unet/model.onnx_data",
    "stages-not-listed": "UnetChunk2.mlpackage", "stages-of-onnx": "2 stages",
    "stages-path-escapes": "../model.mlmodel",
    "tokenizer-not-listed": "tokenizer/tokenizer.json", "names-fold-together": "UNET/model.onnx",
    "json-comment": "JSON", "json-single-quotes": "JSON", "json-trailing-garbage": "JSON",
    "json-truncated": "JSON",
}  # fmt: skip


def opened(file: Path, folder: Path) -> Bundle:
    """Open the folder whose manifest is ``file``."""
    (folder / "edgediff.json").write_bytes(file.read_bytes())
    return Bundle.open(folder)


def accepted_by_schema(file: Path) -> bool:
    value: Any = json.loads(file.read_text(encoding="utf-8"))
    return bool(VALIDATOR.is_valid(value))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_there_are_examples() -> None:
    assert len(VALID) >= 13
    assert len(INVALID) >= 140
    stems = {file.stem for file in INVALID}
    assert {*LOADER_ONLY, *NO_JSON, *NAMES} <= stems


@pytest.mark.parametrize("file", VALID, ids=lambda f: f.stem)
def test_valid(file: Path, tmp_path: Path) -> None:
    assert accepted_by_schema(file), list(VALIDATOR.iter_errors(json.loads(file.read_text())))
    bundle = opened(file, tmp_path)
    assert bundle.graph("denoiser").inputs


@pytest.mark.parametrize("file", INVALID, ids=lambda f: f.stem)
def test_invalid(file: Path, tmp_path: Path) -> None:
    expected = UnsupportedError if file.stem == "version-major" else BundleError
    with pytest.raises(expected) as caught:
        opened(file, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert NAMES.get(file.stem, re.split("-", file.stem)[0]) in message.removeprefix(str(tmp_path)), message
    if file.stem not in NO_JSON:
        assert accepted_by_schema(file) == (file.stem in LOADER_ONLY)


@pytest.mark.parametrize("name", ["minimal", "everything-stated", "coreml-in-pieces"])
def test_every_stated_field_is_read_the_same(name: str, tmp_path: Path) -> None:
    """Replace each value in turn by values of other kinds: schema and loader must say the same."""
    original = json.loads((EXAMPLES / "valid" / f"{name}.json").read_text(encoding="utf-8"))
    disagreements = []
    for path in paths(original):
        for other in (None, True, -1, 0, 1, 0.5, "", "x", "a" * 300, [], [""], {}, {"x": 0}):
            changed = replaced(original, path, other)
            (tmp_path / "edgediff.json").write_text(json.dumps(changed), encoding="utf-8")
            try:
                Bundle.open(tmp_path)
                loads = True
            except UnsupportedError:
                loads = False
            except BundleError as error:
                # Comparisons between fields are the loader's own.
                if any(w in str(error) for w in ("listed", "a factor for each", "contradicts")):
                    continue
                loads = False
            if loads != VALIDATOR.is_valid(changed):
                disagreements.append((path, other, loads))
    assert not disagreements


def paths(value: Any, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of every value inside ``value``."""
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    found = [here] if here else []
    for key, child in children:
        found += paths(child, (*here, key))
    return found


def replaced(value: Any, path: tuple[str | int, ...], other: Any) -> Any:
    """Return a copy of ``value`` with ``other`` at ``path``."""
    if not path:
        return other
    copy: Any = list(value) if isinstance(value, list) else dict(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], other)
    return copy
