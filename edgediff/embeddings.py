"""Prompts to the numbers that steer a denoiser: tokens, through the text encoders, weighed, and remembered.

Each row of tokens runs through a text encoder alone. What comes out then depends on nothing beside it, so a
remembered row has the bits that a fresh one would have. The states of several encoders are joined along their
channels, each from its own tokenizer; one of them may give a pooled vector as well (Podell et al., 2023,
"SDXL", section 2.1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff import chunks
from edgediff.bundle import TensorSpec, TextEncoder, package_of
from edgediff.errors import BundleError, InputError, NumericError, UnsupportedError
from edgediff.manifest import read_json
from edgediff.parts import Parts
from edgediff.sampler import Array

SYNTAXES = ("plain", "a1111")
CACHE_BYTES = 64 << 20
_LAST, _SKIPPED, _STATES = "last_hidden_state", "clip_skip.", "hidden_states."


@dataclass(frozen=True, slots=True)
class Encoded:
    """Hidden states (texts, tokens, width), and pooled vectors (texts, width) where the model reads them."""

    hidden: Array
    pooled: Array | None = None

    def __getitem__(self, which: slice) -> Encoded:
        """Return some of the texts."""
        return Encoded(self.hidden[which], None if self.pooled is None else self.pooled[which])


class Cache:
    """What text encoders gave, by their tokens, least recently used ones dropped beyond ``limit`` bytes.

    An output is named with its encoder's role (``text_encoder/last_hidden_state``). Whoever changes an
    encoder's weights calls :meth:`clear`. Weights in a prompt are applied later, so changing one asks nothing
    of a text encoder.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._rows: OrderedDict[tuple[str, bytes], Array] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, output: str, ids: NDArray[np.int64]) -> Array | None:
        """Return the read-only array, hidden states (tokens, dims) or a vector, that ``output`` gave for
        ``ids``, or None."""
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
    prompts_2: Sequence[str] | None = None,
    negatives_2: Sequence[str] | None = None,
    syntax: str = "plain",
    clip_skip: int | None = None,
    cache: Cache | None = None,
) -> Encoded:
    """Return what the text encoders make of ``negatives`` and then of ``prompts``.

    Args:
        parts: the loaded bundle. What ``cache`` holds does not load the text encoders.
        prompts, negatives: checked texts.
        prompts_2, negatives_2: as many texts for the encoders after the first; the same ones unless given.
        syntax: ``plain`` is diffusers': every character is text, and text that does not fit is dropped with
            PromptTruncated. ``a1111`` reads weights and BREAK, and encodes long prompts in chunks; every
            prompt then gets as many chunks as the longest, the added ones empty. A pooled vector is that of
            the first chunk, without weights.
        clip_skip: leave out the encoders' last layers, 1 or more. As in diffusers the negatives keep all
            layers; with ``a1111`` they skip as many, as they do there (where 1 means that none is skipped:
            one more than here).
        cache: rows known from earlier calls.

    Raises:
        InputError: a weight, the syntax or clip_skip is out of range, or a prompt is too long.
        UnsupportedError: a text encoder gives no such layer, or the denoiser reads one chunk only.
        BundleError: the tokenizer and the text encoder are not of one model.
        NumericError: NaN or Inf.
    """
    if syntax not in SYNTAXES:
        raise InputError(f"syntax: {syntax!r} is unknown; choose one of {', '.join(SYNTAXES)}.")
    if clip_skip is not None:
        _whole(clip_skip)
    if parts.bundle.text is None:
        raise InputError(f"{parts.bundle.path}: this bundle reads no text.")
    encoders = parts.bundle.text.encoders
    texts = []
    for i, encoder in enumerate(encoders):
        no, yes = ("negative_prompt", negatives), ("prompt", prompts)
        if i > 0 and negatives_2 is not None:
            no = ("negative_prompt_2", negatives_2)
        if i > 0 and prompts_2 is not None:
            yes = ("prompt_2", prompts_2)
        texts.append(_rows(parts, encoder, syntax, no, yes))
    count = max(len(rows) for each in texts for rows in each)
    _check_denoiser(parts, count, encoders[0].length)
    cache = Cache() if cache is None else cache
    hidden, pooled = [], None
    for encoder, each in zip(encoders, texts, strict=True):
        nothing = chunks.framed(parts.tokenizer(encoder), [])
        skipped = encoder.hidden if clip_skip is None else _skipped(clip_skip, encoder.hidden)
        states, vectors = [], []
        for i, rows in enumerate(each):
            output = encoder.hidden if i < len(negatives) and syntax == "plain" else skipped
            padded = [*rows, *[nothing] * (count - len(rows))]
            states.append(np.concatenate([_weighed(parts, encoder, row, output, cache) for row in padded]))
            if encoder.pooled is not None:
                vectors.append(_encoded(parts, encoder, rows[0][0], encoder.pooled, output, cache))
        hidden.append(np.stack(states))
        pooled = np.stack(vectors) if vectors else pooled
    return Encoded(np.concatenate(hidden, axis=-1), pooled)


def _rows(
    parts: Parts, encoder: TextEncoder, syntax: str, *named: tuple[str, Sequence[str]]
) -> list[list[chunks.Row]]:
    """Return the rows of each text, as this encoder's own tokenizer makes them."""
    read = chunks.plain if syntax == "plain" else chunks.marked
    tokenizer = parts.tokenizer(encoder)
    return [rows for name, texts in named for rows in read(tokenizer, texts, name)]


def _skipped(clip_skip: int, hidden: str) -> str:
    """Return the output that leaves that many layers more out than ``hidden`` does."""
    if hidden == _LAST:
        return f"{_SKIPPED}{clip_skip}"
    return f"{_STATES}{int(hidden.removeprefix(_STATES)) - clip_skip}"


def check_clip_skip(clip_skip: int, outputs: Sequence[TensorSpec], hidden: str = _LAST) -> None:
    """Refuse what a text encoder with these outputs, of which ``hidden`` is read, cannot leave out.

    Raises:
        InputError: it is no whole number, or is beyond the layers.
        UnsupportedError: the graph gives its last layer alone.
    """
    names = {spec.name for spec in outputs}
    if _skipped(_whole(clip_skip), hidden) in names:
        return
    most = 0
    while _skipped(most + 1, hidden) in names:
        most += 1
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


def _weighed(parts: Parts, encoder: TextEncoder, row: chunks.Row, output: str, cache: Cache) -> Array:
    ids, weights = row
    hidden = _encoded(parts, encoder, ids, output, output, cache)
    with np.errstate(over="ignore", invalid="ignore"):
        weighed = chunks.weighed(hidden, weights)
    if not np.isfinite(weighed).all():
        raise NumericError(f"{encoder.role}: the prompt's weights make NaN or Inf; use weights nearer to 1.")
    return weighed


def _encoded(
    parts: Parts, encoder: TextEncoder, ids: NDArray[np.int64], wanted: str, output: str, cache: Cache
) -> Array:
    """Return output ``wanted`` for a row; what is run keeps ``output`` and the pooled vector for later."""
    known = cache.get(f"{encoder.role}/{wanted}", ids)
    if known is not None:
        return known
    found = _run(parts, encoder, ids, output)
    for name, array in found.items():
        cache.put(f"{encoder.role}/{name}", ids, array)
    return found[wanted]


def _run(parts: Parts, encoder: TextEncoder, ids: NDArray[np.int64], output: str) -> dict[str, Array]:
    role = encoder.role
    _check_vocabulary(parts, role, ids)
    info = parts.graph(role).info
    if output != encoder.hidden:
        kind = _SKIPPED if encoder.hidden == _LAST else _STATES
        place = int(output.removeprefix(kind))
        layers = place if kind == _SKIPPED else int(encoder.hidden.removeprefix(_STATES)) - place
        check_clip_skip(layers, info.outputs, encoder.hidden)
    names = [output] if encoder.pooled is None else [output, encoder.pooled]
    for name in names:
        if not any(tensor.name == name for tensor in info.outputs):
            raise BundleError(f"{role}: its graph has no output {name}; export the bundle again.")
    spec = info.inputs[0]
    found = parts.run(role, {spec.name: ids[None].astype(spec.dtype)})
    for name in names:
        if not np.isfinite(found[name]).all():
            raise NumericError(f"{role}: its output holds NaN or Inf; try a bundle of higher precision.")
    return {name: np.array(found[name][0], np.float32) for name in names}  # copies, which hold on to nothing


def _check_vocabulary(parts: Parts, role: str, ids: NDArray[Any]) -> None:
    """An id without a row in the embedding is an error here: some devices answer it with other numbers."""
    place = parts.bundle.graph(role).file
    folder = PurePosixPath(place).parent if package_of(place) is None else role  # none lies in a package
    file = parts.bundle.path / folder / "config.json"
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
    # The manifest says it without loading the graph, which a call that is steered never runs.
    text = parts.bundle.text
    role = "denoiser" if text is None or text.projections is None else text.projections
    for spec in parts.bundle.graph(role).inputs or parts.graph(role).info.inputs:
        if spec.name == "encoder_hidden_states" and isinstance(spec.dims[1], int):
            raise UnsupportedError(
                f"the prompt makes {count} chunks, {count * length} tokens; this denoiser reads "
                f"{spec.dims[1]}. Shorten the prompt, or export with a free text length."
            )
