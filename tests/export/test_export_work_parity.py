"""The counted work of full-size networks against torch's own counter, on tensors that hold no numbers."""

from __future__ import annotations

from typing import Any

import pytest

from edgediff.bundle import TensorSpec
from edgediff.export.emit.flops import flops
from edgediff.export.emit.graph import Graph
from edgediff.export.emit.work import work_terms
from edgediff.export.networks import autoencoder_kl, autoencoder_tiny, clip_text, unet2d_condition
from edgediff.work import Term
from edgediff.work import flops as evaluated

pytestmark = pytest.mark.parity

GIGA = 1e9


def counted(run: Any) -> dict[str, int]:
    """Return what torch counts, by class: products of two activations are attention's."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad(), counter:
        run(torch)
    found = {"conv": 0, "linear": 0, "attention": 0}
    for operator, count in counter.get_flop_counts()["Global"].items():
        name = str(operator).rpartition(".")[2]
        kind = "conv" if "conv" in name else "attention" if "bmm" in name else "linear"
        found[kind] += count
    return found


def ours(graph: Graph, inputs: dict[str, tuple[int, ...]], batch: int = 1) -> dict[str, int]:
    """Return what the pass counts, after its terms were evaluated to the same."""
    found = flops(graph, inputs, batch)
    terms = [
        Term(each["class"], each["flops"], tuple((per["dim"], per["over"]) for per in each["per"]))
        for each in work_terms(graph)
    ]
    specs, shapes = [], {}
    for port in graph.inputs:
        specs.append(TensorSpec(port.name, "float32", ("batch_size", *port.extents)))
        shapes[port.name] = (batch, *inputs.get(port.name, ()))
    total = found.pop("total")
    assert evaluated(terms, specs, shapes) == found
    assert total == sum(found.values())
    return found


UNET = {
    "act_fn": "silu", "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768, "sample_size": 64,
}  # fmt: skip


@pytest.mark.parametrize(("size", "batch", "giga"), [(64, 1, 803), (64, 2, 1607), (32, 1, 180)])
def test_unet(size: int, batch: int, giga: float) -> None:
    def run(torch: Any) -> None:
        from diffusers import UNet2DConditionModel
        from diffusers.models.attention_processor import AttnProcessor

        net = UNet2DConditionModel.from_config(UNET)
        net.set_attn_processor(AttnProcessor())  # products that are counted
        net(torch.empty(batch, 4, size, size), 0, torch.empty(batch, 77, 768))

    graph = unet2d_condition.record(unet2d_condition.configure(UNET, "unet"))
    found = ours(graph, {"sample": (size, size), "encoder_hidden_states": (77,)}, batch)
    assert sum(found.values()) / GIGA == pytest.approx(giga, rel=0.002)
    assert found == counted(run)


def test_decoder() -> None:
    config = {
        "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "latent_channels": 4,
    }  # fmt: skip

    def run(torch: Any) -> None:
        from diffusers import AutoencoderKL
        from diffusers.models.attention_processor import AttnProcessor

        net = AutoencoderKL.from_config(config)
        net.set_attn_processor(AttnProcessor())
        net.decode(torch.empty(1, 4, 64, 64))

    graph = autoencoder_kl.record_decoder(autoencoder_kl.configure(config, "vae"))
    found = ours(graph, {"latent_sample": (64, 64)})
    assert sum(found.values()) / GIGA == pytest.approx(2515, rel=0.001)
    assert found == counted(run)


def test_tiny_decoder() -> None:
    def run(torch: Any) -> None:
        from diffusers import AutoencoderTiny

        AutoencoderTiny().decode(torch.empty(1, 4, 64, 64))

    graph = autoencoder_tiny.record_decoder(autoencoder_tiny.configure({}, "vae"))
    found = ours(graph, {"latent_sample": (64, 64)})
    assert sum(found.values()) / GIGA == pytest.approx(141, rel=0.003)
    assert found == counted(run)


def test_text_encoder() -> None:
    config = {
        "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
        "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "eos_token_id": 2,
        "bos_token_id": 0, "pad_token_id": 1, "projection_dim": 768,
    }  # fmt: skip

    def run(torch: Any) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel

        net = CLIPTextModel._from_config(CLIPTextConfig(**config), attn_implementation="eager")
        net(torch.zeros(1, 77, dtype=torch.int64))

    graph = clip_text.record(clip_text.configure(config, "text_encoder"))
    found = ours(graph, {"input_ids": (77,)})
    assert sum(found.values()) / GIGA == pytest.approx(13.3, rel=0.005)
    assert found == counted(run)
