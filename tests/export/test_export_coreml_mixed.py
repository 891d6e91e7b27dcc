"""The mixed-bit recipe for Core ML: its trials, how it derives and chooses, and a tiny model end to end."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import log10
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from export_helpers import TINY_TEXT, TINY_UNET, TINY_VAE, model_folder, write_json, write_safetensors

from edgediff.bundle import Bundle
from edgediff.errors import CheckFailed, InputError, UnsupportedError
from edgediff.export.assemble import Asked, assemble
from edgediff.export.coreml import mixed
from edgediff.export.coreml.compress_codes import coded
from edgediff.export.coreml.mixed import least_bytes, recipe
from edgediff.export.coreml.mixed_choice import Chooser
from edgediff.export.coreml.mixed_errors import Course, Measured, course_of, measure
from edgediff.export.coreml.mixed_plan import FLOAT, BitPlan, palettes_for
from edgediff.export.coreml.mixed_storage import plan_bytes
from edgediff.export.coreml.mixed_trials import DecodedTensors, DecodedTrials, as_choices
from edgediff.export.coreml.mixed_units import Group, coded_layers
from edgediff.export.coreml.plan_file import fitted, parse_plan, to_json
from edgediff.export.coreml.schemes import Scheme
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model, Part
from edgediff.export.main import export_onnx
from edgediff.export.quantize.drawings import Drawings, Walk
from edgediff.export.quantize.positions import weight_of
from edgediff.export.quantize.whole import Whole
from edgediff.parts import Parts

pytestmark = pytest.mark.slow

WORDS = ["a b", "c", "ab ab"]
TEXT: dict[str, Any] = {**TINY_TEXT, "num_hidden_layers": 1, "hidden_size": 48, "intermediate_size": 64}
UNET: dict[str, Any] = {
    **TINY_UNET,
    "block_out_channels": [16],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
    "cross_attention_dim": 48,
}
VAE: dict[str, Any] = {**TINY_VAE, "block_out_channels": [16, 16], "mid_block_add_attention": False}
SCHEMES = palettes_for("iOS17", None, None)
BUDGET = 1e9


@dataclass
class Set:
    folder: Path
    parent: Path
    model: Model

    def part(self, role: str) -> Part:
        return next(part for part in self.model.parts if part.role == role)


@cache
def _found(data: bytes, shape: tuple[int, ...], scheme: Scheme) -> np.ndarray[Any, Any]:
    return coded(np.frombuffer(data, np.float32).reshape(shape), scheme)


def once(array: np.ndarray[Any, Any], scheme: Scheme) -> np.ndarray[Any, Any]:
    """What the recipe calls, but for each weight once in all tests."""
    return _found(array.tobytes(), array.shape, scheme)


@pytest.fixture(autouse=True)
def _remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed, "coded", once)


def read(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    return once(array, SCHEMES[name])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Set:
    folder = tmp_path_factory.mktemp("bits")
    model_folder(folder / "model", text=TEXT, unet=UNET, vae=VAE)
    defaults = {"num_inference_steps": 3, "guidance_scale": 1.0}
    write_json(folder / "model" / "edgediff_defaults.json", {"defaults": defaults})
    export_onnx(str(folder / "model"), str(folder / "fp32"), verify=False)
    found = assemble(Asked(str(folder / "model")), lambda line: None)
    return Set(folder, folder / "fp32", stable_diffusion.build(found.source, found.recipe))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def size(plan: BitPlan, model: Model) -> int:
    return plan_bytes(model, plan.layers, SCHEMES)


def uniform(tiny: Set, name: str) -> dict[str, dict[str, str]]:
    return {p.role: {n.scope: name for n in coded_layers(p.graph)} for p in tiny.model.parts}


def psnr(layers: Mapping[str, Mapping[str, str]], tiny: Set, *roles: str) -> float:
    trials = DecodedTrials(tiny.parent, tiny.model, read)
    try:
        whole = Whole(trials, WORDS[:2], None, lambda line: None)
        return whole.psnr(as_choices({role: layers[role] for role in roles}))
    finally:
        trials.close()


def test_a_trial_is_the_model_of_decoded_weights(tiny: Set) -> None:
    """The same as exporting a checkpoint whose weights were replaced."""
    part = tiny.part("denoiser")
    given = {node.scope: "palette-4" for node in coded_layers(part.graph)[::2]}
    tensors = {name: part.tensors.whole(name) for name in part.tensors.entries}
    for node in coded_layers(part.graph):
        if node.scope in given:
            name = part.names[weight_of(node).name]
            tensors[name] = read(tensors[name].astype(np.float32), "palette-4")
    other = tiny.folder / "replaced"
    model_folder(other, text=TEXT, unet=UNET, vae=VAE)
    write_safetensors(other / "unet" / "diffusion_pytorch_model.safetensors", tensors)
    export_onnx(str(other), str(tiny.folder / "replaced-fp32"), verify=False)
    rng = np.random.default_rng(0)
    inputs = {
        "sample": rng.standard_normal((1, 4, 8, 8), np.float32),
        "timestep": np.full(1, 7, np.float32),
        "encoder_hidden_states": rng.standard_normal((1, 12, 48), np.float32),
    }
    trials = DecodedTrials(tiny.parent, tiny.model, read)
    try:
        with trials.bundle_of(as_choices({"denoiser": given})) as bundle:
            found = _run(bundle, inputs)
    finally:
        trials.close()
    wanted = _run(Bundle.open(tiny.folder / "replaced-fp32"), inputs)
    plain = _run(Bundle.open(tiny.parent), inputs)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert np.abs(plain - wanted).max() > 1e-3 * np.abs(wanted).max()


def _run(bundle: Bundle, inputs: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    parts = Parts(bundle, "cpu", verify=False)
    try:
        return next(iter(parts.run("denoiser", inputs).values()))
    finally:
        parts.close()


def test_decoded_tensors_look_like_tensors(tiny: Set) -> None:
    part = tiny.part("denoiser")
    node = coded_layers(part.graph)[0]
    name = part.names[weight_of(node).name]
    other = next(each for each in part.tensors.entries if each != name)
    tensors = DecodedTensors(part.tensors, {name: "palette-2"}, read)
    weight = part.tensors.whole(name).astype(np.float32)
    assert np.array_equal(tensors.whole(name), read(weight, "palette-2"))
    assert np.array_equal(np.concatenate(list(tensors.rows(name, 64))), tensors.whole(name))
    assert len(np.unique(tensors.whole(name))) <= 4
    assert tensors.entries[name].shape == part.tensors.entries[name].shape
    assert np.array_equal(np.concatenate(list(tensors.rows(other, 64))), part.tensors.whole(other))


def test_trials_leave_nothing_and_keep_no_more_than_asked(tiny: Set) -> None:
    before = files(tiny.parent)
    layers = as_choices({"denoiser": uniform(tiny, "palette-4")["denoiser"]})
    errors = []
    for kept in (0, 1 << 30):
        trials = DecodedTrials(tiny.parent, tiny.model, read, kept)
        try:
            drawings = Drawings(trials, WORDS, Walk(2, 2), typical=True)
            assert drawings.error(as_choices({"denoiser": {}})) < 1e-12
            errors.append(drawings.error(layers))
            other = dict.fromkeys(layers["denoiser"], "palette-6")
            drawings.error(as_choices({"denoiser": other}))
            left = {name for name in files(tiny.parent) - before if "decoded" in name}
            assert len(left) == len(other) * (1 if kept == 0 else 2)
            drawings.close()
        finally:
            trials.close()
        assert files(tiny.parent) == before
    assert errors[0] == errors[1] > 1e-9


def test_a_typical_error_is_the_geometric_mean_of_pictures(tiny: Set) -> None:
    """Of one picture it is that picture's; of several their product's root, which is below their mean."""
    layers = as_choices({"denoiser": uniform(tiny, "palette-2")["denoiser"]})
    trials = DecodedTrials(tiny.parent, tiny.model, read)
    errors: dict[tuple[int, bool], float] = {}
    try:
        for count, typical in ((1, False), (1, True), (3, False), (3, True)):
            drawings = Drawings(trials, WORDS, Walk(count, 2), typical=typical)
            errors[count, typical] = drawings.error(layers)
            drawings.close()
    finally:
        trials.close()
    assert errors[1, True] == pytest.approx(errors[1, False], rel=1e-6)
    assert 0.1 * errors[3, False] < errors[3, True] < errors[3, False]


class Proportional:
    """Stands for drawings: errors are each layer's own factor times its noise, times that of some widths."""

    def __init__(self, groups: list[Group], factors: Mapping[str, float], extra: Mapping[str, float]) -> None:
        self._groups = {group.name: group for group in groups}
        self._factors, self._extra = factors, extra
        self.asked: list[tuple[str, str]] = []

    def true(self, name: str, scheme: str) -> float:
        return self._factors[name] * self._groups[name].noise[scheme] * self._extra.get(scheme, 1.0)

    def error(self, choices: Mapping[str, Mapping[str, str]]) -> float:
        ((_, given),) = choices.items()
        ((scope, scheme),) = given.items()
        self.asked.append((scope, scheme))
        return self.true(scope, scheme)


def _groups(count: int) -> list[Group]:
    """Layers of 9216 weights, with the noise of a fine quantizer: a quarter for each bit more."""
    rng = np.random.default_rng(0)
    found = []
    for at in range(count):
        power = 9216 * rng.uniform(0.01, 4)
        noise = {n: power * rng.uniform(0.8, 1.2) * 4.0**-scheme.bits for n, scheme in SCHEMES.items()}
        sizes = {FLOAT: 2 * 9216} | {n: 9216 * scheme.bits // 8 for n, scheme in SCHEMES.items()}
        found.append(Group("denoiser", f"layer.{at}", (f"layer.{at}",), sizes, {FLOAT: 0.0, **noise}))
    return found


@pytest.mark.parametrize("widths", [("palette-6",), ("palette-4",), ("palette-6", "palette-4")])
def test_errors_of_other_widths_follow_from_noise(widths: tuple[str, ...]) -> None:
    """Where errors are proportional to noise, but for a factor that all layers of a width share."""
    groups = _groups(24)
    rng = np.random.default_rng(1)
    fake = Proportional(groups, {g.name: 10 ** rng.uniform(-9, -3) for g in groups}, {"palette-1": 3.0})
    course = Course(Walk(1, None), {"denoiser": widths}, {"denoiser": None})
    found = measure(cast(Drawings, fake), groups, course, lambda line: None)
    for each in found:
        for name in SCHEMES:
            assert each.errors[name] == pytest.approx(fake.true(each.group.name, name), rel=1e-6)
        assert each.errors[FLOAT] == 0
    assert len(fake.asked) == len(set(fake.asked)) == 24 * len(widths) + 8 * (len(SCHEMES) - len(widths))


def test_weights_that_a_palette_holds_are_not_tried() -> None:
    group = Group("denoiser", "still", ("still",), {FLOAT: 9, "palette-6": 3}, {FLOAT: 0.0, "palette-6": 0.0})
    fake = Proportional([group], {}, {})
    course = Course(Walk(1, None), {"denoiser": ("palette-6",)}, {"denoiser": None})
    found = measure(cast(Drawings, fake), [group], course, lambda line: None)
    assert found[0].errors == {FLOAT: 0.0, "palette-6": 0.0}
    assert not fake.asked


class Additive:
    """Stands for the whole: errors add up, times a constant that nobody knows."""

    def __init__(self, measured: list[Measured], factor: float) -> None:
        self._errors, self._factor = {each.group.name: each.errors for each in measured}, factor
        self.count = 0

    def psnr(self, choices: Mapping[str, Mapping[str, str]]) -> float:
        self.count += 1
        total = sum(self._errors[s][n] for given in choices.values() for s, n in given.items())
        return 99.0 if total == 0 else -10 * log10(self._factor * total)


@pytest.mark.parametrize("factor", [0.2, 1.0, 9.0])
def test_the_choice_holds_the_floor_in_the_fewest_bytes(factor: float) -> None:
    """Against all choices tried one by one."""
    groups = _groups(5)
    rng = np.random.default_rng(2)
    measured = [
        Measured(group, {n: s * noise for n, noise in group.noise.items()})
        for group, s in zip(groups, 10 ** rng.uniform(-8, -5, 5), strict=True)
    ]
    whole = Additive(measured, factor)
    chooser = Chooser(measured, cast(Whole, whole), 7, lambda line: None)
    picked = chooser.holding(35.0)
    taken = sum(each.group.bytes[picked["denoiser", each.group.name]] for each in measured)
    best = min(
        sum(m.group.bytes[n] for m, n in zip(measured, names, strict=True))
        for names in itertools.product(*(m.group.options for m in measured))
        if factor * sum(m.errors[n] for m, n in zip(measured, names, strict=True)) <= 10**-3.5
    )
    assert factor * sum(m.errors[picked["denoiser", m.group.name]] for m in measured) <= 10**-3.5
    assert best <= taken <= 1.12 * best
    assert whole.count <= 7
    held = chooser.fitting(best)
    assert held is not None
    assert sum(m.group.bytes[held["denoiser", m.group.name]] for m in measured) <= best
    assert chooser.fitting(0) is None


def test_a_floor_is_held_in_fewer_bytes_than_one_width_takes(tiny: Set) -> None:
    lines: list[str] = []
    before = files(tiny.parent)
    plan = recipe(
        tiny.parent, tiny.model, target="iOS17", min_psnr=40.0, prompts=WORDS, evaluation=WORDS[:2],
        budget=BUDGET, report=lines.append,
    )  # fmt: skip
    assert files(tiny.parent) == before
    assert psnr(plan.layers, tiny, "text_encoder", "denoiser") >= 40.0
    for role in ("decoder", "encoder"):
        assert psnr(plan.layers, tiny, role) >= 40.0
    # One width for all layers that takes as few bytes, or fewer, does not hold it.
    smaller = [
        name for name in SCHEMES
        if plan_bytes(tiny.model, uniform(tiny, name), SCHEMES) <= size(plan, tiny.model)
    ]  # fmt: skip
    assert smaller
    for name in smaller[:1]:
        reached = [
            psnr(uniform(tiny, name), tiny, *roles)
            for roles in (("text_encoder", "denoiser"), ("decoder",), ("encoder",))
        ]
        assert min(reached) < 40.0
    assert plan.floor == {"min_psnr": 40.0}
    assert plan.sensitivity["denoiser"]
    assert fitted(parse_plan(to_json(plan), "x"), tiny.model) == plan
    again = recipe(
        tiny.parent, tiny.model, target="iOS17", min_psnr=40.0, prompts=WORDS, evaluation=WORDS[:2],
        budget=BUDGET,
    )  # fmt: skip
    assert to_json(again) == to_json(plan)
    assert any("dB of final latents" in line for line in lines)


@pytest.mark.slow
def test_bytes_are_held_and_used(tiny: Set) -> None:
    least, most = least_bytes(tiny.model, SCHEMES), plan_bytes(tiny.model, {}, SCHEMES)
    ratios = []
    for share in (0.2, 0.6):
        limit = (least + share * (most - least)) / 1e6
        plan = recipe(
            tiny.parent, tiny.model, target="iOS17", max_size=limit, prompts=WORDS, evaluation=WORDS[:2],
            budget=BUDGET,
        )  # fmt: skip
        assert 0.9 * limit * 1e6 < size(plan, tiny.model) <= limit * 1e6
        ratios.append(psnr(plan.layers, tiny, "text_encoder", "denoiser"))
    assert ratios[0] < ratios[1]


def test_what_cannot_be_is_refused_before_any_work(tiny: Set) -> None:
    lines: list[str] = []
    least = least_bytes(tiny.model, SCHEMES)
    given: dict[str, Any] = {"target": "iOS17", "prompts": WORDS, "report": lines.append}
    for bounds, kind, message in (
        ({"max_size": 0.99 * least / 1e6}, InputError, "the smallest plan has"),
        ({"max_size": -1.0}, InputError, "above 0"),
        ({"min_psnr": float("nan")}, InputError, "above 0"),
        ({"granularity": "per-grouped-channel"}, UnsupportedError, "iOS 18"),
        ({"granularity": "per-layer"}, InputError, "granularity"),
        ({"group_size": 8}, InputError, "group-size"),
    ):
        with pytest.raises(kind, match=message):
            recipe(tiny.parent, tiny.model, **given, **bounds)
    assert not lines


@pytest.mark.slow
def test_a_quality_that_takes_more_room_fails(tiny: Set) -> None:
    least = least_bytes(tiny.model, SCHEMES)
    with pytest.raises(CheckFailed, match="MB of weights"):
        recipe(
            tiny.parent, tiny.model, target="iOS17", min_psnr=70.0, max_size=1.05 * least / 1e6,
            prompts=WORDS, evaluation=WORDS[:2], budget=BUDGET,
        )  # fmt: skip


def test_a_budget_decides_how_fine_it_looks(tiny: Set) -> None:
    trials = DecodedTrials(tiny.parent, tiny.model, read)
    try:
        small, middle, large = (course_of(trials, WORDS[0], each) for each in (1e6, 2e9, 1e12))
    finally:
        trials.close()
    assert small.coarse
    assert small.depths["denoiser"] is not None
    assert small.walk.prompts == 1
    assert len(small.widths["denoiser"]) == 1
    assert not middle.coarse
    assert not large.coarse
    assert len(large.widths["denoiser"]) == 3
    assert large.walk.prompts == 16
