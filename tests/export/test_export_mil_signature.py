"""The public side of programs: names, layouts, constants in place of inputs, outputs that are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from export_cases import CONTROLS
from export_helpers import TINY_TEXT, TINY_UNET, difference
from export_mil import Weights, dtype, exact, inputs_of, interpreted, operations, packaged, results

from edgediff.export.emit.graph import Graph, Kind
from edgediff.export.emit.mil import program
from edgediff.export.emit.mil_form import MilForm, Signature, Target
from edgediff.export.emit.ops import Ops
from edgediff.export.networks import clip_text, controlnet, unet2d_condition
from edgediff.mil_spec import read_spec
from edgediff.mlpackage import open_package

pytest.importorskip("coremltools")

SINGLE = MilForm("split_einsum", half=False)
UNET_EXTENTS = {"sample": (8, 8), "encoder_hidden_states": (7,)}


def unet(**changes: Any) -> Graph:
    return unet2d_condition.record(unet2d_condition.configure({**TINY_UNET, **changes}, "unet"))


def text(**changes: Any) -> Graph:
    return clip_text.record(clip_text.configure({**TINY_TEXT, **changes}, "text"))


def described(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of what a saved package reads and gives."""
    spec = read_spec(open_package(path).model)
    return {each.name: (each.dtype, tuple(each.shape)) for each in (*spec.inputs, *spec.outputs)}


def test_as_a_manifest_has_it(tmp_path: Path) -> None:
    path = packaged(unet(), tmp_path, MilForm(), Signature((UNET_EXTENTS,)))
    assert described(path) == {
        "sample": ("float32", (1, 4, 8, 8)),
        "timestep": ("float32", (1,)),
        "encoder_hidden_states": ("float32", (1, 7, 16)),
        "out_sample": ("float32", (1, 4, 8, 8)),
    }


def test_as_swift_feeds_it(tmp_path: Path) -> None:
    """Two rows, a time for each, tokens with their channels first, a baked guidance, another name."""
    graph = unet(time_cond_proj_dim=10)
    guidance = np.random.default_rng(5).standard_normal((2, 10), np.float32)
    signature = Signature(
        (UNET_EXTENTS,), 2, {"out_sample": "noise_pred"}, channels_first=frozenset({"encoder_hidden_states"}),
        time_rows=True, baked={"timestep_cond": guidance},
    )  # fmt: skip
    path = packaged(graph, tmp_path, SINGLE, signature)
    assert described(path) == {
        "sample": ("float32", (2, 4, 8, 8)),
        "timestep": ("float32", (2,)),
        "encoder_hidden_states": ("float32", (2, 16, 1, 7)),
        "noise_pred": ("float32", (2, 4, 8, 8)),
    }
    inputs = {**inputs_of(graph, UNET_EXTENTS, 2), "timestep_cond": guidance}
    wanted = exact(graph, tmp_path, inputs)["out_sample"]
    found = results(path, graph, signature, inputs)["out_sample"]
    assert difference(found, wanted) < 1e-4
    # The rows are of one time: a program that read the first alone would not see the second's.
    feeds = signature.feeds(graph, inputs)
    feeds["timestep"] = np.float32([617.25, 3.0])
    other = interpreted(path, feeds)["noise_pred"]
    assert np.array_equal(other[0], found[0])
    assert difference(other[1], found[1]) > 1e-3
    # Apple's inputs are tokens as they are inside: nothing is turned but keys.
    made = operations(program(graph, Weights(graph), SINGLE, signature))
    turned = [op for op in made if op.op_type == "transpose"]
    assert len(turned) == sum(node.op == "attention" for node in graph.nodes)


def test_ids_as_numbers_with_a_point(tmp_path: Path) -> None:
    graph, extents = text(), {"input_ids": (12,)}
    signature = Signature((extents,), float_ids=True, outputs=("pooler_output", "last_hidden_state"))
    path = packaged(graph, tmp_path, SINGLE, signature)
    assert described(path)["input_ids"] == ("float32", (1, 12))
    assert list(described(path)) == ["input_ids", "pooler_output", "last_hidden_state"]
    inputs = inputs_of(graph, extents, 1)
    wanted = exact(graph, tmp_path, inputs)
    found = results(path, graph, signature, inputs)
    assert list(found) == ["pooler_output", "last_hidden_state"]
    assert all(difference(found[name], wanted[name]) < 1e-4 for name in found)
    whole = packaged(graph, tmp_path, SINGLE, Signature((extents,)))
    assert described(whole)["input_ids"] == ("int32", (1, 12))
    # A point is no letter: what a manifest calls clip_skip.1 has another name in the package.
    assert list(described(whole)) == ["input_ids", "last_hidden_state", "pooler_output", "clip_skip_1"]


def test_what_nobody_asks_for_is_left_out() -> None:
    graph = clip_text.record(clip_text.configure({**TINY_TEXT, "num_hidden_layers": 3}, "text"), states=True)
    extents = {"input_ids": (12,)}
    every, one = Weights(graph), Weights(graph)
    program(graph, every, MilForm(), Signature((extents,)))
    made = program(graph, one, MilForm(), Signature((extents,), outputs=("hidden_states.1",)))
    assert set(every.read) == {p.name for p in graph.parameters}
    assert set(every.read.values()) == {1}  # no weight is read twice
    layers = {name.split("layers.")[1][0] for name in one.read if "layers." in name}
    assert layers == {"0"}
    assert [var.name for var in made.functions["main"].outputs] == ["hidden_states_1"]
    assert not [op for op in operations(made) if op.op_type == "reduce_argmax"]


def test_a_constant_takes_any_inputs_place(tmp_path: Path) -> None:
    """Every kind: pictures, tokens, vectors, numbers, ids."""
    config, batch, size = CONTROLS["labels projected"]
    graph = controlnet.record(controlnet.configure(config, "controlnet"))
    extents = {"sample": size, "encoder_hidden_states": (5,)}
    extents["controlnet_cond"] = (4 * size[0], 4 * size[1])
    inputs = inputs_of(graph, extents, batch)
    wanted = exact(graph, tmp_path, inputs)
    for name in [port.name for port in graph.inputs]:
        signature = Signature((extents,), batch, baked={name: inputs[name]})
        path = packaged(graph, tmp_path, SINGLE, signature)
        assert name not in described(path)
        found = results(path, graph, signature, {**inputs, name: inputs[name] * np.nan})
        assert all(difference(found[key], wanted[key]) < 1e-4 for key in wanted), name
    ids = inputs_of(text(), {"input_ids": (12,)}, 1)
    signature = Signature(({"input_ids": (12,)},), baked=ids)
    made = program(text(), Weights(text()), SINGLE, signature)
    assert not made.functions["main"].inputs


def test_what_all_rows_share_has_a_row_for_each(tmp_path: Path) -> None:
    """As the half of a network gives it to the other, which reads a whole batch."""
    ops = Ops("waves")
    time = ops.input("timestep", Kind.TIME)
    ops.output("waves", ops.timestep_embedding(time, 6, True, 0.0))
    graph = ops.graph()
    signature = Signature(({},), 2)
    found = interpreted(packaged(graph, tmp_path, MilForm(), signature), {"timestep": np.float32([900.5])})
    angles = 900.5 * 10000.0 ** (-np.arange(3) / 3)
    wanted = np.concatenate([np.cos(angles), np.sin(angles)])
    assert found["waves"].shape == (2, 6)
    # Half precision has steps of 0.5 at 900: the angles would be off by up to 0.25.
    assert np.abs(found["waves"] - wanted).max() < 1e-4


@pytest.mark.parametrize("half", [False, True])
def test_targets(half: bool, tmp_path: Path) -> None:
    """The newer target has newer versions of operations, which compute the same."""
    ids, sampled = ({"input_ids": (12,)}, text()), (UNET_EXTENTS, unet())
    for extents, graph in (ids, sampled):
        inputs = inputs_of(graph, extents, 2)
        found = []
        for target in get_args(Target):
            form, signature = MilForm("split_einsum", half, target), Signature((extents,), 2)
            path = packaged(graph, tmp_path, form, signature)
            assert read_spec(open_package(path).model).version == {"iOS17": 8, "iOS18": 9}[target]
            found.append(results(path, graph, signature, inputs))
        for key, value in found[0].items():
            assert np.array_equal(value, found[1][key])


def test_float_in_half(tmp_path: Path) -> None:
    """Nodes that float16 would spoil compute in float32: one alone, or a whole network."""
    graph = unet()

    def said(**more: Any) -> list[Any]:
        return operations(program(graph, Weights(graph), MilForm(), Signature((UNET_EXTENTS,)), **more))

    found = said(keep_float=lambda node: node.op == "attention")
    assert {dtype(op.outputs[0]) for op in found if op.op_type in ("matmul", "softmax")} == {"fp32"}
    assert {dtype(op.outputs[0]) for op in found if op.op_type in ("conv", "layer_norm")} == {"fp16"}
    # Where nothing computes in half precision, nothing is cast and every weight has its digits.
    whole = said(keep_float=lambda node: True)
    assert {dtype(op.outputs[0]) for op in whole} == {"fp32"}
    assert not [op for op in whole if op.op_type == "cast"]
    inputs = inputs_of(graph, UNET_EXTENTS, 1)
    signature = Signature((UNET_EXTENTS,))
    path = packaged(graph, tmp_path, MilForm(), signature, keep_float=lambda node: True)
    wanted = exact(graph, tmp_path, inputs)["out_sample"]
    assert difference(results(path, graph, signature, inputs)["out_sample"], wanted) < 1e-4
