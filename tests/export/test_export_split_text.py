"""Keys and values of the text as a part of their own: the pass, the bundle that has it, and its use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import model_folder
from family_folders import control_folder, xl_folder

import edgediff
from edgediff.errors import InputError, UnsupportedError
from edgediff.export.emit.graph import Kind
from edgediff.export.emit.ops import Ops
from edgediff.export.emit.split_text import TEXT, split_text
from edgediff.export.main import export_onnx
from edgediff.export.text_apart import ROLE, with_text_apart

EMBEDDED = Path(edgediff.__file__).parent / "bundles" / "shapes"


def test_what_is_made_of_the_text_alone_is_split_off() -> None:
    ops = Ops("net")
    sample = ops.input("sample", Kind.TOKENS, 4, "length")
    text = ops.input(TEXT, Kind.TOKENS, 6, "sequence_length")
    deep = ops.linear(ops.layer_norm(text, "norm"), "deep", 4)
    unread = ops.linear(text, "unread", 8)
    k, v = ops.linear(deep, "to_k", 4), ops.linear(text, "to_v", 4)
    ops.output("out", ops.attention(ops.linear(sample, "to_q", 4), k, v, 2))
    whole = ops.graph()
    first, rest = split_text(whole)
    assert [port.name for port in first.outputs] == ["to_k", "to_v"]
    assert [port.extents for port in first.outputs] == [("sequence_length",)] * 2
    assert [node.scope for node in first.nodes] == ["norm", "deep", "to_k", "to_v"]  # not what nobody reads
    assert [port.name for port in rest.inputs] == ["sample", "to_k", "to_v"]
    assert [node.scope for node in rest.nodes] == ["to_q", ""]
    assert rest.outputs == whole.outputs
    assert unread.id not in {node.output.id for node in (*first.nodes, *rest.nodes)}


def test_text_that_is_read_as_it_is_stays_an_input() -> None:
    ops = Ops("net")
    sample = ops.input("sample", Kind.TOKENS, 6, "length")
    text = ops.input(TEXT, Kind.TOKENS, 6, "sequence_length")
    ops.output("out", ops.attention(sample, ops.linear(text, "to_k", 6), text, 2))
    _, rest = split_text(ops.graph())
    assert [port.name for port in rest.inputs] == ["sample", TEXT, "to_k"]


def test_networks_without_text_are_refused() -> None:
    ops = Ops("net")
    x = ops.input("sample", Kind.IMAGE, 4, "height", "width")
    ops.output("out", ops.silu(x))
    with pytest.raises(UnsupportedError, match="no input encoder_hidden_states"):
        split_text(ops.graph())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    made: dict[str, tuple[Path, Path]] = {}

    def get(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            source = (xl_folder if kind == "xl" else model_folder)(folder / "source")
            nets = [str(control_folder(folder / "net"))] if kind == "control" else []
            for name, split in (("whole", False), ("split", True)):
                export_onnx(str(source), str(folder / name), split_text=split, verify=split, controlnets=nets)
            made[kind] = folder / "whole", folder / "split"
        return made[kind]

    return get


@pytest.mark.parametrize("kind", ["xl", "control"])
def test_the_bundle_says_so_and_the_weights_have_moved(
    kind: str, pair: Callable[[str], tuple[Path, Path]]
) -> None:
    whole, split = pair(kind)
    told = json.loads((split / "edgediff.json").read_text())
    assert told["model"]["text"]["projections"] == ROLE
    bundle = edgediff.Bundle.open(split)
    assert bundle.prompt_roles == (*bundle.text_roles, ROLE)
    bundle.verify()
    outputs = {tensor.name for tensor in bundle.graph(ROLE).outputs}
    for role in {"denoiser", "controlled_denoiser"} & set(bundle.components):
        read = {tensor.name for tensor in bundle.graph(role).inputs}
        assert outputs <= read
        assert TEXT not in read
    sizes = {name: (split / name / "model.onnx_data").stat().st_size for name in ("unet", "text_projections")}
    assert sum(sizes.values()) == pytest.approx((whole / "unet" / "model.onnx_data").stat().st_size, rel=0.02)


def test_no_split_changes_nothing() -> None:
    assert with_text_apart(None, False) is None  # type: ignore[arg-type]


def test_graphs_that_exist_are_not_cut(tmp_path: Path) -> None:
    folder = tmp_path / "optimum"
    shutil.copytree(EMBEDDED, folder)
    (folder / "edgediff.json").unlink()
    with pytest.raises(InputError, match="split_text"):
        export_onnx(str(folder), str(tmp_path / "out"), split_text=True)
    assert not (tmp_path / "out").exists()


CALLS: dict[str, list[dict[str, Any]]] = {
    "xl": [{}, {"guidance_scale": 1.0, "num_images_per_prompt": 2}, {"negative_prompt": "b"}],
    "control": [{}, {"guess_mode": True}, {"guidance_scale": 1.0, "control_guidance_end": 0.5}],
}


@pytest.mark.parametrize("kind", CALLS)
def test_what_is_drawn_is_the_same(kind: str, pair: Callable[[str], tuple[Path, Path]]) -> None:
    picture = {"control_image": np.full((16, 16, 3), 90, np.uint8)} if kind == "control" else {}
    drawn = []
    for bundle in pair(kind):
        with edgediff.load(bundle, threads=1) as pipe:
            for more in CALLS[kind]:
                made = pipe(
                    ["a", "b a"], num_inference_steps=2, seed=3, output_type="latent", **picture, **more
                )
                drawn.append(made.images)
                assert ("text_projections" in made.timings) == (
                    bundle.name == "split" and (not more or "negative_prompt" in more)
                )
    count = len(CALLS[kind])
    for whole, split in zip(drawn[:count], drawn[count:], strict=True):
        np.testing.assert_allclose(split, whole, rtol=0, atol=1e-5 * np.abs(whole).max())
