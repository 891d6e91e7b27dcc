"""The table of what may leave the Neural Engine: each row repeats one published source, with its date.

Nothing here was run on a device, and what no source states is not in the table. Where sources differ, the row
is kept with the source that says so: Core ML decides by the chip and the system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from edgediff.mil_program import Constant, Operation, TypeOf


class Source(NamedTuple):
    """Where a statement was published; ``date`` is that of the text, or of the version that was read."""

    title: str
    url: str
    date: str


class Rule(NamedTuple):
    """One row of the table: ``holds`` says whether an operation is meant, given the types of all values."""

    reason: str
    source: Source
    holds: Callable[[Operation, Mapping[str, TypeOf]], bool]


_GUIDE = "Apple Neural Engine: Architecture, Programming, and Performance"
TYPED_EXECUTION = Source(
    "Guide to Core ML Tools, Typed Execution Workflow Example",
    "https://apple.github.io/coremltools/docs-guides/source/typed-execution-example.html",
    "read 2026-11",
)
DESIGN_RULES = Source(
    f"{_GUIDE}, chapter 17, measured on an M1",
    "https://ane-guide.readthedocs.io/en/latest/part-5-practice/17-model-design-rules.html",
    "2026-08-18",
)
MATRIX = Source(
    f"{_GUIDE}, appendix A, M1 to M5",
    "https://ane-guide.readthedocs.io/en/latest/appendices/a-op-device-matrix.html",
    "2026-08-18",
)
HOLLANCE = Source(
    "Which Core ML layers are not supported by the ANE? (hollance/neural-engine)",
    "https://github.com/hollance/neural-engine/blob/master/docs/unsupported-layers.md",
    "2020-12-01",
)
WHISPER_PLAN = Source(
    "Core ML's compute plan of a text decoder of Whisper",
    "https://huggingface.co/mickekringai/kb-whisper-coreml/blob/main/medium/TextDecoder.mlcomputeplan.json",
    "undated",
)
RANK = Source(
    "microsoft/onnxruntime issue 14212: 'ANE does not support blob with rank: 6'",
    "https://github.com/microsoft/onnxruntime/issues/14212",
    "2023-08-09",
)
RECURRENT = Source(
    "apple/coremltools issue 1780, a maintainer's answer",
    "https://github.com/apple/coremltools/issues/1780",
    "2023-02-26",
)
RANGES = Source(
    "Apple Developer Forums, an engineer's answer",
    "https://developer.apple.com/forums/thread/724930",
    "undated",
)
STABLE_DIFFUSION = Source(
    "apple/ml-stable-diffusion, README",
    "https://github.com/apple/ml-stable-diffusion/blob/main/README.md",
    "2025-07-03",
)
NO_PATH = frozenset({
    "acos", "acosh", "asin", "asinh", "atanh", "band_part", "constexpr_cast", "cosh", "list_gather",
    "list_length", "list_read", "list_scatter", "list_write", "logical_and", "logical_or", "logical_xor",
    "make_list", "mod", "non_zero", "one_hot", "random_bernoulli", "random_categorical", "random_normal",
    "reduce_prod", "reverse_sequence", "scatter", "scatter_along_axis", "scatter_nd", "shape", "sinh",
    "sliding_windows", "tan",
})  # fmt: skip
MAX_WIDTH, MAX_CHANNELS, MAX_KERNEL = 16384, 65536, 13
MAX_RANK = 5
MAX_UPSAMPLING = 2
_UPSAMPLING = {"upsample_nearest_neighbor", "upsample_bilinear"}


def _made(operation: Operation) -> Iterable[TypeOf]:
    return (output.type for output in operation.outputs)


def _dtype(*dtypes: str) -> Callable[[Operation, Mapping[str, TypeOf]], bool]:
    return lambda operation, _: any(made.dtype in dtypes for made in _made(operation))


def _is(*kinds: str) -> Callable[[Operation, Mapping[str, TypeOf]], bool]:
    return lambda operation, _: operation.type in kinds


def _in_float32(operation: Operation, types: Mapping[str, TypeOf]) -> bool:
    # A cast between the floats is one of the engine's own operations (appendix A).
    return operation.type != "cast" and _dtype("float32")(operation, types)


def _wide(operation: Operation, _: Mapping[str, TypeOf]) -> bool:
    sizes = [[size or 0 for size in made.shape] for made in _made(operation)]
    return any(
        max(shape[-2:] if len(shape) > 3 else shape[-1:], default=0) > MAX_WIDTH
        or (len(shape) > 3 and shape[-3] > MAX_CHANNELS)
        for shape in sizes
    )


def _shape(operation: Operation, name: str, types: Mapping[str, TypeOf]) -> tuple[int | None, ...]:
    given = operation.argument(name)
    found = given.type if isinstance(given, Constant) else types.get(given or "")
    return () if found is None else found.shape


def _large_kernel(operation: Operation, types: Mapping[str, TypeOf]) -> bool:
    if operation.type != "conv":
        return False
    shape = _shape(operation, "weight", types)
    return len(shape) > 2 and (shape[-1] or 0) > MAX_KERNEL


def _scaled_up(operation: Operation, types: Mapping[str, TypeOf]) -> bool:
    if operation.type not in _UPSAMPLING:
        return False
    before, after = _shape(operation, "x", types), next(iter(_made(operation))).shape
    pairs = list(zip(before, after, strict=False))[-2:]
    return any(a and b and b > a * MAX_UPSAMPLING for a, b in pairs)


def _product_of_heads(operation: Operation, types: Mapping[str, TypeOf]) -> bool:
    if operation.type != "matmul" or len(next(iter(_made(operation))).shape) < 4:
        return False
    # Constants are not among the values that are computed.
    return all(isinstance(name := operation.argument(side), str) and name in types for side in "xy")


TABLE = (
    Rule("computes in float32, which runs on the GPU or the CPU", TYPED_EXECUTION, _in_float32),
    Rule("makes int32; the M1 rejects a cast to it", MATRIX, _dtype("int32")),
    Rule("has no path on any chip from M1 to M5", MATRIX, _is(*sorted(NO_PATH))),
    Rule("a loop or a branch, which is not compiled for the engine", MATRIX, _is("cond", "while_loop")),
    Rule("has no path before the M3 and A15", MATRIX, _is("sin", "cos")),
    Rule(
        "has no path on the M1 and A13", MATRIX, _is("topk", "argsort", "crop_resize", "resample", "affine")
    ),
    Rule("was placed on the CPU, the only unit offered", WHISPER_PLAN, _is("gather")),
    Rule("runs elsewhere, as gathering does", HOLLANCE, _is("gather_nd", "gather_along_axis")),
    Rule("recurrent", RECURRENT, _is("lstm", "gru", "rnn")),
    Rule(
        f"makes a tensor of more than {MAX_RANK} axes",
        RANK,
        lambda operation, _: any(len(made.shape) > MAX_RANK for made in _made(operation)),
    ),
    Rule(
        f"makes an image wider or higher than {MAX_WIDTH}, or with more than {MAX_CHANNELS} channels; "
        "chips before the A16 reject it",
        DESIGN_RULES,
        _wide,
    ),
    Rule(f"has a kernel wider than {MAX_KERNEL} in float16", DESIGN_RULES, _large_kernel),
    Rule(f"enlarges by more than {MAX_UPSAMPLING}", HOLLANCE, _scaled_up),
    Rule(
        "multiplies all heads of attention at once, the form that Apple publishes for the CPU and the GPU",
        STABLE_DIFFUSION,
        _product_of_heads,
    ),
)
