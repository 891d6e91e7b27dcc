"""Prompts to the numbers that steer a denoiser: tokens, through the text encoder, weighed, and remembered.

Each row of tokens runs through the text encoder alone. What comes out then depends on nothing beside it, so
a remembered row has the bits that a fresh one would have.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff import chunks
from edgediff.bundle import TensorSpec
from edgediff.errors import BundleError, InputError, NumericError, UnsupportedError
from edgediff.manifest import read_json
from edgediff.parts import Parts
from edgediff.sampler import Array

SYNTAXES = ("plain", "a1111")
CACHE_BYTES = 64 << 20
_LAST, _SKIPPED = "last_hidden_state", "clip_skip."


class Cache:
    """Rows of hidden states by their tokens, least recently used ones dropped beyond ``limit`` bytes.

    For one text encoder: whoever changes its weights calls :meth:`clear`. Weights in a prompt are applied
    later, so changing one asks nothing of the text encoder.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._rows: OrderedDict[tuple[str, bytes], Array] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, output: str, ids: NDArray[np.int64]) -> Array | None:
        """Return the read-only hidden states (tokens, dims) that ``output`` gave for ``ids``, or None."""
        key = (output, ids.tobytes())
        if key in self._rows:
            self._rows.move_to_end(key)
        return self._rows.get(key)

    def put(self, output: str, ids: NDArray[np.int64], hidden: Array) -> None:
        """Remember ``hidden``, which becomes read-only; one that alone is over the limit is not kept."""
        hidden.flags.writeable = False
        key = (output, ids.tobytes())
        known = self._rows.pop(key, None)
        self.bytes += hidden.nbytes - (0 if known is None else known.nbytes)
        self._rows[key] = hidden
        while self.bytes > self._limit:
            self.bytes -= self._rows.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self.bytes = 0


def encode(
    parts: Parts,
    prompts: Sequence[str],
    negatives: Sequence[str] = (),
    *,
    syntax: str = "plain",
    clip_skip: int | None = None,
    cache: Cache | None = None,
) -> Array:
    """Return the hidden states of ``negatives`` and then of ``prompts``, shape (both, tokens, dims).

    Args:
        parts: the loaded bundle. What ``cache`` holds does not load the text encoder.
        prompts, negatives: checked texts.
        syntax: ``plain`` is diffusers': every character is text, and text that does not fit is dropped with
            PromptTruncated. ``a1111`` reads weights and BREAK, and encodes long prompts in chunks; every
            prompt then gets as many chunks as the longest, the added ones empty.
        clip_skip: leave out the encoder's last layers, 1 or more. As in diffusers the negatives keep all
            layers; with ``a1111`` they skip as many, as they do there (where 1 means that none is skipped:
            one more than here).
        cache: rows known from earlier calls.

    Raises:
        InputError: a weight, the syntax or clip_skip is out of range, or a prompt is too long.
        UnsupportedError: the text encoder gives no such layer, or the denoiser reads one chunk only.
        BundleError: the tokenizer and the text encoder are not of one model.
        NumericError: NaN or Inf.
    """
    if syntax not in SYNTAXES:
        raise InputError(f"syntax: {syntax!r} is unknown; choose one of {', '.join(SYNTAXES)}.")
    output = _LAST if clip_skip is None else f"{_SKIPPED}{_whole(clip_skip)}"
    read = chunks.plain if syntax == "plain" else chunks.marked
    tokenizer = parts.tokenizer()
    texts = [*read(tokenizer, negatives, "negative_prompt"), *read(tokenizer, prompts, "prompt")]
    count = max(map(len, texts))
    _check_denoiser(parts, count, tokenizer.length)
    nothing = chunks.framed(tokenizer, [])
    cache = Cache() if cache is None else cache
    made = []
    for i, rows in enumerate(texts):
        from_output = _LAST if i < len(negatives) and syntax == "plain" else output
        padded = [*rows, *[nothing] * (count - len(rows))]
        made.append(np.concatenate([_encoded(parts, row, from_output, cache) for row in padded]))
    return np.stack(made)


def check_clip_skip(clip_skip: int, outputs: Sequence[TensorSpec]) -> None:
    """Refuse what a text encoder with these outputs cannot leave out.

    Raises:
        InputError: it is no whole number, or is beyond the layers.
        UnsupportedError: the graph gives its last layer alone.
    """
    names = {spec.name for spec in outputs}
    most = sum(name.startswith(_SKIPPED) for name in names)
    if f"{_SKIPPED}{_whole(clip_skip)}" in names:
        return
    if most == 0:
        raise UnsupportedError(
            f"clip_skip={clip_skip}: this text encoder gives its last layer alone; export the model again."
        )
    raise InputError(
        f"clip_skip: {clip_skip} layers cannot be left out of this text encoder; 1 to {most} can."
    )


def _whole(clip_skip: object) -> int:
    if isinstance(clip_skip, bool) or not isinstance(clip_skip, int) or clip_skip < 1:
        raise InputError(f"clip_skip: {clip_skip!r:.60} is not a whole number of 1 or more.")
    return clip_skip


def _encoded(parts: Parts, row: chunks.Row, output: str, cache: Cache) -> Array:
    ids, weights = row
    hidden = cache.get(output, ids)
    if hidden is None:
        hidden = _run(parts, ids, output)
        cache.put(output, ids, hidden)
    with np.errstate(over="ignore", invalid="ignore"):
        weighed = chunks.weighed(hidden, weights)
    if not np.isfinite(weighed).all():
        raise NumericError("text_encoder: the prompt's weights make NaN or Inf; use weights nearer to 1.")
    return weighed


def _run(parts: Parts, ids: NDArray[np.int64], output: str) -> Array:
    _check_vocabulary(parts, ids)
    info = parts.graph("text_encoder").info
    if output != _LAST:
        check_clip_skip(int(output.removeprefix(_SKIPPED)), info.outputs)
    elif not any(tensor.name == _LAST for tensor in info.outputs):
        raise BundleError(f"text_encoder: its graph has no output {_LAST}; export the bundle again.")
    spec = info.inputs[0]
    hidden = parts.run("text_encoder", {spec.name: ids[None].astype(spec.dtype)})[output]
    if not np.isfinite(hidden).all():
        raise NumericError("text_encoder: its output holds NaN or Inf; try a bundle of higher precision.")
    return np.array(hidden[0], np.float32)  # a copy, which holds on to no other output


def _check_vocabulary(parts: Parts, ids: NDArray[Any]) -> None:
    """An id without a row in the embedding is an error here: some devices answer it with other numbers."""
    file = parts.bundle.path / PurePosixPath(parts.bundle.graph("text_encoder").file).parent / "config.json"
    config = read_json(file) if file.is_file() else {}
    rows = config.get("vocab_size") if isinstance(config, dict) else None
    if isinstance(rows, int) and ids.max() >= rows:
        raise BundleError(
            f"{file}: the text encoder knows {rows} tokens, the tokenizer gives number {ids.max()}; they are "
            "not of one model, export it again."
        )


def _check_denoiser(parts: Parts, count: int, length: int) -> None:
    if count == 1:
        return
    for spec in parts.graph("denoiser").info.inputs:
        if spec.name == "encoder_hidden_states" and isinstance(spec.dims[1], int):
            raise UnsupportedError(
                f"the prompt makes {count} chunks, {count * length} tokens; this denoiser reads "
                f"{spec.dims[1]}. Shorten the prompt, or export with a free text length."
            )
