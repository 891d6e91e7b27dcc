"""The operations that a network is written against.

Each call checks the kinds, records one node and hands back the typed value it makes. ``name`` is the module's
name in the checkpoint, relative to the current scope; its parameters are then ``<scope>.<name>.weight`` and
``.bias``. Shapes of parameters follow the checkpoint's convention (output channels first).
"""

from __future__ import annotations

from edgediff.export.emit.graph import Kind, Parameter, Value
from edgediff.export.emit.recorder import Recorder, expect

IMAGE, TOKENS, VECTOR = Kind.IMAGE, Kind.TOKENS, Kind.VECTOR
IDS, LABEL, TIME = Kind.IDS, Kind.LABEL, Kind.TIME


class Ops(Recorder):
    """The vocabulary: an emitter must know how to say each of these, and nothing else."""

    # Layers with parameters

    def conv(self, x: Value, name: str, channels: int, kernel: int = 3, bias: bool = True) -> Value:
        """A convolution that keeps the picture's size (odd kernel)."""
        expect(x, IMAGE)
        parameters = self._affine(name, channels, (channels, x.channels, kernel, kernel), bias)
        return self._add("conv", (x,), IMAGE, channels, name, parameters, kernel=kernel)

    def downsample(
        self, x: Value, name: str, channels: int, asymmetric: bool = False, bias: bool = True
    ) -> Value:
        """A 3x3 convolution of stride 2; ``asymmetric`` pads after the last row and column only."""
        expect(x, IMAGE)
        parameters = self._affine(name, channels, (channels, x.channels, 3, 3), bias)
        return self._add("downsample", (x,), IMAGE, channels, name, parameters, asymmetric=asymmetric)

    def linear(self, x: Value, name: str, channels: int, bias: bool = True) -> Value:
        """A matrix product over the channels."""
        expect(x, TOKENS, VECTOR)
        parameters = self._affine(name, channels, (channels, x.channels), bias)
        return self._add("linear", (x,), x.kind, channels, name, parameters)

    def group_norm(self, x: Value, name: str, groups: int, eps: float) -> Value:
        """Wu and He (2018): normalised over a group's channels and the whole picture."""
        expect(x, IMAGE)
        self._divisible("groups", x.channels, groups)
        parameters = self._affine(name, x.channels, (x.channels,))
        return self._add("group_norm", (x,), IMAGE, x.channels, name, parameters, groups=groups, eps=eps)

    def layer_norm(self, x: Value, name: str, eps: float = 1e-5) -> Value:
        """Ba et al. (2016): normalised over the channels of each token."""
        expect(x, TOKENS)
        parameters = self._affine(name, x.channels, (x.channels,))
        return self._add("layer_norm", (x,), TOKENS, x.channels, name, parameters, eps=eps)

    def embedding(self, ids: Value, name: str, entries: int, channels: int) -> Value:
        """One row of a table per id; a vector for a label."""
        expect(ids, IDS, LABEL)
        table = self._parameter(name, "weight", entries, channels)
        kind = TOKENS if ids.kind is IDS else VECTOR
        return self._add("embedding", (ids,), kind, channels, name, (table,))

    def positions(self, x: Value, name: str, entries: int) -> Value:
        """The first rows of a learned table, as many as ``x`` has tokens."""
        expect(x, TOKENS)
        table = self._parameter(name, "weight", entries, x.channels)
        return self._add("positions", (x,), TOKENS, x.channels, name, (table,))

    # Attention

    def attention(self, q: Value, k: Value, v: Value, heads: int, causal: bool = False) -> Value:
        """softmax(q k^T / sqrt(q channels per head)) v; ``causal`` hides later tokens (Vaswani 2017)."""
        for value in (q, k, v):
            expect(value, TOKENS)
            self._divisible("heads", value.channels, heads)
        return self._add("attention", (q, k, v), TOKENS, v.channels, "", heads=heads, causal=causal)

    # Activations and arithmetic

    def relu(self, x: Value) -> Value:
        """max(x, 0). The tiny autoencoder's."""
        return self._add("relu", (x,), x.kind, x.channels)

    def tanh(self, x: Value) -> Value:
        """The hyperbolic tangent, with which the tiny autoencoder bounds its latents."""
        return self._add("tanh", (x,), x.kind, x.channels)

    def silu(self, x: Value) -> Value:
        """x * sigmoid(x)."""
        return self._add("silu", (x,), x.kind, x.channels)

    def gelu(self, x: Value) -> Value:
        """x * Phi(x), with the error function."""
        return self._add("gelu", (x,), x.kind, x.channels)

    def quick_gelu(self, x: Value) -> Value:
        """x * sigmoid(1.702 x)."""
        return self._add("quick_gelu", (x,), x.kind, x.channels)

    def geglu(self, x: Value) -> Value:
        """The first half of the channels times gelu of the second. Shazeer (2020)."""
        self._divisible("halves", x.channels, 2)
        return self._add("geglu", (x,), x.kind, x.channels // 2)

    def add(self, a: Value, b: Value) -> Value:
        """The sum; a vector is added at every place of a picture or to every token."""
        expect(b, a.kind, VECTOR)
        self._same_channels(a, b)
        return self._add("add", (a, b), a.kind, a.channels)

    def multiply(self, a: Value, b: Value) -> Value:
        """The product, with the same rule as ``add``."""
        expect(b, a.kind, VECTOR)
        self._same_channels(a, b)
        return self._add("multiply", (a, b), a.kind, a.channels)

    def affine(self, x: Value, factor: float, shift: float = 0.0) -> Value:
        """factor * x + shift, with two known numbers."""
        return self._add("affine", (x,), x.kind, x.channels, factor=factor, shift=shift)

    def scale(self, x: Value, number: Value) -> Value:
        """The product with one number that is known only when the graph runs (``affine`` has known ones)."""
        expect(number, TIME)
        return self._add("scale", (x, number), x.kind, x.channels)

    def modulate(self, x: Value, vector: Value) -> Value:
        """x (1 + scale) + shift, where the vector holds all scales, then all shifts. Perez et al. (2018)."""
        expect(x, IMAGE, TOKENS)
        expect(vector, VECTOR)
        if vector.channels != 2 * x.channels:
            raise ValueError(f"{self._join('')}: {vector.channels} channels modulate {x.channels}")
        return self._add("modulate", (x, vector), x.kind, x.channels)

    def concat(self, a: Value, b: Value) -> Value:
        """The channels of both, one after the other. Both vectors are per batch entry, or both are not."""
        expect(b, a.kind)
        return self._add("concat", (a, b), a.kind, a.channels + b.channels)

    def reverse(self, x: Value) -> Value:
        """The channels in reverse order, as for a network that reads pictures blue first."""
        expect(x, IMAGE)
        return self._add("reverse", (x,), IMAGE, x.channels)

    # Kinds and sizes

    def upsample(self, x: Value) -> Value:
        """Twice the size, nearest neighbour."""
        expect(x, IMAGE)
        return self._add("upsample", (x,), IMAGE, x.channels)

    def upsample_like(self, x: Value, reference: Value) -> Value:
        """The reference's size, nearest neighbour: right also where a halving had to round."""
        expect(x, IMAGE)
        expect(reference, IMAGE)
        return self._add("upsample_like", (x, reference), IMAGE, x.channels)

    def to_tokens(self, x: Value) -> Value:
        """One token per place, row by row."""
        expect(x, IMAGE)
        return self._add("to_tokens", (x,), TOKENS, x.channels)

    def to_image(self, x: Value, reference: Value) -> Value:
        """The inverse of ``to_tokens``, with the reference's size."""
        expect(x, TOKENS)
        expect(reference, IMAGE)
        return self._add("to_image", (x, reference), IMAGE, x.channels)

    def repeat_like(self, x: Value, reference: Value) -> Value:
        """The vector once per batch entry of the reference, as ``concat`` needs it beside such a vector."""
        expect(x, VECTOR)
        expect(reference, VECTOR)
        return self._add("repeat_like", (x, reference), VECTOR, x.channels)

    def timestep_embedding(self, time: Value, channels: int, cosine_first: bool, shift: float) -> Value:
        """Sinusoids at frequencies 10000^(-i / (channels/2 - shift)). Ho et al. (2020).

        ``channels`` of them for a time, and for each number of a vector, one number after the other.
        """
        expect(time, TIME, VECTOR)
        self._divisible("halves", channels, 2)
        total = channels * time.channels
        return self._add("timestep_embedding", (time,), VECTOR, total, cosine_first=cosine_first, shift=shift)

    def pool_first(self, x: Value, ids: Value, token: int) -> Value:
        """The token at the first place where ``ids`` equals ``token`` (the first place if nowhere)."""
        expect(x, TOKENS)
        expect(ids, IDS)
        return self._add("pool_first", (x, ids), VECTOR, x.channels, token=token)

    def pool_largest(self, x: Value, ids: Value) -> Value:
        """The token at the place of the largest id."""
        expect(x, TOKENS)
        expect(ids, IDS)
        return self._add("pool_largest", (x, ids), VECTOR, x.channels)

    def _affine(
        self, name: str, channels: int, shape: tuple[int, ...], bias: bool = True
    ) -> tuple[Parameter, ...]:
        weight = self._parameter(name, "weight", *shape)
        return (weight, self._parameter(name, "bias", channels)) if bias else (weight,)

    def _same_channels(self, a: Value, b: Value) -> None:
        if a.channels != b.channels:
            raise ValueError(f"{self._join('')}: {a.channels} channels and {b.channels} channels")
