"""Programs of every network in all its switches, interpreted, against the same recording's ONNX form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from export_cases import AUTOENCODERS, CONTROLS, TEXTS, TINY_AUTOENCODERS, UNETS
from export_helpers import difference
from export_mil import exact, inputs_of, packaged, results, snr

from edgediff.export.emit.graph import Graph
from edgediff.export.emit.mil_form import MilForm, Signature
from edgediff.export.emit.sizes import Extents
from edgediff.export.networks import autoencoder_kl, autoencoder_tiny, clip_text, controlnet, unet2d_condition
from tests.thorough import THOROUGH

pytest.importorskip("coremltools")
pytestmark = pytest.mark.slow

# The second version of split_einsum is the first below 513 queries: test_export_mil_attention.py has more.
# Every network in one precision and, where it attends, one form, turn about; in the thorough run in both.
FORMS = (
    (MilForm("original", half=False), MilForm("split_einsum", half=True)),
    (MilForm("split_einsum", half=False), MilForm("original", half=True)),
)
Case = tuple[Graph, dict[str, Extents], int]


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as a file has it."""
    found: dict[str, Any] = json.loads(json.dumps(config))
    return found


def cases() -> Iterator[tuple[str, Case]]:
    """Each network and its extents."""
    for name, (config, batch, size) in UNETS.items():
        net = unet2d_condition.configure(plain(config), "unet")
        words = {"encoder_hidden_states": (5,)}
        yield f"unet, {name}", (unet2d_condition.record(net), {"sample": size, **words}, batch)
    for name in ("three levels, odd", "sizes and a second text"):
        config, batch, size = UNETS[name]
        net = unet2d_condition.configure(plain(config), "unet")
        residuals = unet2d_condition.residual_extents(net, size)
        graph = unet2d_condition.record(net, controlled=True)
        yield (
            f"controlled, {name}",
            (graph, {"sample": size, "encoder_hidden_states": (5,), **residuals}, batch),
        )
    for name, (config, batch, size) in CONTROLS.items():
        control = controlnet.configure(plain(config), "controlnet")
        scale = 1 << (len(config["conditioning_embedding_out_channels"]) - 1)
        extents = {"sample": size, "controlnet_cond": (size[0] * scale, size[1] * scale)}
        yield (
            f"controlnet, {name}",
            (controlnet.record(control), {**extents, "encoder_hidden_states": (5,)}, batch),
        )
    for module, family in ((autoencoder_kl, AUTOENCODERS), (autoencoder_tiny, TINY_AUTOENCODERS)):
        for name, (config, batch, size) in family.items():
            net = module.configure(plain(config), "vae")
            # One row more than a multiple: the halvings have to round.
            pixels = (size[0] * net.downscale + 1, size[1] * net.downscale)
            kind = module.__name__.rpartition(".")[2]
            yield f"{kind} decoder, {name}", (module.record_decoder(net), {"latent_sample": size}, batch)
            yield f"{kind} encoder, {name}", (module.record_encoder(net), {"sample": pixels}, batch)
    for name, (config, batch, length) in TEXTS.items():
        text = clip_text.configure(plain(config), "text")
        yield f"text, {name}", (clip_text.record(text), {"input_ids": (length,)}, batch)
    config = {**TEXTS["whole length"][0], "projection_dim": 6}
    text = clip_text.configure(plain(config), "text", projected=True)
    yield "text, projected", (clip_text.record(text), {"input_ids": (11,)}, 2)
    yield "text, states", (clip_text.record(text, states=True), {"input_ids": (11,)}, 1)


CASES = dict(cases())


@pytest.mark.parametrize("name", CASES)
def test_equal(name: str, tmp_path: Path) -> None:
    graph, extents, batch = CASES[name]
    inputs = inputs_of(graph, extents, batch)
    wanted = exact(graph, tmp_path, inputs)
    attends = any(node.op == "attention" for node in graph.nodes)
    signature = Signature((extents,), batch)
    turn = list(CASES).index(name)
    forms = FORMS[turn // 2 % 2] if attends else FORMS[0]
    forms = forms if THOROUGH else forms[turn % 2 :][:1]
    for form in forms:
        path = packaged(graph, tmp_path, form, signature)
        found = results(path, graph, signature, inputs)
        assert list(found) == list(wanted)
        for key, value in found.items():
            if form.half:
                assert snr(value, wanted[key]) > 45, (key, form)
            else:
                assert difference(value, wanted[key]) < 1e-4, (key, form)
