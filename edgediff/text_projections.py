"""Keys and values of the text, which the denoiser reads in every step, made once per prompt.

A bundle that was exported so has a graph for them (``model.text.projections`` in the manifest); in other
bundles the denoiser makes them itself, in every step anew.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from edgediff.errors import NumericError
from edgediff.parts import Parts
from edgediff.runtime import Tensor
from edgediff.sampler import Array

TEXT = "encoder_hidden_states"
_ROWS = 8  # Stable Diffusion: 8 MB each, SDXL: 51 MB each
_BYTES = 256 << 20


class Cache:
    """Projections by the states that they were made of; the least recently used beyond ``limit`` bytes go."""

    def __init__(self, rows: int = _ROWS, limit: int = _BYTES) -> None:
        self._most, self._limit = rows, limit
        self._rows: OrderedDict[bytes, dict[str, Array]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> dict[str, Array] | None:
        """Return what was made of those states, arrays (tokens, channels) by name, or None."""
        if key in self._rows:
            self._rows.move_to_end(key)
        return self._rows.get(key)

    def put(self, key: bytes, made: dict[str, Array]) -> None:
        """Remember."""
        self._rows[key] = made
        while self._rows and (len(self._rows) > self._most or self._bytes() > self._limit):
            self._rows.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()

    def _bytes(self) -> int:
        return sum(array.nbytes for made in self._rows.values() for array in made.values())


def role_of(parts: Parts) -> str | None:
    """Return the role of the graph that projects the text; None where the denoiser does."""
    return None if parts.bundle.text is None else parts.bundle.text.projections


def projected(parts: Parts, role: str, texts: Array) -> dict[str, Tensor]:
    """Return the denoiser's inputs by name, each (rows, tokens, channels), for states (rows, tokens, width).

    Rows that are equal, or that an earlier call had, run once.

    Raises:
        NumericError: they hold NaN or Inf.
    """
    cache: Cache = parts.memory.setdefault(role, Cache())
    keys = [_key(row) for row in texts]
    known = {key: found for key in keys if (found := cache.get(key)) is not None}
    places = {key: i for i, key in enumerate(keys) if key not in known}
    if places:
        spec = next(spec for spec in parts.graph(role).info.inputs if spec.name == TEXT)
        given = np.stack([texts[i] for i in places.values()]).astype(spec.dtype, copy=False)
        made = parts.run(role, {TEXT: given})
        for name, values in made.items():
            if not np.isfinite(values).all():
                raise NumericError(f"{role}: its output {name} holds NaN or Inf; use weights nearer to 1.")
        for i, key in enumerate(places):
            known[key] = {name: np.array(values[i]) for name, values in made.items()}
            cache.put(key, known[key])
    names = known[keys[0]]
    return {name: np.stack([known[key][name] for key in keys]) for name in names}


def _key(row: Array) -> bytes:
    """A name for states that no others have; their shape belongs to it."""
    mark = hashlib.blake2b(repr((row.shape, row.dtype.str)).encode(), digest_size=24)
    mark.update(np.ascontiguousarray(row).tobytes())
    return mark.digest()
