"""Writes every package of a model into a folder, one network in memory at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence

from edgediff.export.coreml import package
from edgediff.export.coreml.compress import compress
from edgediff.export.coreml.compression import Compression, edges
from edgediff.export.coreml.content import Piece, Planned
from edgediff.export.coreml.describe import about
from edgediff.export.coreml.package import Saved
from edgediff.export.coreml.receipt import Written
from edgediff.export.coreml.schemes import Scheme
from edgediff.export.emit.mil import mil_name, program
from edgediff.export.emit.mil_model import to_model
from edgediff.export.emit.mil_weights import reader
from edgediff.export.sources import Source
from edgediff.export.write import Folder

Say = Callable[[str], None]


def write_packages(
    folder: Folder,
    planned: Sequence[Planned],
    source: Source,
    compression: Compression,
    precision: str,
    *,
    prefix: str,
    version: str,
    say: Say,
) -> tuple[Written, ...]:
    """Write all packages below ``prefix`` (empty, or ending with a slash).

    ``precision`` is what they are called; networks that need float32 are ``fp32`` whatever it says.

    Raises:
        SourceError: a tensor is damaged, or float16 cannot hold it.
        UnsupportedError: coremltools is missing, or an operation has no form here.
        ResourceError: the disk is full.
    """
    found = []
    for each in planned:
        saved = []
        for piece in each.pieces():
            say(f"writing {prefix}{piece.name}.mlpackage")
            saved.append(_write(folder, each, piece, source, compression, precision, prefix, version))
            gc.collect()  # programs are full of cycles, and hold the weights
        found.append(
            Written(
                each.part,
                each.form,
                each.signature,
                tuple(one.model for one in saved),
                tuple(name for one in saved for name in one.files),
                precision if each.form.half or compression.schemes.get(each.part.role) else "fp32",
            )
        )
    return tuple(found)


def _write(
    folder: Folder,
    planned: Planned,
    piece: Piece,
    source: Source,
    compression: Compression,
    precision: str,
    prefix: str,
    version: str,
) -> Saved:
    part = planned.part
    read = reader(part.tensors, part.names)
    made = program(
        piece.graph,
        read,
        planned.form,
        piece.signature,
        keep_float=planned.keep_float,
        quantization=compression.quantizations.get(part.role),
    )
    scheme = compression.schemes.get(part.role)
    if scheme:
        made = compress(made, _within(scheme, piece), target=planned.form.target, keep=edges(part.graph))
    model = to_model(made, planned.form)
    del made
    texts = about(planned, piece, source, version, precision)
    return package.write(folder, f"{prefix}{piece.name}", model, texts)


def _within(scheme: Scheme | Mapping[str, Scheme], piece: Piece) -> Scheme | Mapping[str, Scheme]:
    """Schemes by constant are cut to those that a piece holds."""
    if isinstance(scheme, Scheme):
        return scheme
    held = {mil_name(parameter.name) for parameter in piece.graph.parameters}
    return {name: each for name, each in scheme.items() if name in held}
