"""Calibration: every value an int8 layer needs, measured on the bundle's own trajectory, within a budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_helpers import model_folder, write_safetensors
from family_folders import FAMILIES, change

from edgediff.bundle import Bundle
from edgediff.errors import NumericError, UnsupportedError
from edgediff.export.assemble import Asked, assemble
from edgediff.export.emit.integers import LAYERS, observed
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model
from edgediff.export.main import export_onnx
from edgediff.export.quantize.budget import PROMPTS, course, work_of
from edgediff.export.quantize.calibrate import calibrate, observe
from edgediff.export.quantize.plan import Decision, Plan
from edgediff.export.quantize.prompts import CAPTIONS
from edgediff.export.quantize.trajectory import Watched, asked, draw, passes
from edgediff.export.tensors import TensorFiles

WORDS = ["a b", "c", "ab ab"]


def built(folder: Path, **choices: Any) -> tuple[Path, Model]:
    """The float bundle of a model's folder, and the model as the exporter has it."""
    out = folder.with_name(f"{folder.name}-fp32")
    export_onnx(str(folder), str(out), verify=False, **choices)
    found = assemble(Asked(str(folder), **choices), lambda line: None)
    return out, stable_diffusion.build(found.source, found.recipe)


def everything(model: Model, *roles: str) -> Plan:
    """All layers in int8, of all roles unless some are named."""
    layers = {
        part.role: {node.scope: Decision("int8", "test") for node in part.graph.nodes if node.op in LAYERS}
        for part in model.parts
        if not roles or part.role in roles
    }
    return Plan("int8", layers)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    folder = model_folder(tmp_path_factory.mktemp("calibrate") / "model")
    change(folder / "scheduler" / "scheduler_config.json", _class_name="DDIMScheduler")
    return built(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_value_that_is_needed_gets_a_span(tmp_path: Path, family: str) -> None:
    folder, choices = FAMILIES[family](tmp_path)
    parent, model = built(folder, **choices)
    plan = everything(model)
    files = sorted(parent.rglob("*"))
    few = 12 * sum(work_of(model).values())
    spans = observe(parent, model, plan, prompts=WORDS, budget=few).spans
    for part in model.parts:
        needed = {value.id for value in observed(part.graph, plan.choices(part.role))}
        assert set(spans[part.role]) == needed
        assert all(span.low <= 0 <= span.high and span.low < span.high for span in spans[part.role].values())
    assert sorted(parent.rglob("*")) == files
    Bundle.open(parent).verify()


def test_it_is_the_same_every_time(tiny: tuple[Path, Model]) -> None:
    parent, model = tiny
    plan = everything(model, "denoiser", "decoder")
    first, second = (calibrate(parent, model, plan, prompts=WORDS, threads=1) for _ in range(2))
    assert first == second
    other = calibrate(parent, model, plan, prompts=["o n m l k", "j i h"], threads=1)
    assert other != first


def test_nothing_is_drawn_for_nothing(tiny: tuple[Path, Model]) -> None:
    parent, model = tiny
    found = observe(parent, model, Plan("int8-weights", {}), prompts=WORDS)
    assert found.spans == {}
    assert found.course is None


def test_ends_are_those_of_the_trajectory(tiny: tuple[Path, Model]) -> None:
    """The input of the first layer is the sample that every pass was given: here they are counted by hand."""
    parent, model = tiny
    given: list[np.ndarray[Any, Any]] = []

    def seen(role: str, inputs: Any, outputs: Any) -> Any:
        if role == "denoiser":
            given.append(inputs["sample"])
        return outputs

    parts = Watched(Bundle.open(parent), "cpu", options={"threads": 1}, verify=False)
    parts.seen = seen
    for i, words in enumerate(WORDS[:2]):
        for _ in draw(parts, [asked(parts.bundle, [words], [i])], decoded=False):
            pass
    parts.close()
    found = observe(parent, model, everything(model, "denoiser"), prompts=WORDS[:2], threads=1)
    graph = next(part.graph for part in model.parts if part.role == "denoiser")
    sample = found.seen["denoiser"][graph.inputs[0].value.id]
    assert sample.low == pytest.approx(min(float(x.min()) for x in given), abs=1e-4)
    assert sample.high == pytest.approx(max(float(x.max()) for x in given), abs=1e-4)
    spread = np.concatenate([x.ravel() for x in given])
    assert sample.samples.size == min(spread.size, 1 << 16)
    assert float(sample.samples.std()) == pytest.approx(float(spread.std()), rel=0.02)


def test_few_prompts_and_steps_where_much_work_is_to_be_done(tiny: tuple[Path, Model]) -> None:
    parent, model = tiny
    bundle = Bundle.open(parent)
    default = bundle.defaults.num_inference_steps
    roles = ("denoiser", "decoder", "encoder")

    def ask(steps: int | None) -> Any:
        return asked(bundle, ["a"], [0], steps)

    whole = course(bundle, model, roles, ask, PROMPTS)
    assert (whole.prompts, whole.steps, whole.note) == (PROMPTS, None, None)
    one = whole.work / PROMPTS
    for budget, prompts, cut in (
        (10.5 * one, 10, False),
        (4.01 * one, 4, False),
        (2.5 * one, 4, True),
        (0.5 * one, 1, True),
        (1e-3 * one, 1, True),
    ):
        found = course(bundle, model, roles, ask, PROMPTS, budget=budget)
        assert found.prompts == prompts
        assert (found.note is not None) is cut
        assert found.work <= budget or found.steps == 4
        if cut:
            assert found.steps is not None
            assert 4 <= found.steps < default
    fixed = replace(bundle, defaults=replace(bundle.defaults, timesteps=(900.0, 600.0, 300.0)))
    assert (
        course(fixed, model, roles, lambda steps: asked(fixed, ["a"], [0], steps), 9, budget=1).steps is None
    )


def test_what_was_cut_is_told(tiny: tuple[Path, Model]) -> None:
    parent, model = tiny
    told: list[str] = []
    work = sum(work_of(model).values())
    plan = everything(model, "denoiser")
    found = observe(parent, model, plan, prompts=WORDS, report=told.append, budget=12 * work)
    default = Bundle.open(parent).defaults.num_inference_steps
    assert found.course is not None
    assert any(f"{found.course.steps} steps instead of {default}" in line for line in told)


@pytest.mark.parametrize(("sampler", "calls"), [("ddim", 6), ("heun", 11), ("dpmpp_2m_karras", 6)])
def test_passes_are_those_of_the_sampler(tiny: tuple[Path, Model], sampler: str, calls: int) -> None:
    """Heun's method asks twice at every step but the last."""
    bundle = Bundle.open(tiny[0])
    bundle = replace(bundle, defaults=replace(bundle.defaults, sampler=sampler))
    request = asked(bundle, ["a"], [0], 6)
    assert passes(request) == calls
    ran: list[str] = []
    parts = Watched(bundle, "cpu", verify=False)
    parts.seen = lambda role, inputs, outputs: ran.append(role) or outputs  # type: ignore[func-returns-value]
    list(draw(parts, [request], decoded=False))
    parts.close()
    assert ran.count("denoiser") == calls


def test_one_network_is_in_memory_at_a_time(tiny: tuple[Path, Model]) -> None:
    bundle = Bundle.open(tiny[0])
    held: list[set[str]] = []
    parts = Watched(bundle, "cpu", verify=False)
    parts.seen = lambda role, inputs, outputs: held.append(set(parts.infos())) or outputs  # type: ignore[func-returns-value]
    list(draw(parts, [asked(bundle, [words], [i], 2) for i, words in enumerate(WORDS)]))
    parts.close()
    assert all(len(roles) == 1 for roles in held)
    order = [next(iter(roles)) for roles in held]
    assert order == sorted(order, key=["text_encoder", "denoiser", "decoder"].index)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    """Numbers that float32 holds, but not their products."""
    folder = model_folder(tmp_path / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = TensorFiles([file])
    arrays = {name: tensors.whole(name) for name in tensors.entries}
    arrays["mid_block.resnets.0.conv1.weight"] = arrays["mid_block.resnets.0.conv1.weight"] * np.float32(1e38)
    write_safetensors(file, arrays)
    parent, model = built(folder)
    with pytest.raises(NumericError, match=r"denoiser: .*mid_block\.resnets\.0 .* NaN or Inf in pass 1"):
        calibrate(parent, model, everything(model, "denoiser"), prompts=WORDS)
    assert not list(parent.rglob("tapped_*"))


def test_a_network_that_nothing_runs_is_named(tiny: tuple[Path, Model], monkeypatch: Any) -> None:
    parent, model = tiny
    monkeypatch.setattr("edgediff.export.quantize.calibrate.encode", lambda parts, pictures: [])
    with pytest.raises(UnsupportedError, match="encoder: nothing that this model's tasks draw runs it"):
        calibrate(parent, model, everything(model, "encoder"), prompts=WORDS)


def test_taps_run_as_soon_as_they_can(tiny: tuple[Path, Model], tmp_path: Path) -> None:
    """ONNX Runtime's own record of what ran when: no value waits for the whole network."""
    import json

    import onnxruntime

    from edgediff.export.quantize.tapped import tapped

    parent, model = tiny
    part = next(part for part in model.parts if part.role == "decoder")
    values = {"decoder": observed(part.graph, everything(model).choices("decoder"))}
    with tapped(Bundle.open(parent), [part], values) as bundle:
        file = bundle.path / bundle.components["decoder"][0].file
        onnx.checker.check_model(str(file))
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / "profile")
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        session.run(None, {"latent_sample": np.ones((1, 4, 8, 8), np.float32)})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [
        each["name"].removesuffix("_kernel_time") for each in events if each["name"].endswith("_kernel_time")
    ]
    lows = [i for i, name in enumerate(ran) if name.endswith(".low/ReduceMin")]
    assert len(lows) == len(values["decoder"])
    kernels = [i for i, name in enumerate(ran) if "conv" in name.lower() and not name.startswith("/tap.")]
    # Between two taps lie at most a few nodes, and most taps have run before the last kernel.
    assert sum(i < kernels[-1] for i in lows) >= len(lows) - 2
    assert sum(i < kernels[len(kernels) // 2] for i in lows) >= len(lows) // 3


def test_captions_are_many_and_short() -> None:
    assert len(set(CAPTIONS)) == len(CAPTIONS) == PROMPTS
    assert all(len(each.split()) <= 20 and each.isascii() for each in CAPTIONS)
