"""What the float parent of a quantized bundle gave, so that the bundle can be compared with it anywhere.

``quality.npz`` is written at export: for some prompts and seeds the final latents and the pictures, and for
each role's graph some passes of the way there, inputs and outputs. It is a zip of ``.npy`` members and
``record.json`` (:mod:`edgediff.archive`). Rows (first axis) of equal content are stored once, as flat members
that are named by their content; float32 rows that float16 holds exactly are stored so. Inputs are whole. Of
outputs with more than ``SAMPLED`` numbers every n-th is kept, counted over the flattened tensor; of an
encoder's the means alone, which tasks start from, not their log variances. Nothing in the file says that a
result is a picture: a call has one where the task gives one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff import archive
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, CheckFailed, UnsupportedError

FILE = "quality.npz"
FORMAT = "edgediff-quality/1"
PROMPTS = (
    "an old fisherman mends a net on a wooden pier at sunrise, mist over the water",
    "still life of three lemons and a blue glass bottle on linen, soft window light, oil painting",
    "a narrow street in a mountain village at night, wet cobblestones, lanterns, light rain",
    "close-up of a barn owl in flight against dark pines, every feather sharp",
)
"""What models of natural pictures are asked for where they bring no prompts of their own."""
SAMPLED = 1 << 18
GIVEN = ("image", "mask_image", "control_image")
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """Some numbers of a tensor: those at 0, ``stride``, 2 ``stride``, ... of the flattened tensor.

    With ``channels`` only so many of its second axis count: what tasks read of it. The rest may be constant,
    and would pass for signal that nothing has changed.
    """

    shape: tuple[int, ...]
    stride: int
    values: Array
    channels: int | None = None

    @staticmethod
    def of(array: Array, channels: int | None = None) -> Sample:
        """Keep at most ``SAMPLED`` numbers, by a stride that has no factor in common with an extent."""
        kept = array if channels is None else array[:, :channels]
        stride = -(-kept.size // SAMPLED)
        while stride > 1 and any(math.gcd(stride, extent) > 1 for extent in kept.shape):
            stride += 1
        return Sample(array.shape, stride, kept.ravel()[::stride], channels)

    def pick(self, found: Array, where: str) -> Array:
        """The numbers at the same places of another tensor.

        Raises:
            CheckFailed: its shape is another.
        """
        if found.shape != self.shape:
            raise CheckFailed(f"{where}: its shape is {found.shape}; that of the float parent {self.shape}.")
        kept = found if self.channels is None else found[:, : self.channels]
        return kept.ravel()[:: self.stride]


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of a role's graph: what it was fed, whole, and what it gave."""

    role: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Sample]


@dataclass(frozen=True, slots=True)
class Call:
    """One result: its prompt and seed, which of the record's pictures it was given, and what came out."""

    prompt: str
    seed: int
    given: tuple[str, ...]
    latents: Array
    picture: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class Record:
    """Everything in the file. ``settings`` are arguments of every call, ``given`` pictures by argument."""

    settings: Mapping[str, Any]
    calls: Sequence[Call]
    passes: Sequence[Pass]
    given: Mapping[str, Array] = field(default_factory=dict)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts in order, each once."""
        return tuple(dict.fromkeys(call.prompt for call in self.calls))


def dumps(record: Record) -> bytes:
    """Return the file's bytes; equal records give equal bytes."""
    rows: dict[str, Array] = {}
    text = {
        "format": FORMAT,
        "settings": dict(record.settings),
        "given": {name: _put(rows, array) for name, array in record.given.items()},
        "calls": [
            {
                "prompt": call.prompt,
                "seed": call.seed,
                "given": list(call.given),
                "latents": _put(rows, call.latents),
                "picture": None if call.picture is None else _put(rows, call.picture),
            }
            for call in record.calls
        ],
        "passes": [
            {
                "role": each.role,
                "inputs": {name: _put(rows, array) for name, array in each.inputs.items()},
                "outputs": {
                    name: {
                        "of": list(o.shape),
                        "stride": o.stride,
                        **({} if o.channels is None else {"channels": o.channels}),
                        **_put(rows, o.values),
                    }
                    for name, o in each.outputs.items()
                },
            }
            for each in record.passes
        ],
    }
    return archive.packed(json.dumps(text, indent=1).encode(), rows)


def _put(rows: dict[str, Array], array: Array) -> dict[str, Any]:
    """Add what is new of an array to the members; return where its rows are."""
    names = []
    for row in array if array.ndim > 1 else [array]:
        flat = np.ascontiguousarray(row).ravel()
        if flat.dtype == np.float32:
            with np.errstate(over="ignore"):
                half = flat.astype(np.float16)
            flat = half if np.array_equal(half.astype(np.float32), flat) else flat
        name = "m" + hashlib.sha256(flat.dtype.str.encode() + flat.tobytes()).hexdigest()[:32]
        rows[name] = flat
        names.append(name)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "rows": names}


def read(bundle: Bundle) -> Record:
    """Return what the float parent gave; the file's bytes are compared with the manifest first.

    Raises:
        UnsupportedError: the bundle has no such file.
        IntegrityError: its bytes are not those that the manifest names.
        BundleError: it is not what the format says.
    """
    file = bundle.path / FILE
    if FILE not in bundle.files:
        raise UnsupportedError(
            f"{bundle.path}: there is no {FILE} in it, so there is nothing to compare with; bundles that are "
            "quantized at export have one."
        )
    if bundle.files[FILE].bytes > archive.MAX_FILE:
        raise BundleError(f"{file}: {bundle.files[FILE].bytes} bytes are more than are read.")
    bundle.verify((FILE,))
    return parse(file.read_bytes(), str(file))


def parse(raw: bytes, where: str) -> Record:
    """Return the record that a file's bytes hold; ``where`` is for messages.

    Raises:
        BundleError: they are not what the format says.
    """
    from edgediff import reference_reader

    return reference_reader.record_of(raw, where)
