"""What a U-Net or a ControlNet is told beside picture and text (time, sizes, a label), as one vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgediff.errors import SourceError
from edgediff.export.emit.graph import Kind, Value
from edgediff.export.emit.ops import Ops
from edgediff.export.networks.blocks import ACTIVATIONS, activate
from edgediff.export.networks.settings import Settings

_TYPES = (None, "timestep", "identity", "projection", "simple_projection")


@dataclass(frozen=True, slots=True)
class Added:
    """The second text vector and the numbers about the picture (SDXL: Podell et al. 2023, section 2.2).

    ``inputs`` channels are read in all, ``channels`` of them per number; the rest is the text vector.
    """

    inputs: int
    channels: int


@dataclass(frozen=True, slots=True)
class ClassLabels:
    """The input ``class_labels`` and how it becomes a vector of the time's width.

    "table": an integer below ``size`` per picture picks a row. "timestep": a number is embedded like the
    time. "projection" (two layers), "simple_projection" (one) and "identity" (none) read a vector of
    ``size`` channels.
    ``concat`` puts the vector behind the time's instead of adding it.
    """

    form: Literal["table", "timestep", "identity", "projection", "simple_projection"]
    size: int
    concat: bool


@dataclass(frozen=True, slots=True)
class Conditions:
    """How the time vector is made. ``width`` is that of the sinusoids, ``channels`` that of the vector."""

    width: int
    channels: int
    cosine_first: bool
    frequency_shift: float
    guidance_channels: int | None
    class_labels: ClassLabels | None
    added: Added | None
    inner_activation: str | None
    last_activation: str | None


def configure(s: Settings, where: str, width: int, control: bool = False) -> Conditions:
    """Read the keys about time, labels and added conditions; a ControlNet (``control``) has fewer of them."""
    channels = 4 * width
    guidance = inner = last = None
    concat = False
    if not control:
        channels = s.optional("time_embedding_dim") or channels
        guidance = s.optional("time_cond_proj_dim")
        inner = s.choice("timestep_post_act", None, [None, *ACTIVATIONS])
        last = s.choice("time_embedding_act_fn", None, [None, *ACTIVATIONS])
        concat = s.flag("class_embeddings_concat", False)
        s.fixed({"time_embedding_type": "positional"})
    projected = s.optional("projection_class_embeddings_input_dim")
    added = _added(s, where, projected)
    if added is not None and concat:
        raise SourceError(
            f"{where}: class_embeddings_concat makes the time vector too wide for addition_embed_type "
            "text_time. One of them is wrong."
        )
    return Conditions(
        width=width,
        channels=channels,
        cosine_first=s.flag("flip_sin_to_cos", True),
        frequency_shift=s.number("freq_shift", 0),
        guidance_channels=guidance,
        class_labels=_labels(s, where, projected, channels, concat, control),
        added=added,
        inner_activation=inner,
        last_activation=last,
    )


def _labels(
    s: Settings, where: str, projected: int | None, channels: int, concat: bool, control: bool
) -> ClassLabels | None:
    form = s.choice("class_embed_type", None, _TYPES[:-1] if control else _TYPES)
    entries = s.optional("num_class_embeds")
    if form is None:
        if entries is None and concat:
            raise SourceError(f"{where}: class_embeddings_concat is true, but there are no class embeddings.")
        return None if entries is None else ClassLabels("table", entries, concat)
    if form == "timestep":
        return ClassLabels("timestep", 1, concat)
    if form == "identity":
        return ClassLabels("identity", channels, concat)
    return ClassLabels(form, _needed(projected, where, "class_embed_type", form), concat)


def _added(s: Settings, where: str, projected: int | None) -> Added | None:
    form = s.choice("addition_embed_type", None, [None, "text_time"])
    channels = s.optional("addition_time_embed_dim")
    s.ignored("addition_embed_type_num_heads")  # belongs to addition_embed_type "text"
    if form is None:
        return None
    if channels is None:
        raise SourceError(
            f"{where}: addition_embed_type is {form}, which needs addition_time_embed_dim. It is not given."
        )
    return Added(_needed(projected, where, "addition_embed_type", form), channels)


def _needed(projected: int | None, where: str, key: str, value: str) -> int:
    if projected is None:
        raise SourceError(
            f"{where}: {key} is {value}, which needs projection_class_embeddings_input_dim. It is not given."
        )
    return projected


def record(ops: Ops, net: Conditions, timestep: Value, ids: int) -> Value:
    """The time vector, activated, since every consumer begins with the same SiLU.

    Declares the inputs ``timestep_cond``, ``text_embeds``, ``time_ids`` (``ids`` numbers per picture) and
    ``class_labels``, those that the network reads.
    """
    wave = ops.timestep_embedding(timestep, net.width, net.cosine_first, net.frequency_shift)
    guidance = None
    if net.guidance_channels is not None:
        guidance = ops.input("timestep_cond", Kind.VECTOR, net.guidance_channels)
    with ops.scope("time_embedding"):
        if guidance is not None:
            wave = ops.add(ops.linear(guidance, "cond_proj", net.width, bias=False), wave)
        time = _two_layers(ops, wave, net.channels)
        if net.inner_activation is not None:
            time = activate(ops, time, net.inner_activation)
    added = None if net.added is None else _added_vector(ops, net, net.added, ids)
    if net.class_labels is not None:
        label = _label_vector(ops, net, net.class_labels)
        if net.class_labels.concat:
            time = ops.concat(ops.repeat_like(time, label), label)
        else:
            time = ops.add(label, time)
    if added is not None:
        time = ops.add(added, time)
    if net.last_activation is not None:
        time = activate(ops, time, net.last_activation)
    return ops.silu(time)


def _added_vector(ops: Ops, net: Conditions, added: Added, ids: int) -> Value:
    text_channels = added.inputs - ids * added.channels
    if ids < 1 or text_channels < 1:
        raise SourceError(
            f"add_embedding reads {added.inputs} numbers, which are no text vector and {ids} sizes of "
            f"{added.channels} numbers. The model reads fewer sizes (at least one), or "
            "projection_class_embeddings_input_dim is wrong."
        )
    text = ops.input("text_embeds", Kind.VECTOR, text_channels)
    sizes = ops.input("time_ids", Kind.VECTOR, ids)
    waves = ops.timestep_embedding(sizes, added.channels, net.cosine_first, net.frequency_shift)
    with ops.scope("add_embedding"):
        return _two_layers(ops, ops.concat(text, waves), net.channels)


def _label_vector(ops: Ops, net: Conditions, labels: ClassLabels) -> Value:
    if labels.form == "table":
        label = ops.input("class_labels", Kind.LABEL)
        return ops.embedding(label, "class_embedding", labels.size, net.channels)
    label = ops.input("class_labels", Kind.VECTOR, labels.size)
    if labels.form == "identity":
        return label
    if labels.form == "simple_projection":
        return ops.linear(label, "class_embedding", net.channels)
    if labels.form == "timestep":
        label = ops.timestep_embedding(label, net.width, net.cosine_first, net.frequency_shift)
    with ops.scope("class_embedding"):
        return _two_layers(ops, label, net.channels)


def _two_layers(ops: Ops, x: Value, channels: int) -> Value:
    """TimestepEmbedding."""
    return ops.linear(ops.silu(ops.linear(x, "linear_1", channels)), "linear_2", channels)
