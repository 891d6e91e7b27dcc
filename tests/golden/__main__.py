"""Write the golden files: ``python -m tests.golden``. Numbers come from our own code, and other tests hold
that code to diffusers and PyTorch; the files are for ports to other languages, and to notice changes."""

from __future__ import annotations

import json

from tests.golden import make


def main() -> None:
    """Write everything."""
    (make.HERE / "tables").mkdir(exist_ok=True)
    for name, text in make.tables_by_name().items():
        (make.HERE / "tables" / f"{name}.json").write_text(text)
    (make.HERE / "samplers.json").write_text(_lines(make.sampled()))
    (make.HERE / "noise.json").write_text(_lines(make.noise()))


def _lines(rows: list[dict[str, object]]) -> str:
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


if __name__ == "__main__":
    main()
