"""``python -m tests``: everything the project promises about itself, in one command.

    python -m tests             lint, types over the wheel, all tests, with this interpreter
    python -m tests --fast      without what is slow or compares with PyTorch
    python -m tests --full      sweeps whole, which otherwise take each value of every option once
    python -m tests --setup     all of it in a fresh environment (.venv-test) that it makes; needs only Python
    python -m tests --optimum   tests/optimum alone, which needs Optimum's older stack (.venv-optimum)

What follows ``--`` is handed to pytest. PyTorch is installed by itself first; on Linux, set
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu to take its small build.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV, CONSTRAINTS = ROOT / ".venv-test", ROOT / "tests" / "constraints.txt"
# Optimum's exporter and current transformers do not install together.
OPTIMUM_VENV, OPTIMUM_CONSTRAINTS = ROOT / ".venv-optimum", ROOT / "tests" / "constraints-optimum.txt"
ENVIRONMENT = {"ORT_DISABLE_TELEMETRY": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "MPLBACKEND": "Agg"}


def main() -> int:
    """Run every step, also after one that failed; the status says whether all went well."""
    parser = argparse.ArgumentParser(prog="python -m tests", description="Run the project's own tests.")
    parser.add_argument("--setup", action="store_true", help=f"make {VENV.name} and run in it")
    parser.add_argument(
        "--optimum",
        action="store_true",
        help=f"what compares with Optimum; --setup makes {OPTIMUM_VENV.name}",
    )
    parser.add_argument(
        "--fast", action="store_true", help="leave out slow tests and comparisons with PyTorch"
    )
    parser.add_argument("--full", action="store_true", help="run sweeps whole, not turn about")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    chosen = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036  (whoever runs this has installed nothing yet)
        sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")
    os.environ.update(ENVIRONMENT)
    os.environ["EDGEDIFF_FULL"] = "1" if chosen.full else "0"
    if chosen.optimum:
        return with_optimum(chosen.setup, chosen.pytest)
    python = set_up(with_torch=not chosen.fast) if chosen.setup else Path(sys.executable)
    with tempfile.TemporaryDirectory(prefix="edgediff-wheel-") as folder:
        steps = [
            ("lint", [python, "-m", "ruff", "check", "."]),
            ("format", [python, "-m", "ruff", "format", "--check", "."]),
        ]
        if not chosen.fast:
            steps.append(("wheel", [python, "-m", "tests.wheel", folder]))
        failed = [name for name, command in steps if not step(name, command)]
        wheels = list(Path(folder).glob("*.whl"))
        if wheels:
            os.environ["EDGEDIFF_WHEEL"] = str(wheels[0])
        if not chosen.fast:
            os.environ["EDGEDIFF_PARITY"] = "1"
        subset = ["-m", "not slow and not parity"] if chosen.fast else []
        if failed:
            print(f"already failed: {', '.join(failed)}; the tests follow", flush=True)
        # The tests' own closing line is the last one printed.
        tests = [python, "-m", "pytest", "--durations=10", *side_by_side(), *subset, *chosen.pytest]
        return subprocess.run(tests, cwd=ROOT).returncode or len(failed)


def step(name: str, command: list[str | Path]) -> bool:
    """Run one step and say how long it took."""
    began = time.monotonic()
    ok = subprocess.run(command, cwd=ROOT).returncode == 0
    print(f"[{name}] {'passed' if ok else 'FAILED'} in {time.monotonic() - began:.1f} s", flush=True)
    return ok


def side_by_side() -> list[str]:
    """One process per core, four at most, each with one thread: most tests are too small for two."""
    cores = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    if cores == 1:
        return []
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return ["-n", str(cores), "--dist", "worksteal"]


def with_optimum(fresh: bool, arguments: list[str]) -> int:
    """Run tests/optimum where Optimum is installed, and see to that first: elsewhere they are skipped."""
    python = Path(sys.executable)
    if fresh:
        edgediff = ["--no-build-isolation", "--editable", ".[optimum]"]
        python = installed(OPTIMUM_VENV, OPTIMUM_CONSTRAINTS, [["torch"], ["setuptools", "pytest"], edgediff])
    os.environ["HF_HUB_OFFLINE"] = "1"
    if not step("stack", [python, "-c", "import optimum.onnxruntime, onnxscript"]):
        sys.exit("Optimum's stack is not installed here; add --setup.")
    # What its tracer warns of is Optimum's.
    tests = [python, "-m", "pytest", "tests/optimum", "--durations=5", "--disable-warnings", *arguments]
    return subprocess.run(tests, cwd=ROOT).returncode


def set_up(with_torch: bool) -> Path:
    """Make a fresh environment with the versions of tests/constraints.txt; return its interpreter."""
    import tomllib  # from Python 3.11 on; main() has looked

    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    # PyTorch first and by itself, so that nothing else decides which build of it comes.
    # diffusers asks for scipy where it lays out beta sigmas, and for LMS; for peft where it reads adapters.
    wanted = [["torch"], ["diffusers", "transformers", "peft", "scipy"]] if with_torch else []
    wanted += [["setuptools", *groups["dev"]], ["--no-build-isolation", "--editable", ".[export,coreml]"]]
    return installed(VENV, CONSTRAINTS, wanted)


def installed(venv: Path, constraints: Path, wanted: list[list[str]]) -> Path:
    """Make a fresh environment, install one list of packages after the other; return its interpreter."""
    shutil.rmtree(venv, ignore_errors=True)
    if not step("environment", [sys.executable, "-m", "venv", venv]):
        sys.exit(f"{venv}: the environment could not be made; is the venv module installed?")
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints]
    for packages in wanted:
        if not step("install " + " ".join(packages), [*pip, *packages]):
            sys.exit(
                f"{' '.join(packages)} could not be installed; pip says why above. Is the index reachable?"
            )
    return python


if __name__ == "__main__":
    sys.exit(main())
