"""The recorded U-Net against diffusers' UNet2DConditionModel, through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from export_cases import UNETS as CASES  # noqa: E402
from export_helpers import build, difference, run  # noqa: E402
from export_parity import halved, randomise, saved  # noqa: E402
from export_unets import THREE, XL, arguments, random_inputs  # noqa: E402

from edgediff.errors import SourceError  # noqa: E402
from edgediff.export.checkpoint import plain_spellings  # noqa: E402
from edgediff.export.networks import unet2d_condition  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CASES)
def test_equal(name: str, storage: Any, tmp_path: Path) -> None:
    config, batch, size = CASES[name]
    reference = randomise(diffusers.UNet2DConditionModel(**config))
    tensors, saved_config = saved(reference, tmp_path)
    graph = unet2d_condition.record(unet2d_condition.configure(saved_config, "config.json"))
    path = build(graph, tensors, plain_spellings, tmp_path, storage)
    if storage == "fp16":
        halved(reference)
    inputs = random_inputs(reference.config, batch, size)
    assert [port.name for port in graph.inputs] == list(inputs)
    with torch.no_grad():
        wanted = reference(**arguments(reference.config, inputs)).sample.numpy()
    assert difference(run(path, inputs)["out_sample"], wanted) < TOLERANCE


def test_five_sizes(tmp_path: Path) -> None:
    """The refiner's signature: the same configuration with one number less has a wider text vector."""
    reference = randomise(diffusers.UNet2DConditionModel(**XL))
    tensors, saved_config = saved(reference, tmp_path)
    net = unet2d_condition.configure(saved_config, "config.json")
    assert net.added is not None
    assert (net.added.inputs, net.added.channels) == (29, 4)
    path = build(unet2d_condition.record(net, ids=5), tensors, plain_spellings, tmp_path)
    inputs = random_inputs(reference.config, 2, (9, 11), ids=5)
    assert inputs["text_embeds"].shape == (2, 9)
    with torch.no_grad():
        wanted = reference(**arguments(reference.config, inputs)).sample.numpy()
    assert difference(run(path, inputs)["out_sample"], wanted) < TOLERANCE
    for ids in (0, 8):
        with pytest.raises(SourceError, match="add_embedding reads 29 numbers"):
            unet2d_condition.record(net, ids=ids)


CONTROLLED: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "three levels": (THREE, (9, 11)),
    "sizes and a second text": (XL, (6, 13)),
    "no middle": ({**THREE, "mid_block_type": None}, (9, 11)),
    "asymmetric, layers by level": (
        {**THREE, "downsample_padding": 0, "layers_per_block": (1, 3, 2)},
        (11, 13),
    ),
}


@pytest.mark.parametrize("name", CONTROLLED)
def test_residuals_are_added(name: str, tmp_path: Path) -> None:
    config, size = CONTROLLED[name]
    reference = randomise(diffusers.UNet2DConditionModel(**config))
    tensors, saved_config = saved(reference, tmp_path)
    net = unet2d_condition.configure(saved_config, "config.json")
    graph = unet2d_condition.record(net, controlled=True)
    path = build(graph, tensors, plain_spellings, tmp_path)
    inputs = random_inputs(reference.config, 2, size)
    extents = unet2d_condition.residual_extents(net, size)
    assert [port.name for port in graph.inputs] == [*inputs, *extents]
    rng = np.random.default_rng(2)
    channels = {port.name: port.value.channels for port in graph.inputs}
    residuals = {
        name: 0.5 * rng.standard_normal((2, channels[name], *extent), np.float32)
        for name, extent in extents.items()
    }
    *down, middle = (torch.from_numpy(value) for value in residuals.values())
    with torch.no_grad():
        wanted = reference(
            **arguments(reference.config, inputs),
            down_block_additional_residuals=tuple(down),
            mid_block_additional_residual=middle,
        ).sample.numpy()
    assert difference(run(path, {**inputs, **residuals})["out_sample"], wanted) < TOLERANCE
    plain = unet2d_condition.record(net)
    assert {p.name: p.shape for p in graph.parameters} == {p.name: p.shape for p in plain.parameters}
