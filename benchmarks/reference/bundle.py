"""Export the student as the bundle that ships: ``python -m benchmarks.reference.bundle``. Needs no PyTorch.

The student's U-Net and scheduler, with its teacher's text encoder, tokenizer and autoencoder, go through
edgediff's own exporter into ``edgediff/bundles/shapes``, weights stored in float16. ``--teacher`` exports the
teacher instead.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from edgediff.export.main import export_onnx

HERE = Path(__file__).parent
SHIPPED = HERE.parents[1] / "edgediff" / "bundles" / "shapes"
STUDENT_DEFAULTS = {"num_inference_steps": 4, "guidance_scale": 3.0}
TEACHER_DEFAULTS = {"num_inference_steps": 20, "guidance_scale": 3.0}


def main() -> None:
    """Assemble a diffusers folder, export it, and say how large the bundle is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--teacher", action="store_true", help="export the teacher, not the student")
    parser.add_argument("--dtype", choices=["fp16", "fp32"], default="fp16")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "edgediff-shapes"
        assemble(folder, options.teacher)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        made = export_onnx(str(folder), str(options.out), dtype=options.dtype, overwrite=True)
    print(f"{options.out}: {made['bytes'] / 1e6:.2f} MB in {made['files']} files")


def assemble(folder: Path, teacher: bool = False) -> None:
    """Write the diffusers folder that is exported."""
    shutil.copytree(HERE / "checkpoint", folder)
    defaults = TEACHER_DEFAULTS
    if not teacher:
        for part in ("unet", "scheduler"):
            shutil.rmtree(folder / part)
            shutil.copytree(HERE / "student" / part, folder / part)
        index = json.loads((folder / "model_index.json").read_text())
        index["_class_name"] = "LatentConsistencyModelPipeline"
        index["scheduler"] = ["diffusers", "LCMScheduler"]
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        defaults = STUDENT_DEFAULTS
    for name in ("calibration.txt", "evaluation.txt"):  # what a quantizer draws with: captions it knows
        shutil.copyfile(HERE / name, folder / name)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / "edgediff_defaults.json").write_text(json.dumps({"defaults": defaults}))


if __name__ == "__main__":
    main()
