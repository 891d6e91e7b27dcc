"""Whether sweeps run whole (``python -m tests --full``) or turn about, each value of every option once."""

from __future__ import annotations

import os

THOROUGH = os.environ.get("EDGEDIFF_FULL") == "1"
