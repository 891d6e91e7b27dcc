"""Drawing and judging need NumPy alone."""

from __future__ import annotations

import subprocess
import sys

LIGHT = ("grammar", "render", "judge", "score", "tokenizer", "card")


def test_what_is_light_stays_light() -> None:
    heavy = "'torch', 'diffusers', 'transformers', 'tokenizers'"
    names = ", ".join(f"benchmarks.reference.{name}" for name in LIGHT)
    script = f"import sys\nfor name in ({heavy}): sys.modules[name] = None\nimport {names}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
