"""Blocks that several networks share. Names are those of diffusers' modules."""

from __future__ import annotations

from edgediff.errors import UnsupportedError
from edgediff.export.emit.graph import Value
from edgediff.export.emit.ops import Ops

ACTIVATIONS = ("silu", "swish", "gelu", "relu")


def activate(ops: Ops, x: Value, name: str) -> Value:
    """The activation that a configuration calls ``name``, one of ``ACTIVATIONS``."""
    match name:
        case "silu" | "swish":
            return ops.silu(x)
        case "gelu":
            return ops.gelu(x)
        case "relu":
            return ops.relu(x)
    raise UnsupportedError(f"The activation {name} is asked for; covered are {', '.join(ACTIVATIONS)}.")


def resnet(
    ops: Ops,
    x: Value,
    name: str,
    channels: int,
    groups: int,
    eps: float,
    time: Value | None,
    factor: float = 1.0,
    scale_shift: bool = False,
) -> Value:
    """ResnetBlock2D: image -> image. ``time`` is the activated time vector; the sum is times ``factor``.

    The time is added before the second norm, or with ``scale_shift`` scales and shifts what comes out of it
    (Dhariwal and Nichol 2021, section 3.1).
    """
    with ops.scope(name):
        h = ops.conv(ops.silu(ops.group_norm(x, "norm1", groups, eps)), "conv1", channels)
        if time is not None and not scale_shift:
            h = ops.add(h, ops.linear(time, "time_emb_proj", channels))
        h = ops.group_norm(h, "norm2", groups, eps)
        if time is not None and scale_shift:
            h = ops.modulate(h, ops.linear(time, "time_emb_proj", 2 * channels))
        h = ops.conv(ops.silu(h), "conv2", channels)
        if x.channels != channels:
            x = ops.conv(x, "conv_shortcut", channels, kernel=1)
        total = ops.add(x, h)
        return total if factor == 1.0 else ops.affine(total, factor)


def attend(
    ops: Ops, x: Value, name: str, heads: int, context: Value | None = None, bias: bool = False
) -> Value:
    """Attention with its four projections: tokens -> tokens, over ``context`` or over ``x`` itself."""
    source = x if context is None else context
    with ops.scope(name):
        q = ops.linear(x, "to_q", x.channels, bias)
        k = ops.linear(source, "to_k", x.channels, bias)
        v = ops.linear(source, "to_v", x.channels, bias)
        return ops.linear(ops.attention(q, k, v, heads), "to_out.0", x.channels)


def transformer_layer(
    ops: Ops, x: Value, name: str, heads: int, context: Value, only_cross: bool = False
) -> Value:
    """BasicTransformerBlock: self-attention, attention to the text, gated feed-forward; tokens -> tokens.

    ``only_cross``: the first attention reads the text too.
    """
    with ops.scope(name):
        first = context if only_cross else None
        x = ops.add(x, attend(ops, ops.layer_norm(x, "norm1"), "attn1", heads, first))
        x = ops.add(x, attend(ops, ops.layer_norm(x, "norm2"), "attn2", heads, context))
        gated = ops.geglu(ops.linear(ops.layer_norm(x, "norm3"), "ff.net.0.proj", 8 * x.channels))
        return ops.add(x, ops.linear(gated, "ff.net.2", x.channels))


def transformer(
    ops: Ops,
    x: Value,
    name: str,
    layers: int,
    heads: int,
    groups: int,
    context: Value,
    linear: bool,
    only_cross: bool = False,
) -> Value:
    """Transformer2DModel: image -> image. ``linear`` projects tokens, else 1x1 convolutions do."""
    with ops.scope(name):
        h = ops.group_norm(x, "norm", groups, eps=1e-6)
        if linear:
            tokens = ops.linear(ops.to_tokens(h), "proj_in", x.channels)
        else:
            tokens = ops.to_tokens(ops.conv(h, "proj_in", x.channels, kernel=1))
        for i in range(layers):
            tokens = transformer_layer(ops, tokens, f"transformer_blocks.{i}", heads, context, only_cross)
        if linear:
            h = ops.to_image(ops.linear(tokens, "proj_out", x.channels), x)
        else:
            h = ops.conv(ops.to_image(tokens, x), "proj_out", x.channels, kernel=1)
        return ops.add(x, h)
