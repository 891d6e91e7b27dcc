"""Who gets what: where layers stand in their networks, and what the named schemes make of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from export_helpers import FULL_TEXT, FULL_UNET, FULL_VAE, TINY_UNET, model_folder
from family_folders import control_folder, xl_folder

from edgediff.export.assemble import Asked, assemble
from edgediff.export.emit.graph import Kind
from edgediff.export.emit.integers import LAYERS
from edgediff.export.emit.ops import Ops
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model
from edgediff.export.networks import autoencoder_kl, clip_text, controlnet, unet2d_condition
from edgediff.export.quantize.plan import Plan
from edgediff.export.quantize.positions import Position, layers_of, positions
from edgediff.export.quantize.schemes import plan_of

RULED = ("int8", "int8-weights", "int4-weights")


def built(folder: Path, **choices: Any) -> Model:
    """A model as the exporter has it."""
    found = assemble(Asked(str(folder), **choices), lambda line: None)
    return stable_diffusion.build(found.source, found.recipe)


def counted(plan: Plan, role: str) -> Counter[str]:
    return Counter(decision.choice for decision in plan.layers[role].values())


def test_the_layers_of_a_full_size_u_net_stand_where_its_modules_say() -> None:
    found = positions(unet2d_condition.record(unet2d_condition.configure(FULL_UNET, "config.json")))
    assert found["conv_in"] is Position.FIRST
    assert found["conv_out"] is Position.LAST
    for scope, place in found.items():
        name = scope.rpartition(".")[2]
        if scope.endswith(("attn2.to_k", "attn2.to_v")):
            assert place is Position.CONDITION, scope
        elif "time_emb" in scope:
            assert place is Position.VECTOR, scope
        elif name in ("proj_in", "proj_out", "conv_shortcut"):
            assert place is Position.POINT, scope
        elif name in ("conv1", "conv2") or "samplers" in scope:
            assert place is Position.KERNEL, scope
        elif "attn" in scope or ".ff." in scope:
            assert place is Position.PRODUCT, scope
    assert Counter(found.values())[Position.CONDITION] == 32
    assert not set(found.values()) & {Position.THIN, Position.TEXT, Position.TABLE}


def test_an_attention_that_reads_text_alone_is_found_without_its_name() -> None:
    config = {**TINY_UNET, "only_cross_attention": True}
    found = positions(unet2d_condition.record(unet2d_condition.configure(config, "config.json")))
    first = [place for scope, place in found.items() if scope.endswith(("attn1.to_k", "attn1.to_v"))]
    assert len(first) == 8  # one block down, one in the middle, two up
    assert first.count(Position.CONDITION) == 6  # the middle's first attention reads the picture


def test_text_encoders_are_text_and_a_table() -> None:
    net = clip_text.configure({**FULL_TEXT, "projection_dim": 512}, "config.json", projected=True)
    found = positions(clip_text.record(net))
    assert found["text_model.embeddings.token_embedding"] is Position.TABLE
    assert found["text_projection"] is Position.VECTOR
    assert set(found.values()) == {Position.TABLE, Position.TEXT, Position.VECTOR}


def test_autoencoders_keep_what_touches_pixels_and_latents() -> None:
    net = autoencoder_kl.configure(FULL_VAE, "config.json")
    decoder, encoder = (
        positions(f(net)) for f in (autoencoder_kl.record_decoder, autoencoder_kl.record_encoder)
    )
    assert decoder["post_quant_conv"] is Position.FIRST
    assert decoder["decoder.conv_in"] is Position.THIN
    assert decoder["decoder.conv_out"] is Position.LAST
    assert encoder["encoder.conv_in"] is Position.FIRST
    assert encoder["encoder.conv_out"] is Position.THIN
    assert encoder["quant_conv"] is Position.LAST
    assert decoder["decoder.mid_block.attentions.0.to_q"] is Position.PRODUCT


def test_the_residuals_of_a_full_size_control_net_are_ordinary_layers() -> None:
    net = controlnet.configure({"cross_attention_dim": 768}, "config.json")
    found = positions(controlnet.record(net))
    assert found["controlnet_down_blocks.0"] is Position.POINT
    assert found["controlnet_mid_block"] is Position.POINT
    assert found["conv_in"] is Position.FIRST
    assert found["controlnet_cond_embedding.conv_in"] is Position.FIRST
    assert found["controlnet_cond_embedding.conv_out"] is Position.KERNEL


def test_an_input_that_joins_late_makes_no_first_layer() -> None:
    """A residual that is added inside comes from outside, but layers lie before what it is added to."""
    ops = Ops("late")
    x, late = (ops.input(name, Kind.IMAGE, 32, "height", "width") for name in ("x", "late"))
    y = ops.conv(ops.add(ops.conv(x, "a", 32), late), "b", 32)
    ops.output("y", ops.conv(y, "c", 32), "height", "width")
    assert positions(ops.graph()) == {"a": Position.FIRST, "b": Position.KERNEL, "c": Position.LAST}


@pytest.fixture(scope="module")
def steered(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("plan")
    model_folder(folder / "model")
    return built(folder / "model", controlnets=[str(control_folder(folder / "control"))])


@pytest.mark.parametrize("scheme", RULED)
def test_every_layer_gets_a_decision_with_a_reason(scheme: str, steered: Model) -> None:
    plan = plan_of(scheme, steered)
    for part in steered.parts:
        scopes = [node.scope for node in part.graph.nodes if node.op in LAYERS]
        assert list(plan.layers[part.role]) == scopes
        assert list(plan.kinds[part.role]) == scopes
        assert all(decision.reason for decision in plan.layers[part.role].values())
    assert plan.scheme == scheme
    assert plan.made_for["family"] == "stable-diffusion"


@pytest.mark.parametrize("scheme", RULED)
def test_graphs_over_one_weights_file_agree(scheme: str, steered: Model) -> None:
    plan = plan_of(scheme, steered)
    plain, led = plan.choices("denoiser"), plan.choices("controlled_denoiser")
    assert plain == led


def test_each_scheme_serves_its_purpose(tmp_path: Path) -> None:
    model = built(xl_folder(tmp_path / "xl"))
    computed, bytes_, halves = (plan_of(scheme, model) for scheme in RULED)
    assert counted(computed, "denoiser")["int8"] > counted(computed, "denoiser")["int8-weights"] > 0
    assert "int8" not in counted(computed, "text_encoder") + counted(computed, "text_encoder_2")
    for role in bytes_.layers:
        assert set(counted(bytes_, role)) <= {"float", "int8-weights"}
    assert counted(halves, "denoiser")["int4-weights"] > 0
    assert counted(halves, "decoder")["int4-weights"] == 0  # pixels show what latents hide
    for plan in (computed, bytes_, halves):
        assert plan.layers["denoiser"]["conv_in"].choice == "float"
        assert plan.layers["denoiser"]["conv_out"].choice == "float"
        table = plan.layers["text_encoder"]["text_model.embeddings.token_embedding"]
        assert table.choice == "int8-weights"
        for scope, decision in plan.layers["denoiser"].items():
            if scope.endswith(("attn2.to_k", "attn2.to_v")) or "time_emb" in scope:
                assert decision.choice == "int8-weights", scope


def test_half_precision_decides_nothing(steered: Model) -> None:
    plan = plan_of("fp16", steered)
    assert plan.choices("denoiser") == {}


@pytest.mark.parametrize("scheme", ["mixed", "int3"])
def test_schemes_without_rules_are_refused(scheme: str, steered: Model) -> None:
    with pytest.raises(ValueError, match="no rules"):
        plan_of(scheme, steered)


def test_layers_are_found_in_order(steered: Model) -> None:
    for part in steered.parts:
        nodes = layers_of(part.graph)
        assert len({node.scope for node in nodes}) == len(nodes)
