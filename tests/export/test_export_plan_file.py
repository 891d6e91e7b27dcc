"""A plan as a file: written and read back, refused where it is wrong, fitted to a fine-tune."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from export_helpers import TINY_UNET, model_folder
from family_folders import control_folder

from edgediff.errors import EdgediffError, InputError, SourceError
from edgediff.export.assemble import Asked, assemble
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model
from edgediff.export.quantize.plan import Decision, Plan
from edgediff.export.quantize.plan_file import FORMAT, fitted, parse_plan, read_plan, to_json
from edgediff.export.quantize.schemes import plan_of


def built(folder: Path, **choices: Any) -> Model:
    found = assemble(Asked(str(folder), **choices), lambda line: None)
    return stable_diffusion.build(found.source, found.recipe)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return built(model_folder(tmp_path_factory.mktemp("plan") / "model"))


@pytest.fixture
def plan(model: Model) -> Plan:
    sensitivity = {"denoiser": {"conv_in": {"int8-weights": 61.25, "int4-weights": 40.0}}}
    return replace(plan_of("int8", model), sensitivity=sensitivity, floor={"min_psnr": 35.0})


def test_what_is_written_is_read_back(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "quantization.json"
    file.write_bytes(to_json(plan))
    found = read_plan(file)
    assert found == plan
    assert to_json(found) == to_json(plan)


def test_the_file_says_what_each_layer_gets(plan: Plan) -> None:
    told = json.loads(to_json(plan))
    assert told["format"] == FORMAT
    assert told["layers"]["denoiser"]["conv_in"] == "float"
    assert told["floor"] == {"min_psnr": 35.0}
    assert told["sensitivity"]["denoiser"]["conv_in"]["int8-weights"] == 61.25


def test_a_plan_by_hand_needs_no_more_than_choices(model: Model) -> None:
    scope = "mid_block.resnets.0.conv1"
    told = {"format": FORMAT, "scheme": "mixed", "layers": {"denoiser": {scope: "int8-weights"}}}
    found = fitted(parse_plan(json.dumps(told).encode(), "by hand"), model)
    assert found.choices("denoiser")[scope] == "int8-weights"
    assert set(found.choices("denoiser").values()) == {"int8-weights", "float"}
    assert set(found.choices("decoder").values()) == {"float"}
    assert "does not mention" in found.layers["decoder"]["decoder.conv_in"].reason


def _told(plan: Plan, change: Callable[[dict[str, Any]], None]) -> bytes:
    told = json.loads(to_json(plan))
    change(told)
    return json.dumps(told).encode()


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another format": (lambda t: t.update(format="edgediff-plan/2"), "reads plans of edgediff-plan/1"),
    "no format": (lambda t: t.pop("format"), "its format is missing"),
    "unknown scheme": (lambda t: t.update(scheme="int3"), "scheme 'int3' is unknown"),
    "no layers": (lambda t: t.pop("layers"), "layers: is missing"),
    "layers as a list": (lambda t: t.update(layers=[]), "expected an object"),
    "unknown choice": (lambda t: t["layers"]["denoiser"].update(conv_in="int2"), "gets 'int2'"),
    "a choice that is no word": (lambda t: t["layers"]["denoiser"].update(conv_in=8), "expected a word"),
    "a kind that is no word": (lambda t: t["kinds"]["denoiser"].update(conv_in=None), "expected a word"),
    "a bound that is no number": (lambda t: t.update(floor={"min_psnr": "35"}), "expected a number"),
    "a ratio that is no number": (
        lambda t: t["sensitivity"]["denoiser"]["conv_in"].update(int8=True),
        "expected a number",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_plan_can_say_is_refused(name: str, plan: Plan) -> None:
    change, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        parse_plan(_told(plan, change), "plan.json")


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b'{"format": "a", "format": "b"}', b"\xff", b'{"floor": NaN}', b"[" * 100_000],
    ids=["cut", "list", "twice", "not-utf-8", "nan", "deep"],
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError, match=r"plan\.json"):
        parse_plan(data, "plan.json")


def test_files_that_cannot_be_plans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(tmp_path / "nothing.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(tmp_path)
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(9 << 20)
    with pytest.raises(InputError, match="larger than"):
        read_plan(large)


def test_a_recipe_fits_a_fine_tune(plan: Plan, tmp_path: Path) -> None:
    other = built(model_folder(tmp_path / "tuned"))
    found = fitted(plan, other)
    assert found.layers == plan.layers
    assert found.kinds == plan.kinds


def test_a_recipe_for_another_architecture_is_refused(plan: Plan, tmp_path: Path) -> None:
    deeper = {**TINY_UNET, "layers_per_block": 2}
    large = plan_of("int8", built(model_folder(tmp_path / "deeper", unet=deeper)))
    small = built(model_folder(tmp_path / "small"))
    with pytest.raises(InputError, match=r"denoiser has no layer down_blocks\.0\.resnets\.1\.conv1.* more"):
        fitted(large, small)


def test_a_layer_of_another_kind_is_refused(plan: Plan, tmp_path: Path) -> None:
    linear = built(model_folder(tmp_path / "linear", unet={**TINY_UNET, "use_linear_projection": True}))
    with pytest.raises(InputError, match="proj_in is a linear layer here, and was a conv layer"):
        fitted(plan, linear)


def test_a_table_computes_nothing(model: Model) -> None:
    scope = "text_model.embeddings.token_embedding"
    plan = Plan("mixed", {"text_encoder": {scope: Decision("int8", "by hand")}})
    with pytest.raises(InputError, match="is a table"):
        fitted(plan, model)


def test_networks_that_are_not_there_are_named(model: Model) -> None:
    plan = Plan("mixed", {"control": {"conv_in": Decision("float", "by hand")}})
    with pytest.raises(InputError, match=r"is for a model with control; this one has .*denoiser"):
        fitted(plan, model)


def test_a_second_form_of_a_network_takes_what_is_said_of_the_first(plan: Plan, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    steered = built(folder, controlnets=[str(control_folder(tmp_path / "control"))])
    found = fitted(plan, steered)
    assert found.choices("controlled_denoiser") == plan.choices("denoiser")
    assert set(found.choices("control").values()) == {"float"}
    torn = replace(found, layers={**found.layers, "controlled_denoiser": {"conv_in": Decision("int8", "x")}})
    with pytest.raises(InputError, match="share its weights"):
        fitted(torn, steered)


def test_every_refusal_is_an_error_of_ours() -> None:
    with pytest.raises(EdgediffError):
        parse_plan(b"", "plan.json")
