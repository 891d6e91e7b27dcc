"""Weights of ML programs as palettes or integers, by the passes of ``coremltools.optimize``.

The passes are applied to the program that the emitter built, before it is written. The public functions take
a saved model, read all its weights back and convert it a second time through every default pass: 16 kernels
of 1280 x 1280 x 3 x 3 at 6 bits took 11.1 s and 1.7 GiB so, and 7.7 s and 1.2 GiB here.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import InputError, UnsupportedError
from edgediff.export.coreml.palettes import palette
from edgediff.export.coreml.schemes import Scheme, check, fitted
from edgediff.export.emit.mil_form import Target
from edgediff.export.emit.mil_model import coremltools, quiet

Say = Callable[[str], None]
SMALL = 2048
"""Weights of at most so many numbers stay as they are: a table of 256 entries and its header would take as
much as they save. It is the default of coremltools, too."""
_LAYERS = ("conv", "linear")  # all that the emitter gives weights; output channels lie on their first axis


def compress(
    program: Any,
    scheme: Scheme | Mapping[str, Scheme],
    *,
    target: Target,
    keep: Collection[str] = (),
    threshold: int = SMALL,
    report: Say | None = None,
) -> Any:
    """The program itself, with the weights of its layers stored as ``scheme`` says.

    A mapping says it by name of the constant; what it does not name stays float. Else it holds for every
    weight of a convolution or linear layer of more than ``threshold`` numbers, except those in
    ``keep``; tables whose rows are looked up, biases and norms stay float. ``mixed`` must have been made a
    mapping by its search.

    Raises UnsupportedError where the target or coremltools cannot store a weight so, InputError for a scheme
    that says nothing of one weight, SourceError for weights that are not finite.
    """
    wanted = _wanted(program, scheme, keep, threshold)
    if not wanted:
        return program
    optimize = coremltools().optimize.coreml
    passes = importlib.import_module("coremltools.optimize.coreml._quantization_passes")
    chosen = {name: fitted(each, shape) for name, (each, shape) in wanted.items()}
    for each in chosen.values():
        if each.kind not in ("palette", "linear"):
            raise InputError(f"{each.name} is no way to store one weight; its search comes first.")
        check(each, target)
    palettes = optimize.OptimizationConfig()
    integers = optimize.OptimizationConfig()
    for name, each in chosen.items():
        if each.kind == "palette":
            palettes.set_op_name(name, _palettizer(optimize, each))
        else:
            integers.set_op_name(name, _quantizer(optimize, each))
    if report is not None:
        report(f"storing {len(wanted)} weights as {_named(scheme)}")
    for config, made in ((palettes, passes.palettize_weights), (integers, passes.linear_quantize_weights)):
        if config.op_name_configs:
            # Channels that are all zeros have the scale 0, by which the pass divides.
            with quiet(), np.errstate(divide="ignore", invalid="ignore"):
                made(config).apply(program)
    gc.collect()  # what was replaced is part of cycles
    left = sorted(set(wanted) & {op.name for op in _constants(program)})
    if left:
        raise UnsupportedError(
            f"coremltools left {len(left)} weights as they were, the first {left[0]!r} as "
            f"{wanted[left[0]][0].name}. Leave them out of the plan, or choose another scheme."
        )
    return program


def weights_of(program: Any, threshold: int = SMALL) -> dict[str, tuple[int, ...]]:
    """The shapes of the constants that a scheme changes where it is asked for a whole program, by name."""
    return {op.name: op.outputs[0].shape for op in _constants(program) if _is_layer(op, threshold)}


def _wanted(
    program: Any, scheme: Scheme | Mapping[str, Scheme], keep: Collection[str], threshold: int
) -> dict[str, tuple[Scheme, tuple[int, ...]]]:
    if isinstance(scheme, Scheme):
        found = weights_of(program, threshold)
        return {name: (scheme, shape) for name, shape in found.items() if name not in keep}
    shapes = {op.name: op.outputs[0].shape for op in _constants(program) if op.outputs[0].rank >= 2}
    return {name: (each, shapes[name]) for name, each in scheme.items() if name in shapes}


def _constants(program: Any) -> Iterator[Any]:
    for function in program.functions.values():
        for op in function.operations:
            if op.op_type == "const" and isinstance(op.outputs[0].val, np.ndarray):
                yield op


def _is_layer(op: Any, threshold: int) -> bool:
    value = op.outputs[0]
    if value.rank < 2 or value.val.size <= threshold or not np.issubdtype(value.val.dtype, np.floating):
        return False
    readers = value.child_ops
    return bool(readers) and all(each.op_type in _LAYERS and each.weight is value for each in readers)


def _palettizer(optimize: Any, scheme: Scheme) -> Any:
    def table(weight: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        lut, indices = palette(weight, scheme.bits)
        return lut, indices.ravel()

    # Mode "kmeans" asks scikit-learn, with a random start, for weights of fewer than 10,000 numbers.
    return optimize.OpPalettizerConfig(
        mode="custom",
        lut_function=table,
        granularity=scheme.granularity,
        group_size=scheme.group_size or 0,
        channel_axis=0 if scheme.granularity == "per_grouped_channel" else None,
        weight_threshold=0,
    )


def _quantizer(optimize: Any, scheme: Scheme) -> Any:
    return optimize.OpLinearQuantizerConfig(
        mode="linear_symmetric",
        dtype=f"int{scheme.bits}",
        granularity=scheme.granularity,
        block_size=scheme.group_size or 0,
        weight_threshold=0,
    )


def _named(scheme: Scheme | Mapping[str, Scheme]) -> str:
    if isinstance(scheme, Scheme):
        return scheme.name
    return ", ".join(sorted({each.name for each in scheme.values()}))
