"""Opens a scanned graph with ONNX Runtime, also where links put its weights into another folder."""

from __future__ import annotations

import mmap
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgediff import links
from edgediff.onnx_scan import Report


def open_session(ort: Any, file: Path, report: Report | None, options: Any, arguments: dict[str, Any]) -> Any:
    """Return the session of ``file``.

    ONNX Runtime maps weights that lie in the graph's own folder, before or after following a link to the
    graph (so a hub's cache works as it is), and refuses others. Those are handed over as bytes, which it
    copies.
    """
    if report is None or not any(is_apart(weights, file) for weights in report.external_files):
        return ort.InferenceSession(str(file), options, **arguments)
    with ExitStack() as stack:
        names, maps, sizes = [], [], []
        for weights in report.external_files:
            stream, receipt = links.open_regular(weights)
            stack.enter_context(stream)
            if receipt.bytes:
                mapped = mmap.mmap(stream.fileno(), receipt.bytes, access=mmap.ACCESS_READ)
                maps.append(stack.enter_context(mapped))
                names.append(weights.name)
                sizes.append(receipt.bytes)
        options.add_external_initializers_from_files_in_memory(names, maps, sizes)
        return ort.InferenceSession(file.read_bytes(), options, **arguments)


def is_apart(weights: Path, graph: Path) -> bool:
    allowed = (graph.parent.resolve(), graph.resolve().parent)
    return weights.is_symlink() and weights.resolve().parent not in allowed
