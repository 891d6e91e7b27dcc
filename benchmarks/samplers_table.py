"""What each sampler reads and how near it is to diffusers: ``python -m benchmarks.samplers_table``.

Every value of every option that a sampler takes is tried alone, with every prediction and every spacing, at
1 to 30 steps, against diffusers' scheduler with the same noise and a non-linear stand-in for the network.
The largest difference, relative to the largest value of the result, goes into docs/samplers.md, with the
counts of what was compared, of what the reference refuses, of what only we refuse, and of what the
reference itself cannot do (it returns NaN or fails with an error that is no refusal). Lines are those of
the family's file without blanks, comments and docstrings. Needs PyTorch and diffusers.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
import itertools
import json
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgediff import sampler as samplers
from edgediff.errors import EdgediffError
from edgediff.noise import TorchNoise
from edgediff.schedule import Request
from tests.sampler_parity import BASE, SHAPE, Wide, compare, reference, walk, worst

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "samplers.md"
STEPS = (1, 2, 3, 4, 7, 10, 15, 20, 30)
VALUES: dict[str, tuple[Any, ...]] = {
    "prediction_type": ("epsilon", "v_prediction", "sample", "flow_prediction"),
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "use_karras_sigmas": (True,), "use_exponential_sigmas": (True,), "use_beta_sigmas": (True,),
    "use_lu_lambdas": (True,), "use_flow_sigmas": (True,), "rescale_betas_zero_snr": (True,),
    "final_sigmas_type": ("sigma_min",), "solver_order": (1, 3), "solver_type": ("heun", "bh1", "midpoint"),
    "algorithm_type": ("dpmsolver", "sde-dpmsolver", "sde-dpmsolver++", "noise_prediction"),
    "lower_order_final": (False,), "euler_at_final": (True,), "steps_offset": (1,),
    "set_alpha_to_one": (False,), "clip_sample": (True, False), "thresholding": (True,),
    "interpolation_type": ("log_linear",), "timestep_type": ("continuous",), "shift": (3.0,),
    "flow_shift": (3.0,), "shift_terminal": (0.1,), "stochastic_sampling": (True,), "invert_sigmas": (True,),
    "beta_schedule": ("linear", "squaredcos_cap_v2"), "variance_type": ("fixed_large", "fixed_small_log"),
    "predict_x0": (False,), "predictor_order": (1, 3), "corrector_order": (1, 3),
    "disable_corrector": ([0, 1],), "original_inference_steps": (100,), "sigma_schedule": ("exponential",),
    "sigma_data": (1.0,), "skip_prk_steps": (False, True), "clip_denoised": (False,),
}  # fmt: skip
GATE = 1e-5


@dataclass
class Row:
    """What was found about one sampler."""

    name: str
    class_name: str
    reads: list[str]
    lines: int
    compared: int = 0
    worst: float = 0.0
    where: str = ""
    both_refuse: int = 0
    over: list[tuple[str, float, float, float]] = field(default_factory=list)
    only_we_refuse: list[str] = field(default_factory=list)
    reference_fails: list[str] = field(default_factory=list)


def main() -> None:
    """Compare everything and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="one sampler; prints its row and writes nothing")
    only = parser.parse_args().only
    warnings.simplefilter("ignore")
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    rows = [_row(name) for name in ([only] if only else _one_each())]
    if only:
        print(json.dumps(rows[0].__dict__, indent=1))
        return
    before, mark, _ = PAGE.read_text().partition("<!-- table:")
    PAGE.write_text(before + mark + " written by benchmarks/samplers_table.py -->\n" + _page(rows))
    print(PAGE)


def _one_each() -> Iterator[str]:
    """One name for each scheduler class: the plain one."""
    for name in samplers.names():
        if samplers.name_of(samplers.scheduler_class(name)) == name:
            yield name


def _row(name: str) -> Row:
    class_name = samplers.scheduler_class(name)
    family = importlib.import_module(samplers.module_of(name))
    row = Row(name, class_name, list(family.DEFAULTS), _lines(family.__file__))
    import diffusers

    known = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    for extra in _configurations({k: v for k, v in family.DEFAULTS.items() if k in known}):
        config = {k: v for k, v in BASE.items() if k in known} | extra
        for steps in STEPS:
            _compare(row, class_name, config, extra, steps)
    return row


def _configurations(defaults: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every prediction with every spacing; and every other value alone, with every prediction."""
    predictions: list[dict[str, Any]] = [{}]
    if defaults.get("prediction_type") in VALUES["prediction_type"]:
        predictions = [{"prediction_type": p} for p in VALUES["prediction_type"]]
    calm = {"clip_sample": False} if "clip_sample" in defaults else {}
    spacings = VALUES["timestep_spacing"] if "timestep_spacing" in defaults else ()
    for prediction, spacing in itertools.product(predictions, spacings or (None,)):
        yield {**calm, **prediction, **({} if spacing is None else {"timestep_spacing": spacing})}
    for key, values in VALUES.items():
        if key in defaults and key not in ("prediction_type", "timestep_spacing"):
            for prediction, value in itertools.product(predictions, values):
                if value != defaults[key]:
                    yield {**calm, **prediction, key: value}


def _compare(row: Row, class_name: str, config: dict[str, Any], extra: dict[str, Any], steps: int) -> None:
    said = {k: v for k, v in extra.items() if k != "clip_sample" or v}
    label = f"{', '.join(f'{k}={v}' for k, v in said.items()) or 'defaults'} at {steps}"
    try:
        found = compare(class_name, config, steps)
    except EdgediffError:
        if _reference_works(class_name, config, steps):
            row.only_we_refuse.append(label)
        else:
            row.both_refuse += 1
        return
    except AssertionError as error:  # the comparison's own: sampler and table differ
        raise SystemExit(f"{row.name}, {label}: {error}") from error
    except Exception as error:
        if _reference_works(class_name, config, steps):
            raise  # the fault is ours, and no row of a table
        if isinstance(error, ValueError | NotImplementedError):
            row.both_refuse += 1  # its constructor or set_timesteps says no
        else:
            row.reference_fails.append(f"{label}: {type(error).__name__}")
        return
    if not np.isfinite(found):
        if _reference_works(class_name, config, steps):
            raise SystemExit(f"{row.name}, {label}: our result is not finite")
        row.reference_fails.append(f"{label}: NaN")
        return
    row.compared += 1
    if found > GATE:
        ours, theirs = _from_float64(class_name, config, steps)
        row.over.append((label, found, ours, theirs))
    elif found > row.worst:
        row.worst, row.where = found, label


def _from_float64(class_name: str, config: dict[str, Any], steps: int) -> tuple[float, float]:
    """How far our float32 result and the reference's are from our sampler's in float64."""
    import diffusers

    scheduler = getattr(diffusers, class_name)(**config)
    solver = samplers.find({**scheduler.config, "_class_name": class_name})
    schedule, x = solver.schedule(Request(steps)), TorchNoise(3).draw(SHAPE)
    exact = walk(solver, schedule, x.astype(np.float64), Wide(7))
    ours = walk(solver, schedule, x, TorchNoise(7))
    return worst(ours, exact), worst(reference(scheduler, x, steps), exact)


def _reference_works(class_name: str, config: dict[str, Any], steps: int) -> bool:
    import diffusers

    try:
        out = reference(getattr(diffusers, class_name)(**config), np.ones(SHAPE, np.float32), steps)
    except Exception:  # whatever it is, it does not sample
        return False
    return bool(np.isfinite(out).all())


def _lines(file: str) -> int:
    """Lines that hold code."""
    source = Path(file).read_text()
    skipped = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
    }
    held: set[int] = set()
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        docstring = token.type == tokenize.STRING and before in (tokenize.NEWLINE, tokenize.INDENT)
        if token.type not in skipped | {tokenize.ENDMARKER} and not docstring:
            held |= set(range(token.start[0], token.end[0] + 1))
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.type
    return len(held)


def _page(rows: list[Row]) -> str:
    lines = [
        "",
        "| sampler | scheduler | compared | worst within the gate | where | over the gate | lines |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        worst = f"{row.worst:.1e} | {row.where}" if row.compared else "| by tests of its own"
        lines.append(
            f"| `{row.name}` | {row.class_name} | {row.compared or ''} | {worst} | {len(row.over) or ''} | "
            f"{row.lines} |"
        )
    total, over = sum(row.compared for row in rows), [(row.name, *one) for row in rows for one in row.over]
    lines += [
        "",
        f"{total} configurations compared, {len(over)} of them over the gate of {GATE:g}. Two classes do",
    ]
    lines += [
        "not fit this loop, as one needs torchsde and one takes angles: tests compare them by themselves.",
        "",
    ]
    lines += [
        "## Over the gate: who is off",
        "",
        "Float32 loses digits where sigma reaches thousands (cosine betas, zero SNR) or where one or two",
        "steps span everything. Of each sampler the three worst, with the distance of both from our sampler",
        "in float64, which tests hold to diffusers' formulas in float64 within 1e-5.",
        "",
        "| sampler | configuration | difference | ours from float64 | diffusers from float64 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        for label, found, ours, theirs in sorted(row.over, key=lambda one: -one[1])[:3]:
            lines.append(f"| `{row.name}` | {label} | {found:.1e} | {ours:.1e} | {theirs:.1e} |")
    further = [row for row in rows for one in row.over if one[2] > one[3]]
    lines += ["", f"In {len(further)} of the {len(over)} ours is the farther one.", ""]
    for title, key in (
        ("Refused here although the reference samples it", "only_we_refuse"),
        ("Where the reference itself fails", "reference_fails"),
    ):
        lines.append(f"## {title}\n")
        listed = [(row.name, getattr(row, key)) for row in rows if getattr(row, key)]
        lines += [f"* `{name}`: {len(labels)} ({'; '.join(_short(labels))})" for name, labels in listed]
        lines += ["", *([] if listed else ["None.", ""])]
    refused = sum(row.both_refuse for row in rows)
    lines += [
        f"{refused} more are refused by the reference.",
        "",
        "## What each reads from `scheduler_config.json`",
        "",
    ]
    lines += [f"* `{row.name}`: {', '.join(f'`{key}`' for key in row.reads)}" for row in rows]
    return "\n".join(lines) + "\n"


def _short(labels: list[str]) -> list[str]:
    """What the labels have in common, each once, at most four: without steps, with the error's class."""
    found = list(dict.fromkeys(_brief(label) for label in labels))
    return found[:4] + ([f"and {len(found) - 4} more"] if len(found) > 4 else [])


def _brief(label: str) -> str:
    what, _, error = label.partition(": ")
    return what.rpartition(" at ")[0] + (f": {error.partition(':')[0]}" if error else "")


if __name__ == "__main__":
    main()
