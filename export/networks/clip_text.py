"""The text encoder of CLIP (Radford et al. 2021), as transformers' CLIPTextModel and ...WithProjection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgediff.export.emit.graph import Graph, Kind, Value
from edgediff.export.emit.ops import Ops
from edgediff.export.networks.settings import Settings

# Keys that every transformers configuration may carry and that do not touch this network.
_WITHOUT_EFFECT = """
    architectures attention_dropout bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward decoder_start_token_id diversity_penalty do_sample dropout dtype
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id id2label initializer_factor initializer_range
    is_encoder_decoder label2id length_penalty max_length min_length model_type no_repeat_ngram_size
    num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states output_scores
    pad_token_id prefix problem_type projection_dim remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript
    transformers_version typical_p use_bfloat16 use_cache
"""
_FIXED: dict[str, Any] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "pruned_heads": {},
}
# Until 2023 configurations said 2 here whatever the vocabulary; the end of text was then the largest id.
_LEGACY_END = 2


@dataclass(frozen=True, slots=True)
class ClipText:
    """What the configuration says, in the network's terms."""

    entries: int
    length: int
    channels: int
    hidden: int
    layers: int
    heads: int
    activation: str
    eps: float
    end: int
    projection: int | None


def configure(config: Mapping[str, Any], where: str, projected: bool = False) -> ClipText:
    """Read ``text_encoder/config.json``; ``projected`` for CLIPTextModelWithProjection."""
    s = Settings(config, where)
    shape = ClipText(
        entries=s.integer("vocab_size", 49408),
        length=s.integer("max_position_embeddings", 77),
        channels=s.integer("hidden_size", 512),
        hidden=s.integer("intermediate_size", 2048),
        layers=s.integer("num_hidden_layers", 12),
        heads=s.integer("num_attention_heads", 8),
        activation=s.choice("hidden_act", "quick_gelu", ["quick_gelu", "gelu"]),
        eps=s.positive("layer_norm_eps", 1e-5),
        end=s.integer("eos_token_id", 49407, low=0),
        projection=s.integer("projection_dim", 512) if projected else None,
    )
    s.fixed(_FIXED)
    s.ignored(*_WITHOUT_EFFECT.split())
    s.finish()
    return shape


def record(net: ClipText, states: bool = False) -> Graph:
    """``input_ids`` -> ``last_hidden_state`` and ``pooler_output`` (or ``text_embeds``, projected).

    ``clip_skip.k``, for k from 1 to the layers less one, is what ``last_hidden_state`` would be had the last
    k layers been left out: models drawn with a skipped layer keep the final norm, and so its parameters.
    With ``states`` the outputs ``hidden_states.0`` (the embeddings) to ``hidden_states.L`` (after each layer,
    without the final norm) take their place: the SDXL family reads ``hidden_states.{L - 1}``.
    """
    ops = Ops("text_encoder")
    ids = ops.input("input_ids", Kind.IDS, 1, "sequence_length")
    with ops.scope("text_model"):
        with ops.scope("embeddings"):
            x = ops.embedding(ids, "token_embedding", net.entries, net.channels)
            x = ops.add(x, ops.positions(x, "position_embedding", net.length))
        hidden = [x]
        for i in range(net.layers):
            with ops.scope(f"encoder.layers.{i}"):
                hidden.append(_layer(ops, net, hidden[-1]))
        x = ops.layer_norm(hidden[-1], "final_layer_norm", net.eps)
        before = () if states else hidden[-2:0:-1]
        skipped = [ops.layer_norm(each, "final_layer_norm", net.eps) for each in before]
        legacy = net.end == _LEGACY_END
        pooled = ops.pool_largest(x, ids) if legacy else ops.pool_first(x, ids, net.end)
    if net.projection is not None:
        ops.output("text_embeds", ops.linear(pooled, "text_projection", net.projection, bias=False))
    ops.output("last_hidden_state", x, "sequence_length")
    if net.projection is None:
        ops.output("pooler_output", pooled)
    for i, each in enumerate(hidden if states else ()):
        ops.output(f"hidden_states.{i}", each, "sequence_length")
    for k, each in enumerate(skipped, 1):
        ops.output(f"clip_skip.{k}", each, "sequence_length")
    return ops.graph()


def _layer(ops: Ops, net: ClipText, x: Value) -> Value:
    h = ops.layer_norm(x, "layer_norm1", net.eps)
    with ops.scope("self_attn"):
        q, k, v = (ops.linear(h, f"{part}_proj", net.channels) for part in "qkv")
        h = ops.linear(ops.attention(q, k, v, net.heads, causal=True), "out_proj", net.channels)
    x = ops.add(x, h)
    h = ops.linear(ops.layer_norm(x, "layer_norm2", net.eps), "mlp.fc1", net.hidden)
    h = ops.gelu(h) if net.activation == "gelu" else ops.quick_gelu(h)
    return ops.add(x, ops.linear(h, "mlp.fc2", net.channels))
