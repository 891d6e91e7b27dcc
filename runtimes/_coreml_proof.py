"""The first run of a graph on some units, compared with what it gave when it was exported.

Core ML has been seen to give finite numbers that are wrong, and says nothing then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from edgediff import golden
from edgediff.bundle import GraphSpec
from edgediff.errors import NumericError
from edgediff.manifest import MANIFEST, read_json
from edgediff.runtime import Tensor
from edgediff.runtimes import _coreml_tools as tools
from edgediff.runtimes._coreml_cache import Entry

# Half precision is 60 dB and more from float32 on such inputs; numbers that are wrong are near or below 0.
# Where activations are stored in 8 bits, one more rounding up or down moves what later ones round.
LEAST_DB, LEAST_DB_INTEGERS = 30.0, 10.0

Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def check(run: Run, spec: GraphSpec, file: Path, units: str, entries: Sequence[Entry]) -> None:
    """Run a graph on the golden inputs of its bundle, unless that was done before, and compare.

    A graph without golden values, or of a size that they do not have, is let be.

    Raises:
        NumericError: its outputs are other ones than at export.
    """
    folder = file.parents[len(PurePosixPath(spec.file).parts) - 1]
    wanted = _wanted(folder, spec)
    if wanted is None or not golden.feedable(wanted, spec.inputs, spec.extents):
        return
    content = json.dumps([wanted, *(entry.digest for entry in entries)], sort_keys=True)
    proof = f"proof {units} {hashlib.sha256(content.encode()).hexdigest()[:16]}"
    ratio = entries[0].notes().get(proof)
    if not isinstance(ratio, (int, float)):
        ratio = golden.psnr_db(wanted, run(golden.inputs(wanted["inputs"])))
        ratio = round(max(-200.0, min(200.0, ratio)), 2)
        entries[0].note(**{proof: ratio})
    least = LEAST_DB_INTEGERS if spec.precision.partition("+")[0] == "int8" else LEAST_DB
    if ratio < least:
        raise NumericError(
            f"{spec.file}: on {units} it does not give what it gave at export: PSNR {ratio:.1f} dB, expected "
            f"are {least:g} and more. Take {tools.instead(units)}."
        )


def _wanted(folder: Path, spec: GraphSpec) -> dict[str, Any] | None:
    """The golden entry of a graph of the bundle in ``folder``, if it has one."""
    if not (folder / MANIFEST).is_file() or not (folder / golden.FILE).is_file():
        return None
    parts = read_json(folder / MANIFEST)["components"]
    roles = (role for role, part in parts.items() if any(g["file"] == spec.file for g in part["graphs"]))
    role = next(roles, "")
    return golden.chosen(golden.read_file(folder / golden.FILE), role, spec.profile)
