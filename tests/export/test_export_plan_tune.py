"""Which form each layer gets: the rule by shape, and what measuring on this machine gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import FULL_VAE, TINY_UNET, TINY_VAE, model_folder

from edgediff.export.assemble import Asked, assemble
from edgediff.export.emit.graph import Kind
from edgediff.export.emit.sizes import sizes
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model
from edgediff.export.quantize.alone import Shape, cut, filled, record, said, shape_of, work
from edgediff.export.quantize.extents import default_extents
from edgediff.export.quantize.latency import Stopwatch
from edgediff.export.quantize.plan import Decision, Plan
from edgediff.export.quantize.positions import layers_of
from edgediff.export.quantize.schemes import plan_of
from edgediff.export.quantize.tune import Tuned, symmetric, tune

onnxruntime = pytest.importorskip("onnxruntime")

UNET: dict[str, Any] = {**TINY_UNET, "block_out_channels": [16, 32]}
AMX, VNNI = frozenset({"x86-64", "vnni", "amx_int8"}), frozenset({"x86-64", "vnni"})


def built(folder: Path) -> Model:
    found = assemble(Asked(str(folder)), lambda line: None)
    return stable_diffusion.build(found.source, found.recipe)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    vae = {**TINY_VAE, "block_out_channels": [16, 16]}
    return built(model_folder(tmp_path_factory.mktemp("tune") / "model", unet=UNET, vae=vae))


@pytest.mark.parametrize("choice", ["float", "int8", "int8-weights", "int4-weights"])
def test_every_shape_is_a_graph_that_runs(choice: Any, model: Model) -> None:
    """A layer alone gives what the layer in its network gives: the same shape."""
    seen = set()
    for part in model.parts:
        known = sizes(part.graph, default_extents(model, part))
        for node in layers_of(part.graph):
            if node.op == "embedding":
                continue
            shape = shape_of(part.graph, node, known)
            key = (shape.op, shape.kind, shape.beside, shape.weight[2:])
            if key in seen:
                continue
            seen.add(key)
            graph, given = record(shape, 2)
            rng = np.random.default_rng(0)
            session = onnxruntime.InferenceSession(
                filled(said(graph, choice)).SerializeToString(), providers=["CPUExecutionProvider"]
            )
            inputs = {name: rng.standard_normal(each, np.float32) for name, each in given.items()}
            made = session.run(None, inputs)
            places = known[node.output.id]
            if shape.beside == "to_tokens":
                places = (places[0] * places[1],)
            channels = node.output.channels // (2 if shape.beside == "geglu" else 1)
            wanted = {Kind.IMAGE: (1, channels, *places), Kind.VECTOR: (1, channels)}
            kind = graph.outputs[0].value.kind
            assert [each.shape for each in made] == [wanted.get(kind, (1, *places, channels))] * 2, str(shape)
            assert all(np.isfinite(each).all() for each in made)
    assert {"to_tokens", "to_image", "geglu", "upsample", ""} <= {key[2] for key in seen}


def test_large_layers_are_cut_to_fewer_rows() -> None:
    shape = Shape("conv", Kind.IMAGE, (128, 128, 3, 3), False, True, "", (512, 512))
    assert work(shape) == 2 * 128 * 128 * 9 * 512 * 512
    less, factor = cut(shape, 6_000_000_000)
    assert work(less) <= 6_000_000_000
    assert less.extents[1] == 512
    assert factor == 512 / less.extents[0]
    assert cut(less, 6_000_000_000) == (less, 1.0)


def test_a_layer_twice_as_large_takes_about_twice_as_long() -> None:
    watch = Stopwatch(1)
    taken = []
    for rows in (64, 256):
        shape = Shape("conv", Kind.IMAGE, (64, 64, 3, 3), False, True, "", (rows, 64))
        taken.append(watch.seconds(shape, [("float", False)])["float", False])
    assert 1.5 < taken[1] / taken[0] < 11  # 4, on a machine that others use too


def test_the_rule_takes_vectors_where_there_is_no_matrix_unit(model: Model) -> None:
    kernels = {
        part.role: {node.scope for node in part.graph.nodes if node.op in ("conv", "downsample")}
        for part in model.parts
    }
    for part in model.parts:
        assert symmetric(part, model, VNNI) == kernels[part.role]
        assert symmetric(part, model, frozenset()) <= kernels[part.role]


def test_the_rule_takes_vectors_for_few_channels_at_large_sizes(tmp_path: Path) -> None:
    model = built(model_folder(tmp_path / "model", vae=FULL_VAE | {"_class_name": "AutoencoderKL"}))
    parts = {part.role: part for part in model.parts}
    sized = model.defaults["size"]
    assert sized["height"] == 64  # 8 latents, of 8 pixels each: nothing is large
    assert symmetric(parts["decoder"], model, AMX) == frozenset()
    size = {"height": 512, "width": 512}
    large = Model(model.parts, model.facts, {**model.defaults, "size": size}, model.files, model.notes)
    found = symmetric(parts["decoder"], large, AMX)
    assert "decoder.up_blocks.3.resnets.0.conv2" in found  # 128 channels, 512x512
    assert "decoder.up_blocks.0.resnets.0.conv1" not in found  # 512 channels, 64x64
    assert symmetric(parts["denoiser"], large, AMX) == frozenset()


def test_tuning_times_what_computes_and_tells_what_it_found(model: Model) -> None:
    lines: list[str] = []
    tuned = tune(model, report=lines.append, threads=1, roles=("denoiser",))
    assert lines
    plan = plan_of("int8", model)
    computed = {scope for scope, choice in plan.choices("denoiser").items() if choice == "int8"}
    assert computed <= tuned.seconds["denoiser"].keys()
    for each in tuned.seconds["denoiser"].values():
        assert set(each) == {"float", "int8"}
        assert all(seconds > 0 for seconds in each.values())
    assert not tuned.seconds["decoder"]
    assert set(tuned.vnni) == {part.role for part in model.parts}
    told = json.loads(tuned.to_json())
    assert told["format"] == "edgediff-tuned/1"
    assert told["machine"]["threads"] == 1
    assert any("int8 symmetric" in each for each in told["seconds"].values())


def test_layers_that_are_slower_in_int8_stay_float(model: Model) -> None:
    plan = plan_of("int8", model)
    slow, fast = "mid_block.resnets.0.conv1", "mid_block.resnets.0.conv2"
    seconds: dict[str, Any] = {
        "denoiser": {slow: {"float": 1.0, "int8": 1.2}, fast: {"float": 1.0, "int8": 0.4}}
    }
    found = Tuned({}, seconds).applied(plan, model)
    assert found.layers["denoiser"][slow] == Decision(
        "float", "measured here: int8 takes 1.2e+03 ms, float 1e+03 ms"
    )
    assert found.layers["denoiser"][fast] == plan.layers["denoiser"][fast]
    changed = {
        s for s in plan.layers["denoiser"] if plan.layers["denoiser"][s] != found.layers["denoiser"][s]
    }
    assert changed == {slow}
    stored = Plan("int8-weights", {"denoiser": {slow: Decision("int8-weights", "x")}})
    assert Tuned({}, seconds).applied(stored, model).layers["denoiser"][slow].choice == "int8-weights"


def test_default_extents_are_those_of_the_models_own_size(model: Model) -> None:
    parts = {part.role: part for part in model.parts}
    assert default_extents(model, parts["denoiser"]) == {
        "sample": (8, 8), "encoder_hidden_states": (12,),
    }  # fmt: skip
    assert default_extents(model, parts["encoder"]) == {"sample": (16, 16)}
    assert default_extents(model, parts["decoder"]) == {"latent_sample": (8, 8)}
