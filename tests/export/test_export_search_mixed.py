"""The search for a mixed plan, on a tiny model from end to end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from export_helpers import TINY_TEXT, TINY_UNET, TINY_VAE, model_folder, write_json

from edgediff.errors import CheckFailed
from edgediff.export.assemble import Asked, assemble
from edgediff.export.emit.integers import Span
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model
from edgediff.export.main import export_onnx
from edgediff.export.quantize.calibrate import calibrate
from edgediff.export.quantize.drawings import Drawings, Walk
from edgediff.export.quantize.plan import Plan
from edgediff.export.quantize.plan_file import fitted, parse_plan, to_json
from edgediff.export.quantize.schemes import plan_of
from edgediff.export.quantize.search import search
from edgediff.export.quantize.sensitivity import course_of, measure
from edgediff.export.quantize.storage import plan_bytes
from edgediff.export.quantize.trials import Trials
from edgediff.export.quantize.units import depth_for, searched, units_of
from edgediff.export.quantize.whole import Whole

WORDS = ["a b", "c", "ab ab"]
# Wide enough for blocks of 16 weights, with few enough layers to be searched in seconds.
TEXT: dict[str, Any] = {**TINY_TEXT, "num_hidden_layers": 1}
UNET: dict[str, Any] = {
    **TINY_UNET,
    "block_out_channels": [16],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
}
VAE: dict[str, Any] = {**TINY_VAE, "block_out_channels": [16, 16], "mid_block_add_attention": False}


@dataclass
class Set:
    parent: Path
    model: Model
    spans: dict[str, dict[int, Span]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Set:
    folder = tmp_path_factory.mktemp("search")
    model_folder(folder / "model", text=TEXT, unet=UNET, vae=VAE)
    defaults = {"num_inference_steps": 3, "guidance_scale": 1.0}
    write_json(folder / "model" / "edgediff_defaults.json", {"defaults": defaults})
    export_onnx(str(folder / "model"), str(folder / "fp32"), verify=False)
    found = assemble(Asked(str(folder / "model")), lambda line: None)
    model = stable_diffusion.build(found.source, found.recipe)
    spans = calibrate(folder / "fp32", model, plan_of("int8", model), prompts=WORDS)
    return Set(folder / "fp32", model, spans)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def size(plan: Plan, model: Model) -> int:
    return plan_bytes(model, {role: plan.choices(role) for role in plan.layers})


def psnr(plan: Plan, tiny: Set) -> float:
    trials = Trials(tiny.parent, tiny.model, tiny.spans)
    try:
        whole = Whole(trials, WORDS[:2], None, lambda line: None)
        return whole.psnr({role: plan.choices(role) for role in ("text_encoder", "denoiser")})
    finally:
        trials.close()


def test_errors_of_layers_add_up(tiny: Set) -> None:
    """What one layer at a time does, summed, is what all of them do: the assumption of the search."""
    trials = Trials(tiny.parent, tiny.model, tiny.spans)
    try:
        drawings = Drawings(trials, WORDS, Walk(3, 2))
        units = units_of(searched(tiny.model)[1], tiny.spans["denoiser"])
        given = [u.choices["int4-weights"] for u in units if "int4-weights" in u.options]
        alone = sum(drawings.error({"denoiser": each}) for each in given)
        together = drawings.error({"denoiser": {s: c for each in given for s, c in each.items()}})
        assert 0.4 * alone <= together <= 2.5 * alone
        drawings.close()
    finally:
        trials.close()


def test_nothing_quantized_is_no_error(tiny: Set) -> None:
    trials = Trials(tiny.parent, tiny.model, tiny.spans)
    before = files(tiny.parent)
    try:
        drawings = Drawings(trials, WORDS, Walk(2, 2))
        for role in ("denoiser", "decoder", "text_encoder"):
            assert drawings.error({role: {}}) < 1e-12
        drawings.close()
    finally:
        trials.close()
    assert files(tiny.parent) == before


def test_a_floor_is_held_in_the_fewest_bytes(tiny: Set) -> None:
    lines: list[str] = []
    before = files(tiny.parent)
    plan = search(
        tiny.parent, tiny.model, tiny.spans, min_psnr=50.0, prompts=WORDS, evaluation=WORDS[:2],
        budget=2e9, report=lines.append,
    )  # fmt: skip
    assert files(tiny.parent) == before
    assert psnr(plan, tiny) >= 50.0
    smallest, eight = (size(plan_of(s, tiny.model), tiny.model) for s in ("int4-weights", "int8-weights"))
    assert smallest < size(plan, tiny.model) < 1.1 * eight
    assert psnr(plan_of("int4-weights", tiny.model), tiny) < 50.0
    assert plan.scheme == "mixed"
    assert plan.floor == {"min_psnr": 50.0}
    assert plan.layers["denoiser"]["conv_in"].choice == "float"
    for scope, choice in plan.choices("denoiser").items():
        if scope.endswith(("attn2.to_k", "attn2.to_v")):
            assert choice in ("float", "int8-weights")
    assert any("tried" in line for line in lines)
    assert fitted(parse_plan(to_json(plan), "plan"), tiny.model).layers == plan.layers


def test_a_size_is_held_at_the_best_quality(tiny: Set) -> None:
    smallest = size(plan_of("int4-weights", tiny.model), tiny.model)
    most = 1.2 * smallest / 1e6
    plan = search(
        tiny.parent, tiny.model, tiny.spans, max_size=most, prompts=WORDS, evaluation=WORDS[:2], budget=2e9
    )
    assert size(plan, tiny.model) <= most * 1e6
    assert psnr(plan, tiny) > psnr(plan_of("int4-weights", tiny.model), tiny)
    ratios = plan.sensitivity["denoiser"]
    assert all(set(each) <= {"int8", "int8-weights", "int4-weights"} for each in ratios.values())


def test_bounds_that_cannot_be_held_say_so(tiny: Set) -> None:
    with pytest.raises(CheckFailed, match=r"max_size 0\.001 MB: the smallest plan has"):
        search(tiny.parent, tiny.model, tiny.spans, max_size=0.001, prompts=WORDS, evaluation=WORDS[:1],
               budget=1e6)  # fmt: skip
    with pytest.raises(CheckFailed, match=r"take .* MB of weights"):
        search(tiny.parent, tiny.model, tiny.spans, min_psnr=50.0, max_size=0.001, prompts=WORDS,
               evaluation=WORDS[:1], budget=1e6)  # fmt: skip


def test_a_small_budget_takes_blocks_of_layers(tiny: Set) -> None:
    trials = Trials(tiny.parent, tiny.model, tiny.spans)
    try:
        fine, coarse = course_of(trials, WORDS[0], 1e12), course_of(trials, WORDS[0], 1e7)
        assert not fine.coarse & {"denoiser", "text_encoder"}
        assert {"denoiser", "text_encoder"} <= coarse.coarse
        assert len(coarse.units) < len(fine.units)
        assert coarse.walk == Walk(1, 2, guided=False)
        layers = [sorted(s for u in each.units if u.role == "denoiser" for s in u.choices["float"])
                  for each in (fine, coarse)]  # fmt: skip
        assert layers[0] == layers[1]  # the same layers, in fewer units
        drawings = Drawings(trials, WORDS, coarse.walk)
        measured = measure(drawings, coarse, lambda line: None)
        drawings.close()
        assert [each.unit for each in measured] == list(coarse.units)
        for each in measured:
            assert set(each.errors) == set(each.unit.options)
            assert each.errors["float"] == 0.0
    finally:
        trials.close()


def test_units_cover_what_can_change(tiny: Set) -> None:
    part = searched(tiny.model)[1]
    assert part.role == "denoiser"
    spans = tiny.spans["denoiser"]
    alone, blocks = units_of(part, spans), units_of(part, spans, 2)
    assert sorted(s for u in alone for s in u.choices["float"]) == sorted(
        s for u in blocks for s in u.choices["float"]
    )
    assert depth_for(part, spans, len(alone)) is None
    depth = depth_for(part, spans, 4)
    assert depth is not None
    assert len(units_of(part, spans, depth)) <= 4
    # Without spans nothing can compute in int8.
    kinds = Counter(choice for unit in units_of(part, {}) for choice in unit.options)
    assert "int8" not in kinds
    mixed = next(unit for unit in blocks if unit.name == "up_blocks.0")
    keys = mixed.choices["int4-weights"]
    assert keys["up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"] == "int8-weights"
    assert keys["up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"] == "int4-weights"


def test_a_bound_on_seconds_is_measured_here(tiny: Set) -> None:
    def within(seconds: float) -> Plan:
        return search(
            tiny.parent, tiny.model, tiny.spans, max_latency=seconds, prompts=WORDS, evaluation=WORDS[:1],
            budget=1e6, threads=1,
        )  # fmt: skip

    plan = within(1000.0)
    assert set(plan.choices("denoiser").values()) == {"float"}  # with so much time nothing needs be lost
    assert plan.choices("text_encoder") == plan_of("int8", tiny.model).choices("text_encoder")
    assert plan.floor == {"max_seconds": 1000.0}
    with pytest.raises(CheckFailed, match=r"max_latency 1e-09 s: a pass of the denoiser takes"):
        within(1e-9)
