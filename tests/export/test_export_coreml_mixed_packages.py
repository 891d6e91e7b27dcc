"""What a plan says of bytes and schemes, against what packages hold."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from export_helpers import TINY_TEXT, TINY_UNET, model_folder

from edgediff.export.assemble import Asked, assemble
from edgediff.export.coreml.compress_sizes import sizes
from edgediff.export.coreml.main import export_coreml
from edgediff.export.coreml.mixed_plan import BitPlan, consts, palettes_for
from edgediff.export.coreml.mixed_storage import plan_bytes
from edgediff.export.coreml.mixed_units import coded_layers
from edgediff.export.coreml.plan_file import fitted, read_plan, to_json
from edgediff.export.emit.mil_names import mil_name
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model
from edgediff.export.quantize.positions import layers_of, weight_of

pytest.importorskip("coremltools")
pytestmark = pytest.mark.slow

TEXT: dict[str, Any] = {**TINY_TEXT, "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96}
UNET: dict[str, Any] = {
    **TINY_UNET,
    "block_out_channels": [32],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
    "cross_attention_dim": 64,
}
PACKAGES = {
    "text_encoder": "TextEncoder",
    "denoiser": "Unet",
    "decoder": "VAEDecoder",
    "encoder": "VAEEncoder",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    folder = model_folder(tmp_path_factory.mktemp("mixed") / "model", text=TEXT, unet=UNET)
    found = assemble(Asked(str(folder)), lambda line: None)
    return folder, stable_diffusion.build(found.source, found.recipe)


def by_turns(model: Model, names: list[str], **cut: Any) -> BitPlan:
    """A plan that gives the names to the layers in turn."""
    return BitPlan(
        {
            part.role: {n.scope: names[at % len(names)] for at, n in enumerate(coded_layers(part.graph))}
            for part in model.parts
        },
        **cut,
    )


@pytest.mark.parametrize(
    ("target", "names", "cut"),
    [
        ("iOS17", ["palette-8", "palette-6", "float", "palette-4", "palette-2", "palette-1"], {}),
        ("iOS18", ["palette-3", "palette-4"], {"granularity": "per-grouped-channel", "group_size": 8}),
    ],
)
def test_packages_hold_what_the_plan_says(
    target: Any, names: list[str], cut: dict[str, Any], model: tuple[Path, Model], tmp_path: Path
) -> None:
    folder, built = model
    plan = by_turns(built, names, **cut)
    file = tmp_path / "plan.json"
    file.write_bytes(to_json(plan))
    out = tmp_path / "out"
    export_coreml(
        str(folder), str(out), quantize="mixed", plan=str(file), target=target, receipt=False, verify=False
    )
    plan = fitted(read_plan(file), built)
    assert read_plan(out / "quantization.json") == plan
    schemes = palettes_for(target, plan.granularity, plan.group_size)
    held = 0
    for part in built.parts:
        package = out / "coreml" / f"{PACKAGES[part.role]}.mlpackage"
        held += (package / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
        stored, coded = sizes(package), consts(plan, part, target)
        for node in layers_of(part.graph):
            weight = weight_of(node)
            scheme = coded.get(mil_name(weight.name))
            if scheme is None:
                assert stored[mil_name(weight.name)] == 2 * weight.size
                continue
            tables = weight.shape[0] // 8 if cut and weight.shape[0] % 8 == 0 else 1
            entries = tables * 2**scheme.bits
            table = 2 * entries if entries >= 10 else 0  # smaller ones lie in the program
            assert stored[mil_name(weight.name)] == ceil(weight.size * scheme.bits / 8) + table
    assert plan_bytes(built, plan.layers, schemes) == pytest.approx(held, rel=0.02)
    assert json.loads((out / "quantization.json").read_bytes())["format"] == "edgediff-bits/1"
