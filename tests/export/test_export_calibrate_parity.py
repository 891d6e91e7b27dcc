"""What calibration sees, against hooks on diffusers' modules while its pipeline draws the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from edgediff.bundle import Bundle  # noqa: E402
from edgediff.export.assemble import Asked, assemble  # noqa: E402
from edgediff.export.emit.integers import LAYERS  # noqa: E402
from edgediff.export.families import stable_diffusion  # noqa: E402
from edgediff.export.main import export_onnx  # noqa: E402
from edgediff.export.quantize.calibrate import observe  # noqa: E402
from edgediff.export.quantize.plan import Decision, Plan  # noqa: E402
from tests import tiny  # noqa: E402

pytestmark = pytest.mark.parity

PROMPT = "a red circle to the left of a blue square"
Ends = dict[tuple[str, str], tuple[float, float]]


def watched(network: Any, kinds: tuple[type, ...]) -> tuple[Ends, list[Any]]:
    """Hooks that note the ends of what every layer reads and gives, by the module's path."""
    found: Ends = {}
    handles = []

    def note(path: str, side: str, value: Any) -> None:
        low, high = found.get((path, side), (np.inf, -np.inf))
        found[path, side] = (min(low, float(value.min())), max(high, float(value.max())))

    def hook(path: str) -> Any:
        def called(module: Any, given: Any, made: Any) -> None:
            note(path, "in", given[0])
            note(path, "out", made)

        return called

    for path, module in network.named_modules():
        if isinstance(module, kinds):
            handles.append(module.register_forward_hook(hook(path)))
    return found, handles


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "HeunDiscreteScheduler"])
def test_ends_are_those_of_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str) -> None:
    # The pictures that only autoencoders see are no part of diffusers' walk.
    monkeypatch.setattr("edgediff.export.quantize.calibrate._shown", lambda bundle: [])
    folder = tmp_path / "model"
    options = {"steps_offset": 1} | ({"clip_sample": False} if scheduler.startswith("DDIM") else {})
    pipe = tiny.pipeline(folder, getattr(diffusers, scheduler)(**options))
    parent = tmp_path / "parent"
    export_onnx(str(folder), str(parent), verify=False)
    opened = assemble(Asked(str(folder)))
    model = stable_diffusion.build(opened.source, opened.recipe)
    parts = {part.role: part for part in model.parts}
    roles = {"denoiser": pipe.unet, "decoder": pipe.vae}
    plan = Plan(
        "int8",
        {
            role: {node.scope: Decision("int8", "") for node in parts[role].graph.nodes if node.op in LAYERS}
            for role in roles
        },
    )
    calibration = observe(parent, model, plan, prompts=[PROMPT], threads=1)

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    hooked = {role: watched(network, kinds) for role, network in roles.items()}
    defaults = Bundle.open(parent).defaults
    pipe(
        PROMPT, num_inference_steps=defaults.num_inference_steps, guidance_scale=defaults.guidance_scale,
        height=defaults.size["height"], width=defaults.size["width"], output_type="np",
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    compared = 0
    for role, (ends, handles) in hooked.items():
        for handle in handles:
            handle.remove()
        for node in parts[role].graph.nodes:
            if node.scope not in plan.layers[role] or node.op == "embedding":
                continue
            sides = (
                {"in": node.inputs[0]} if node.op == "linear" else {"in": node.inputs[0], "out": node.output}
            )
            for side, value in sides.items():
                low, high = ends[node.scope, side]
                seen = calibration.seen[role][value.id]
                tolerance = 2e-3 * max(high - low, 1e-3)
                assert seen.low == pytest.approx(low, abs=tolerance), (role, node.scope, side)
                assert seen.high == pytest.approx(high, abs=tolerance), (role, node.scope, side)
                compared += 1
    assert compared > 100
