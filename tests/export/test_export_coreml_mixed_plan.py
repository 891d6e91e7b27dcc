"""A plan of bits as a file, its names in programs, and the bytes that it says packages will take."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from export_helpers import model_folder
from family_folders import control_folder

from edgediff.errors import EdgediffError, InputError, SourceError, UnsupportedError
from edgediff.export.assemble import Asked, assemble
from edgediff.export.coreml.mixed_plan import FLOAT, PALETTES, BitPlan, consts, palettes_for
from edgediff.export.coreml.mixed_storage import plan_bytes, weight_bytes
from edgediff.export.coreml.mixed_units import coded_layers, depth_for, groups_of
from edgediff.export.coreml.plan_file import FORMAT, fitted, parse_plan, read_plan, to_json
from edgediff.export.emit.mil_names import mil_name
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model
from edgediff.export.quantize.plan_file import to_json as onnx_json
from edgediff.export.quantize.positions import layers_of, weight_of
from edgediff.export.quantize.schemes import plan_of

SCOPE = "mid_block.resnets.0.conv1"


def built(folder: Path, **choices: Any) -> Model:
    found = assemble(Asked(str(folder), **choices), lambda line: None)
    return stable_diffusion.build(found.source, found.recipe)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return built(model_folder(tmp_path_factory.mktemp("bits") / "model"))


@pytest.fixture
def plan(model: Model) -> BitPlan:
    layers = {
        part.role: {node.scope: (FLOAT, *PALETTES)[at % 5] for at, node in enumerate(layers_of(part.graph))}
        for part in model.parts
    }
    kinds = {part.role: {node.scope: node.op for node in layers_of(part.graph)} for part in model.parts}
    sensitivity = {"denoiser": {SCOPE: {"palette-8": 61.25, "palette-4": 40.0}}}
    return BitPlan(layers, kinds, None, None, sensitivity, {"min_psnr": 35.0}, {"family": "tiny"})


def test_what_is_written_is_read_back(plan: BitPlan, tmp_path: Path) -> None:
    for each in (plan, replace(plan, granularity="per-grouped-channel", group_size=8)):
        file = tmp_path / "quantization.json"
        file.write_bytes(to_json(each))
        assert read_plan(file) == each
        assert to_json(read_plan(file)) == to_json(each)


def _told(plan: BitPlan, change: Callable[[dict[str, Any]], Any]) -> bytes:
    told = json.loads(to_json(plan))
    change(told)
    return json.dumps(told).encode()


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another format": (lambda t: t.update(format="edgediff-bits/2"), "plans of bits for Core ML are"),
    "no format": (lambda t: t.pop("format"), "its format is missing"),
    "no layers": (lambda t: t.pop("layers"), "layers: is missing"),
    "layers as a list": (lambda t: t.update(layers=[]), "expected an object"),
    "an unknown scheme": (lambda t: t["layers"]["denoiser"].update(conv_in="palette-5"), "gets 'palette-5'"),
    "a scheme of ONNX": (lambda t: t["layers"]["denoiser"].update(conv_in="int8"), "gets 'int8'"),
    "a scheme that is no word": (lambda t: t["layers"]["denoiser"].update(conv_in=8), "expected a word"),
    "a kind that is no word": (lambda t: t["kinds"]["denoiser"].update(conv_in=None), "expected a word"),
    "an unknown granularity": (lambda t: t.update(granularity="per-layer"), "known are per-tensor"),
    "a granularity that is a list": (lambda t: t.update(granularity=[]), "known are per-tensor"),
    "a group of none": (lambda t: t.update(group_size=0), "expected a number of channels"),
    "a group of halves": (lambda t: t.update(group_size=1.5), "expected a number of channels"),
    "a bound that is no number": (lambda t: t.update(floor={"min_psnr": "35"}), "expected a number"),
    "a ratio that is no number": (
        lambda t: t["sensitivity"]["denoiser"][SCOPE].update({"palette-4": True}),
        "expected a number",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_plan_can_say_is_refused(name: str, plan: BitPlan) -> None:
    change, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        parse_plan(_told(plan, change), "plan.json")


def test_a_plan_of_onnx_is_told_apart(model: Model) -> None:
    with pytest.raises(InputError, match="This one is for 'edgediff export onnx'"):
        parse_plan(onnx_json(plan_of("int8", model)), "plan.json")


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b'{"format": "a", "format": "b"}', b"\xff", b'{"floor": NaN}', b"[" * 100_000],
    ids=["cut", "list", "twice", "not-utf-8", "nan", "deep"],
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError, match=r"plan\.json"):
        parse_plan(data, "plan.json")


def test_files_that_cannot_be_plans_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_plan(path)
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(9 << 20)
    with pytest.raises(InputError, match="larger than"):
        read_plan(large)


def test_a_plan_by_hand_needs_no_more_than_layers(model: Model) -> None:
    told = {"format": FORMAT, "layers": {"denoiser": {SCOPE: "palette-6"}}}
    found = fitted(parse_plan(json.dumps(told).encode(), "by hand"), model)
    assert found.layers["denoiser"][SCOPE] == "palette-6"
    assert set(found.layers["denoiser"].values()) == {"palette-6", FLOAT}
    assert set(found.layers["decoder"].values()) == {FLOAT}
    part = next(part for part in model.parts if part.role == "denoiser")
    assert {name: each.bits for name, each in consts(found, part, "iOS17").items()} == {
        mil_name(f"{SCOPE}.weight"): 6
    }


def test_a_plan_fits_a_fine_tune(plan: BitPlan, tmp_path: Path) -> None:
    found = fitted(plan, built(model_folder(tmp_path / "tuned")))
    assert found == plan


def test_a_plan_for_another_model_is_refused(plan: BitPlan, model: Model) -> None:
    deeper = {f"down_blocks.0.resnets.{at}.conv1": "palette-6" for at in range(9)}
    with pytest.raises(InputError, match=r"has no layer down_blocks\.0\.resnets\.1\.conv1.* and 3 more"):
        fitted(replace(plan, layers={"denoiser": deeper}), model)
    with pytest.raises(InputError, match="is for a model with painter"):
        fitted(replace(plan, layers={"painter": {}}), model)
    with pytest.raises(InputError, match="was a linear layer where the plan"):
        fitted(replace(plan, kinds={"denoiser": {SCOPE: "linear"}}), model)


def test_forms_of_one_network_get_one_scheme(plan: BitPlan, tmp_path: Path) -> None:
    steered = built(model_folder(tmp_path / "model"), controlnets=[str(control_folder(tmp_path / "control"))])
    only = replace(plan, layers={"denoiser": plan.layers["denoiser"]})
    found = fitted(only, steered)
    assert found.layers["controlled_denoiser"] == found.layers["denoiser"]
    layers = {"denoiser": {SCOPE: "palette-4"}, "controlled_denoiser": {SCOPE: "palette-6"}}
    with pytest.raises(InputError, match="gets palette-4 in one graph"):
        fitted(replace(plan, layers=layers), steered)


def test_names_of_constants_are_those_of_programs(plan: BitPlan, model: Model) -> None:
    for part in model.parts:
        found = consts(plan, part, "iOS18")
        coded = {s: n for s, n in plan.layers[part.role].items() if n != FLOAT}
        assert len(found) == len(coded)
        for node in layers_of(part.graph):
            if node.scope in coded:
                assert found[mil_name(weight_of(node).name)].name == coded[node.scope]


def test_schemes_that_a_target_cannot_read_are_refused(plan: BitPlan, model: Model) -> None:
    part = model.parts[0]
    three = replace(plan, layers={part.role: {layers_of(part.graph)[0].scope: "palette-3"}})
    with pytest.raises(UnsupportedError, match="iOS 18"):
        consts(three, part, "iOS17")
    grouped = replace(plan, granularity="per-grouped-channel")
    with pytest.raises(UnsupportedError, match="iOS 18"):
        consts(grouped, part, "iOS17")
    assert "palette-3" not in palettes_for("iOS17", None, None)
    assert "palette-3" in palettes_for("iOS18", "per-grouped-channel", 8)
    with pytest.raises(EdgediffError):
        palettes_for("iOS17", "per-grouped-channel", None)


def test_bytes_are_those_of_bits_and_tables(model: Model) -> None:
    part = next(part for part in model.parts if part.role == "denoiser")
    node = max(coded_layers(part.graph), key=lambda node: weight_of(node).size)
    size, schemes = weight_of(node).size, palettes_for("iOS18", None, None)
    for scheme in schemes.values():
        exact = size * scheme.bits / 8 + 2 * 2**scheme.bits
        assert exact <= weight_bytes(node, scheme, 2) <= exact + 4 * 64
    assert 2 * size <= weight_bytes(node, None, 2) <= 2 * size + 128
    grouped = palettes_for("iOS18", "per-grouped-channel", 4)["palette-4"]
    more = weight_bytes(node, grouped, 2) - weight_bytes(node, schemes["palette-4"], 2)
    tables = weight_of(node).shape[0] // 4
    assert (tables - 1) * 32 - 64 <= more <= (tables - 1) * 32 + 64


def test_bytes_of_a_plan_add_up(plan: BitPlan, model: Model) -> None:
    schemes = palettes_for("iOS18", None, None)
    most = plan_bytes(model, {}, schemes)
    numbers = sum(each.size for part in model.parts for each in part.graph.parameters)
    assert 2 * numbers <= most <= 2 * numbers + 192 * sum(len(p.graph.parameters) for p in model.parts)
    part = next(part for part in model.parts if part.role == "denoiser")
    node = max(coded_layers(part.graph), key=lambda node: weight_of(node).size)
    less = plan_bytes(model, {"denoiser": {node.scope: "palette-4"}}, schemes)
    assert most - less == weight_bytes(node, None, 2) - weight_bytes(node, schemes["palette-4"], 2)


def test_blocks_hold_every_layer_once(model: Model) -> None:
    part = next(part for part in model.parts if part.role == "denoiser")
    schemes, nodes = palettes_for("iOS17", None, None), coded_layers(part.graph)
    for most in (1, 2, 4, len(nodes)):
        depth = depth_for(part, most)
        groups = groups_of(part, schemes, lambda w, name: 1.0, 2, depth, 1)
        assert len(groups) <= most
        assert sorted(s for g in groups for s in g.scopes) == sorted(node.scope for node in nodes)
        assert sum(g.noise["palette-4"] for g in groups) == len(nodes)
    twice = groups_of(part, schemes, lambda w, name: 1.0, 2, None, 2)
    assert [2 * size for size in groups[0].bytes.values()] == list(twice[0].bytes.values())
