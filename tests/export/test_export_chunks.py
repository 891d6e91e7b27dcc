"""Recordings cut into two: run in turn they give what diffusers gives, and the cut lies where it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import FULL_TEXT, TINY_UNET, Array, difference, model_folder, run

from edgediff.export.checkpoint import match, plain_spellings
from edgediff.export.emit.chunks import crossing_extents, halves
from edgediff.export.emit.graph import Graph, Kind
from edgediff.export.emit.onnx import emit
from edgediff.export.emit.ops import Ops
from edgediff.export.emit.sizes import sizes
from edgediff.export.emit.weights import write_weights
from edgediff.export.networks import clip_text, controlnet, unet2d_condition
from edgediff.export.tensors import Tensors

SD15: dict[str, Any] = {"cross_attention_dim": 768}
SDXL: dict[str, Any] = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def unet(config: dict[str, Any], controlled: bool = False) -> Graph:
    return unet2d_condition.record(unet2d_condition.configure(config, "config.json"), controlled=controlled)


def elements(graph: Graph) -> int:
    return sum(parameter.size for parameter in graph.parameters)


def in_turn(whole: Graph, tensors: Tensors, folder: Path, inputs: dict[str, Array]) -> dict[str, Array]:
    """What is known after both halves: each is fed what it declares of the call's inputs and the first's
    results."""
    names = match(whole.parameters, tensors, plain_spellings, folder)
    known = dict(inputs)
    for graph in halves(whole):
        emitted, path = emit(graph), folder / f"{graph.name}.onnx"
        with (folder / f"{graph.name}.data").open("wb") as file:
            write_weights(emitted.model, emitted.stored, tensors, names, file, f"{graph.name}.data")
        path.write_bytes(emitted.model.SerializeToString())
        known.update(run(path, {port.name: known[port.name] for port in graph.inputs}))
    return known


@pytest.mark.parametrize("config", [SD15, SDXL, TINY_UNET], ids=["1.5", "XL", "tiny"])
@pytest.mark.parametrize("controlled", [False, True])
def test_the_cut_is_near_half(config: dict[str, Any], controlled: bool) -> None:
    whole = unet(config, controlled)
    first, second = halves(whole)
    assert second.outputs == whole.outputs
    made = {node.output.id for half in (first, second) for node in half.nodes}
    assert made == {node.output.id for node in whole.nodes}
    shared = {p.name for p in first.parameters} & {p.name for p in second.parameters}
    assert all(name.startswith(("time_embedding", "add_embedding")) for name in shared)
    assert {p.name for p in first.parameters} | {p.name for p in second.parameters} == {
        p.name for p in whole.parameters
    }
    for half in (first, second):
        assert elements(half) < (0.6 if config is not TINY_UNET else 0.75) * elements(whole)


def test_both_halves_of_stable_diffusion_are_below_a_gigabyte() -> None:
    """At two bytes per number; the whole is not."""
    whole = unet(SD15)
    assert 2 * elements(whole) > 1 << 30
    assert all(2 * elements(half) < 1_000_000_000 for half in halves(whole))


def test_names_are_those_of_modules_and_stable() -> None:
    found = [
        [port.name for port in halves(unet(SD15, controlled))[0].outputs] for controlled in (False, True)
    ]
    assert found == [[port.name for port in halves(unet(SD15, c))[0].outputs] for c in (False, True)]
    for names in found:
        assert len(set(names)) == len(names)
        assert all(name.isidentifier() for name in names)
        assert any(name.startswith("up_blocks_") for name in names)


def test_no_vector_crosses() -> None:
    for config in (
        SD15,
        SDXL,
        {**TINY_UNET, "resnet_time_scale_shift": "scale_shift", "num_class_embeds": 3},
    ):
        assert all(port.value.kind in (Kind.IMAGE, Kind.TOKENS) for port in halves(unet(config))[0].outputs)


def test_each_half_is_complete() -> None:
    """Every value is made or given before it is read, and nothing is made in vain."""
    for whole in (unet(SD15), unet(SDXL), unet(TINY_UNET, True)):
        for half in halves(whole):
            known = {port.value.id for port in half.inputs}
            read = {port.value.id for port in half.outputs}
            for node in half.nodes:
                assert all(value.id in known for value in node.inputs)
                known.add(node.output.id)
                read.update(value.id for value in node.inputs)
            assert known == read


@pytest.mark.parametrize("size", [(64, 64), (72, 40), (9, 13)])
def test_extents_of_the_second_half(size: tuple[int, int]) -> None:
    whole = unet(SD15)
    given = {"sample": size, "encoder_hidden_states": (77,)}
    first, second = halves(whole)
    extents = crossing_extents(first, second, given)
    wanted = sizes(whole, given)
    found = sizes(second, extents)
    assert found.items() <= wanted.items()
    assert found[second.outputs[0].value.id] == size
    # What a residual connection carries is as large as the grid it lies on.
    assert extents[first.outputs[0].name] == size


def test_nothing_to_cut() -> None:
    ops = Ops("one")
    x = ops.input("x", Kind.IMAGE, 4, "height", "width")
    ops.output("y", ops.conv(x, "conv", 4), "height", "width")
    with pytest.raises(ValueError, match="nothing to cut off"):
        halves(ops.graph())


def test_a_vector_that_depends_on_tokens_crosses() -> None:
    """A sequence is pooled before the cut, and what is pooled is read after it."""
    ops = Ops("pooling")
    ids = ops.input("ids", Kind.IDS, 1, "length")
    pooled = ops.pool_first(ops.embedding(ids, "table", 8, 16), ids, 7)
    ops.output("pooled", ops.linear(ops.silu(pooled), "last", 8))
    first, second = halves(ops.graph())
    assert [port.extents for port in first.outputs] == [()]
    assert [port.name for port in second.inputs] == [first.outputs[0].name]
    assert crossing_extents(first, second, {"ids": (5,)}) == {}


def test_outputs_are_never_before_the_cut() -> None:
    """A text encoder gives hidden states early: the cut lies before the first of them."""
    net = clip_text.configure({**FULL_TEXT, "vocab_size": 99, "num_hidden_layers": 4}, "config.json")
    whole = clip_text.record(net)
    first, second = halves(whole)
    made = {node.output.id for node in first.nodes}
    assert not made & {port.value.id for port in whole.outputs}
    assert second.outputs == whole.outputs


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"time_cond_proj_dim": 10}], ids=["plain", "guided"])
def test_core_ml_programs_in_two_give_what_one_gives(changes: dict[str, Any], tmp_path: Path) -> None:
    """To the bit in half precision: what crosses is stored in float32."""
    pytest.importorskip("coremltools")
    from edgediff import runtime
    from edgediff.bundle import Bundle
    from edgediff.export.coreml.main import export_coreml

    model = model_folder(tmp_path / "model", unet={**TINY_UNET, **changes})
    found = []
    for chunk in (False, True):
        out = tmp_path / f"out-{chunk}"
        export_coreml(str(model), str(out), chunk=chunk, receipt=False, verify=False)
        (spec,) = Bundle.open(out).components["denoiser"]
        assert len(spec.stages) == chunk
        loaded = runtime.find("mil").load(spec, out / spec.file, "cpu", {}, {})
        rng = np.random.default_rng(3)
        inputs = {t.name: rng.standard_normal(t.dims).astype(np.float32) for t in spec.inputs}
        found.append(loaded(inputs)["out_sample"])
        loaded.close()
    assert np.ptp(found[0]) > 0.1
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parity
class TestAgainstDiffusers:
    """The networks of test_export_parity_unet and test_export_parity_controlnet."""

    def test_unets(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        diffusers = pytest.importorskip("diffusers")
        from export_parity import randomise, saved
        from export_unets import arguments, random_inputs
        from test_export_parity_unet import CASES

        for name, (config, batch, size) in CASES.items():
            reference = randomise(diffusers.UNet2DConditionModel(**config))
            folder = tmp_path / name
            tensors, written = saved(reference, folder)
            inputs = random_inputs(reference.config, batch, size)
            with torch.no_grad():
                wanted = reference(**arguments(reference.config, inputs)).sample.numpy()
            found = in_turn(unet(written), tensors, folder, inputs)
            assert difference(found["out_sample"], wanted) < 1e-4, name

    def test_controlnets(self, tmp_path: Path) -> None:
        """The halves of a ControlNet feed the halves of a U-Net that takes its residuals."""
        torch = pytest.importorskip("torch")
        diffusers = pytest.importorskip("diffusers")
        from export_parity import randomise, saved
        from export_unets import THREE, XL, arguments, random_inputs
        from test_export_parity_controlnet import control

        for name, base in (("THREE", THREE), ("XL", XL)):
            small = randomise(diffusers.ControlNetModel(**control(base)), seed=1)
            large = randomise(diffusers.UNet2DConditionModel(**base))
            inputs = random_inputs(large.config, 2, (9, 11))
            picture = np.random.default_rng(2).random((2, 3, 36, 44), np.float32)
            given = arguments(large.config, inputs)
            with torch.no_grad():
                down, middle = small(
                    **given,
                    controlnet_cond=torch.from_numpy(picture),
                    conditioning_scale=0.7,
                    return_dict=False,
                )
                wanted = large(
                    **given, down_block_additional_residuals=down, mid_block_additional_residual=middle
                ).sample.numpy()
            tensors, written = saved(small, tmp_path / name / "control")
            graph = controlnet.record(controlnet.configure(written, "config.json"))
            inputs = {**inputs, "controlnet_cond": picture, "conditioning_scale": np.array([0.7], np.float32)}
            found = in_turn(graph, tensors, tmp_path / name / "control", inputs)
            for i in range(len(down)):
                inputs[f"down_block_additional_residuals.{i}"] = found[f"down_block_res_samples.{i}"]
            inputs["mid_block_additional_residual"] = found["mid_block_res_sample"]
            tensors, written = saved(large, tmp_path / name / "unet")
            found = in_turn(unet(written, controlled=True), tensors, tmp_path / name / "unet", inputs)
            assert difference(found["out_sample"], wanted) < 1e-4, name
