"""The pass that reduces self-attention: what it refuses, what it counts, its MIL forms, and whole exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import TINY_UNET, build, difference, model_folder, run, write_safetensors
from export_mil import exact, inputs_of, packaged, results

from edgediff.bundle import Bundle
from edgediff.errors import CheckFailed, InputError, UnsupportedError
from edgediff.export.checkpoint import plain_spellings
from edgediff.export.coreml import gates
from edgediff.export.coreml.options import wanted
from edgediff.export.emit import reduce_sizes
from edgediff.export.emit.flops import flops
from edgediff.export.emit.graph import Graph, Kind
from edgediff.export.emit.mil import program
from edgediff.export.emit.mil_form import Attention, MilForm, Signature
from edgediff.export.emit.onnx import PORTABLE, Profile, emit
from edgediff.export.emit.onnx_cuda import ORT_CUDA
from edgediff.export.emit.onnx_static import COREML_EP
from edgediff.export.emit.ops import Ops
from edgediff.export.emit.reduce import levels_of, parse, reduced
from edgediff.export.emit.reduce_sizes import back, order
from edgediff.export.emit.sizes import sizes
from edgediff.export.main import export_onnx
from edgediff.export.networks import unet2d_condition
from edgediff.export.tensors import TensorFiles

LEVELS: dict[str, Any] = {
    **TINY_UNET,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
EXTENTS: dict[str, tuple[int, ...]] = {"sample": (8, 12), "encoder_hidden_states": (7,)}


def unet(config: dict[str, Any] = LEVELS) -> Graph:
    return unet2d_condition.record(unet2d_condition.configure(config, "unet"))


def test_written_and_read() -> None:
    for text in ("tiles:2@1", "pooled:3@1,2", "tiles:2@1+strided:2@2,3"):
        assert str(parse(text)) == text
    assert str(parse(" shifted:2@3,1 ")) == "shifted:2@1,3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no reduction"),
        ("tiles", "expected WAY:SIZE@LEVEL"),
        ("merged:2@1", "ways are tiles, shifted, pooled, strided"),
        ("tiles:1@1", "out of range"),
        ("tiles:9@1", "out of range"),
        ("tiles:2@0", "out of range"),
        ("tiles:2@1+pooled:2@1", "level 1 is named twice"),
        ("tiles:2@1,1", "level 1 is named twice"),
        ("tiles:2@1;pooled:2@2", "is no reduction"),
    ],
)
def test_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse(text)


def test_levels() -> None:
    assert levels_of(unet()) == (1, 2)  # the middle is of the last level
    assert levels_of(unet(TINY_UNET)) == (2,)
    with pytest.raises(InputError, match=r"no self-attention at level 1; levels 2 have it"):
        reduced(unet(TINY_UNET), parse("tiles:2@1"))


def test_nothing_else_changes() -> None:
    whole = unet()
    assert reduced(whole, parse("tiles:2@2")).inputs == whole.inputs
    for text in ("tiles:2@1", "pooled:2@1,2"):
        cut = reduced(whole, parse(text))
        assert cut.parameters == whole.parameters
        assert [port.value for port in cut.outputs] == [port.value for port in whole.outputs]
        ids = [node.output.id for node in cut.nodes]
        assert len(set(ids)) == len(ids)
        assert {node.output.id for node in whole.nodes} <= set(ids)
        known = sizes(cut, EXTENTS)
        assert known[cut.outputs[0].value.id] == (8, 12)


@pytest.mark.parametrize("size", [(8, 12), (9, 11), (3, 5)])
@pytest.mark.parametrize("shifted", [False, True])
def test_order_and_back(size: tuple[int, int], shifted: bool) -> None:
    for tiles in (2, 3):
        there, again = order(*size, tiles, shifted), back(*size, tiles, shifted)
        assert (there[again] == np.arange(size[0] * size[1])).all()
        assert len(there) == tiles**2 * -(-size[0] // tiles) * -(-size[1] // tiles)


def test_work() -> None:
    whole, places = flops(unet(), EXTENTS), 8 * 12
    # Three layers of level 1, 8 channels: all pairs of tokens, and those within a quarter of them.
    pairs = 3 * 4 * places * 8
    tiled = flops(reduced(unet(), parse("tiles:2@1")), EXTENTS)
    assert whole["attention"] - tiled["attention"] == pairs * (places - places // 4)
    assert whole["linear"] == tiled["linear"]
    pooled = flops(reduced(unet(), parse("pooled:2@1")), EXTENTS)
    assert pooled["attention"] == tiled["attention"]
    assert whole["linear"] - pooled["linear"] == 3 * 2 * 2 * 8 * 8 * (places - places // 4)


@pytest.mark.parametrize("attention", ["original", "split_einsum", "split_einsum_v2"])
@pytest.mark.parametrize(
    ("text", "size"),
    [("tiles:2@1", (9, 11)), ("shifted:3@1", (7, 12)), ("pooled:2@1,2", (9, 11)), ("strided:2@1", (9, 11))],
)
def test_mil_gives_what_onnx_gives(
    attention: Attention, text: str, size: tuple[int, int], tmp_path: Path
) -> None:
    pytest.importorskip("coremltools")
    graph = reduced(unet(), parse(text))
    extents = {**EXTENTS, "sample": size}
    signature, form = Signature((extents,), 2), MilForm(attention, False)
    inputs = inputs_of(graph, extents, 2)
    wanted = exact(graph, tmp_path, inputs)["out_sample"]
    found = results(packaged(graph, tmp_path, form, signature), graph, signature, inputs)["out_sample"]
    assert difference(found, wanted) < 1e-4


def test_mil_of_several_sizes() -> None:
    pytest.importorskip("coremltools")
    from export_mil import Weights

    graph = reduced(unet(), parse("tiles:2@1"))
    several = Signature((EXTENTS, {**EXTENTS, "sample": (8, 8)}))
    with pytest.raises(UnsupportedError, match="reduced attention asks for one size"):
        program(graph, Weights(graph), MilForm("split_einsum", False), several)


@pytest.mark.parametrize("text", ["tiles:2@1", "shifted:3@1", "pooled:2@1", "strided:3@1"])
def test_channels_last(text: str, tmp_path: Path) -> None:
    """The form of the CUDA provider, which has no convolution for the CPU: attention of a picture alone."""
    ops = Ops("net")
    image = ops.input("image", Kind.IMAGE, 8, "height", "width")
    tokens = ops.to_tokens(image)
    with ops.scope("attn"):
        q, k, v = (ops.linear(tokens, name, 8, bias=False) for name in "qkv")
        mixed = ops.attention(q, k, v, heads=2)
    ops.output("out", ops.to_image(mixed, image), "height", "width")
    graph, rng = reduced(ops.graph(), parse(text)), np.random.default_rng(0)
    arrays = {p.name: rng.standard_normal(p.shape, np.float32) for p in graph.parameters}
    write_safetensors(tmp_path / "x.safetensors", arrays)
    names = ("to_tokens", "to_image", *reduce_sizes.OPERATIONS)
    last = Profile("last", channels_last=True, lowerings={n: ORT_CUDA.lowerings[n] for n in names})
    picture, found = rng.standard_normal((2, 8, 7, 10), np.float32), []
    for profile in (PORTABLE, last):
        (tmp_path / profile.name).mkdir()
        tensors = TensorFiles([tmp_path / "x.safetensors"])
        path = build(graph, tensors, plain_spellings, tmp_path / profile.name, "fp32", profile)
        found.append(run(path, {"image": picture})["out"])
    assert difference(found[1], found[0]) < 1e-5


def test_core_ml_options() -> None:
    with pytest.raises(InputError, match="is no reduction"):
        wanted({"reduce_attention": "tiles"})
    with pytest.raises(UnsupportedError, match="reduce_attention with 2 sizes"):
        wanted({"reduce_attention": "tiles:2@1", "sizes": [(64, 64), (64, 128)]})
    assert gates.floors("fp16", ["denoiser", "decoder"], reduced=True) == {"snr_db": {"decoder": 45.0}}
    asked = gates.floors("fp16", ["denoiser"], 30.0, reduced=True)
    assert asked == {"snr_db": {}, "latents_psnr_db": 30.0}


def test_fixed_extents_make_constants() -> None:
    graph = reduced(unet(), parse("tiles:2@1"))
    free = {node.op_type for node in emit(graph).model.graph.node}
    fixed = {node.op_type for node in emit(graph, "fp32", COREML_EP, extents=EXTENTS).model.graph.node}
    assert {"Range", "LessOrEqual"} <= free
    assert not {"Range", "LessOrEqual", "Shape"} & fixed


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("reduced") / "model", unet=LEVELS)


@pytest.mark.filterwarnings("ignore")
def test_export(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = export_onnx(str(source), str(out), attention="pooled:2@1+tiles:2@2")
    bundle = Bundle.open(out)
    assert "+".join(map(str, bundle.attention)) == "pooled:2@1+tiles:2@2"
    quality = json.loads((out / "edgediff.json").read_text())["quality"]
    assert quality == done["quality"] == bundle.quality
    assert quality["scheme"] == "reduced"
    assert quality["attention"][1] == {"way": "tiles", "size": 2, "levels": [2]}
    # The denoiser differs from its parent by what was reduced, the rest is the same.
    assert quality["components"]["denoiser"]["snr_db"] < 60 < quality["components"]["decoder"]["snr_db"]
    assert quality["weights"]["trained"] is False
    assert any("untrained" in note for note in done["notes"])


@pytest.mark.filterwarnings("ignore")
def test_floor_and_no_receipt(source: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", {"attention": "pooled:2@1,2", "min_psnr": 150.0}
    with pytest.raises(CheckFailed, match="reduced attention does not serve its purpose here: final latents"):
        export_onnx(str(source), str(out), **whole)  # type: ignore[arg-type]
    assert not out.exists()
    done = export_onnx(str(source), str(out), attention="tiles:2@1", receipt=False, dtype="fp16")
    assert any("was not measured" in note for note in done["notes"])
    assert "quality" not in json.loads((out / "edgediff.json").read_text())
    with pytest.raises(InputError, match="no self-attention at level 3; levels 1, 2 have it"):
        export_onnx(str(source), str(tmp_path / "other"), attention="tiles:2@3")
