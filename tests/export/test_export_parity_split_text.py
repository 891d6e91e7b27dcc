"""A U-Net whose keys and values of the text come from a graph of their own, against diffusers' whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from export_helpers import build, difference, run  # noqa: E402
from export_parity import randomise, saved  # noqa: E402
from export_unets import BASE, THREE, XL, arguments, random_inputs  # noqa: E402

from edgediff.export.checkpoint import plain_spellings  # noqa: E402
from edgediff.export.emit.graph import Graph  # noqa: E402
from edgediff.export.emit.split_text import TEXT, split_text  # noqa: E402
from edgediff.export.networks import unet2d_condition  # noqa: E402
from edgediff.export.tensors import Tensors  # noqa: E402

pytestmark = pytest.mark.parity

# (configuration, how many layers attend to the text)
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "sd1": (BASE, 4),
    "sd2, linear, three levels": ({**THREE, "use_linear_projection": True}, 7),
    "sdxl": (XL, 18),
    "text twice": ({**BASE, "only_cross_attention": True}, 7),
}


class Some:
    """The tensors that a graph reads, of all that a checkpoint holds."""

    def __init__(self, whole: Tensors, graph: Graph) -> None:
        self._whole = whole
        self.entries = {p.name: whole.entries[p.name] for p in graph.parameters}

    def rows(self, name: str, limit: int) -> Any:
        return self._whole.rows(name, limit)


@pytest.mark.parametrize("name", CASES)
def test_equal(name: str, tmp_path: Path) -> None:
    config, layers = CASES[name]
    reference = randomise(diffusers.UNet2DConditionModel(**config))
    tensors, saved_config = saved(reference, tmp_path)
    whole = unet2d_condition.record(unet2d_condition.configure(saved_config, "config.json"))
    first, rest = split_text(whole)
    assert [port.name for port in first.inputs] == [TEXT]
    assert TEXT not in [port.name for port in rest.inputs]
    assert {p.name for p in first.parameters}.isdisjoint(p.name for p in rest.parameters)
    assert {p.name for g in (first, rest) for p in g.parameters} == {p.name for p in whole.parameters}
    inputs = random_inputs(reference.config, 3, (6, 10))
    made = {}
    for graph in (first, rest):
        (tmp_path / graph.name).mkdir()
        path = build(graph, Some(tensors, graph), plain_spellings, tmp_path / graph.name)
        made = run(path, {port.name: (inputs | made)[port.name] for port in graph.inputs})
        if graph is first:
            assert len(made) == 2 * layers
    with torch.no_grad():
        wanted = reference(**arguments(reference.config, inputs)).sample.numpy()
    assert difference(made["out_sample"], wanted) < 1e-5 * max(1.0, float(np.abs(wanted).max()))
