"""What every session of ONNX Runtime is told, whoever opens it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FOLDED = "optimization.constant_folding_max_output_size_in_bytes"


def session_options(ort: Any, threads: int, extents: Mapping[str, int] | None = None) -> Any:
    """Return the options of a session of ``threads``; ``extents`` fixes dims of the inputs by name."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; nothing is printed beside it
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Inference waits on nothing else here: spinning threads only take the core from the caller.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A few bytes of graph may ask for gigabytes at load; what is larger is computed when it is used.
    options.add_session_config_entry(_FOLDED, str(256 << 20))
    # Activations beside integer weights stay float where the graph says so; the default rounds them.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    # Files are ONNX, as they were scanned, whatever other format their bytes might be read as.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.intra_op_num_threads = threads
    for name, extent in (extents or {}).items():
        options.add_free_dimension_override_by_name(name, extent)
    return options
