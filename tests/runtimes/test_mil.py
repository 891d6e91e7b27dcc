"""The runtime mil: loading, calling, stopping, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("coremltools")

from coremltools.converters.mil import Builder as mb
from mil_helpers import ct, load, ran, write

from edgediff import runtime
from edgediff.bundle import GraphSpec, TensorSpec
from edgediff.errors import (
    BundleError,
    CancelledError,
    InputError,
    ResourceError,
    UnsupportedError,
)
from edgediff.runtimes._mil_float16 import rounded

MODEL = "Data/com.apple.CoreML/model.mlmodel"
ONE = {"x": ((2, 3), "float32")}
X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = 2 x."""
    path = tmp_path_factory.mktemp("a") / "Doubled.mlpackage"
    return write(path, lambda x: mb.mul(x=x, y=np.float32(2), name="y"), ONE)


def test_it_is_found_by_name(doubled: Path) -> None:
    found = runtime.find("mil")
    assert list(found.devices()) == ["cpu"]
    assert found.reads == "coreml"  # type: ignore[attr-defined]


def test_a_graph_says_what_it_is(doubled: Path) -> None:
    graph = load(doubled)
    assert graph.info.inputs == (TensorSpec("x", "float32", (2, 3)),)
    assert graph.info.outputs == (TensorSpec("y", "float32", (2, 3)),)
    assert (graph.info.runtime, graph.info.device, graph.info.nodes) == ("mil", "cpu", {"NumPy": 1})
    assert "NumPy" in graph.info.provider


def test_a_model_file_is_loaded_as_its_package(doubled: Path) -> None:
    spec = GraphSpec("coreml", "original", f"coreml/{doubled.name}/{MODEL}", "fp16")
    graph = runtime.find("mil").load(spec, doubled / MODEL, "cpu", {}, {})
    np.testing.assert_array_equal(graph({"x": X})["y"], 2 * X)


def test_results_are_the_callers_own(tmp_path: Path) -> None:
    graph = load(write(tmp_path / "a.mlpackage", lambda x: mb.identity(x=x, name="y"), ONE))
    x = X.copy()
    graph({"x": x})["y"][:] = 7
    np.testing.assert_array_equal(x, X)


def test_constants_are_bound(doubled: Path) -> None:
    graph = load(doubled, x=X)
    np.testing.assert_array_equal(graph({})["y"], 2 * X)


@pytest.mark.parametrize(
    ("feeds", "what"),
    [
        ({}, "found nothing"),
        ({"x": X.astype(np.float64)}, "found float64"),
        ({"x": X[:1]}, r"found float32 \[1, 3\]"),
        ({"x": X, "z": X}, "no input 'z'"),
    ],
)
def test_inputs_are_checked(doubled: Path, feeds: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        load(doubled)(feeds)


def test_other_devices_are_refused(doubled: Path) -> None:
    spec = GraphSpec("coreml", "original", doubled.name, "fp16")
    with pytest.raises(InputError, match="cuda"):
        runtime.find("mil").load(spec, doubled, "cuda", {}, {})


@pytest.fixture
def chunks(tmp_path: Path) -> tuple[Path, Path]:
    """y = 2 x, then z = y - x and a copy of y."""
    return (
        write(tmp_path / "A.mlpackage", lambda x: mb.mul(x=x, y=np.float32(2), name="y"), ONE),
        write(
            tmp_path / "B.mlpackage",
            lambda x, y: (mb.sub(x=y, y=x, name="z"), mb.add(x=y, y=np.float32(1), name="w")),
            {"x": ((2, 3), "float32"), "y": ((2, 3), "float32")},
        ),
    )


def test_stages_are_fed_what_came_before(chunks: tuple[Path, Path]) -> None:
    graph = load(*chunks)
    assert [tensor.name for tensor in graph.info.inputs] == ["x"]
    found = graph({"x": X})
    assert list(found) == ["z", "w"]
    np.testing.assert_array_equal(found["z"], X)


def test_a_manifest_says_which_outputs_of_stages_count(chunks: tuple[Path, Path]) -> None:
    first, second = chunks
    outputs = tuple(TensorSpec(name, "float32", (2, 3)) for name in ("z", "y"))
    spec = GraphSpec(
        "coreml", "original", f"{first.name}/{MODEL}", "fp16",
        outputs=outputs, stages=(f"{second.name}/{MODEL}",),
    )  # fmt: skip
    for file in (first, first / MODEL):
        graph = runtime.find("mil").load(spec, file, "cpu", {}, {})
        assert graph.info.outputs == outputs
        assert list(graph({"x": X})) == ["z", "y"]


def test_a_call_is_stopped_between_operations(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        for _ in range(2000):
            x = mb.tanh(x=x)
        return x

    graph = load(write(tmp_path / "a.mlpackage", build, {"x": ((512, 512), "float32")}))
    timer = threading.Timer(0.05, graph.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        graph({"x": np.full((512, 512), 0.5, np.float32)})
    timer.join()


def test_a_cancelled_graph_runs_again(doubled: Path) -> None:
    graph = load(doubled)
    graph.cancel()
    np.testing.assert_array_equal(graph({"x": X})["y"], 2 * X)


def test_a_closed_graph_is_not_called(doubled: Path) -> None:
    graph = load(doubled)
    graph.close()
    with pytest.raises(ResourceError, match="closed"):
        graph({"x": X})


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "unknown": (lambda x: mb.topk(x=x, k=1, axis=1)[0], "operation topk .* is not known"),
    "form": (
        lambda x: mb.max_pool(
            x=mb.reshape(x=x, shape=[1, 1, 2, 3]), kernel_sizes=[1, 2], strides=[1, 2], pad_type="custom",
            pad=[0, 0, 0, 0], ceil_mode=True,
        ),
        "operation max_pool .*: ceil_mode",
    ),
    "computed": (
        lambda x: mb.cond(
            pred=mb.greater(x=mb.reduce_sum(x=x), y=np.float32(0)),
            _true_fn=lambda: mb.add(x=x, y=np.float32(1)),
            _false_fn=lambda: mb.add(x=x, y=np.float32(2)),
        ),
        "operation cond .* is not known",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_compute_is_said_at_load(name: str, tmp_path: Path) -> None:
    build, message = REFUSED[name]
    path = write(tmp_path / "Odd.mlpackage", build, ONE)
    with pytest.raises(UnsupportedError, match=f"Odd.mlpackage: {message}"):
        load(path)


def test_indices_beyond_a_table_are_an_error(tmp_path: Path) -> None:
    table = np.zeros((4, 2), np.float32)
    build = lambda i: mb.gather(x=table, indices=i, axis=0, validate_indices=False)  # noqa: E731
    path = write(tmp_path / "a.mlpackage", build, {"i": ((1,), "int32")})
    with pytest.raises(BundleError, match="operation gather"):
        load(path)({"i": np.int32([4])})


def test_no_small_program_asks_for_much_memory(tmp_path: Path) -> None:
    build = lambda x: mb.reduce_sum(x=mb.tile(x=x, reps=[60000, 60000]))  # noqa: E731
    path = write(tmp_path / "a.mlpackage", build, ONE)
    with pytest.raises(ResourceError, match=r"2\^31"):
        load(path)


def test_parameters_of_the_wrong_type_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mlpackage", lambda x: mb.softmax(x=x, axis=1), ONE)
    spec = ct.utils.load_spec(str(path / MODEL))
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    for operation in block.operations:
        if operation.type == "softmax":
            del operation.inputs["axis"].arguments[:]
            value = operation.inputs["axis"].arguments.add().value
            value.type.tensorType.dataType = 2  # a string
            value.immediateValue.tensor.strings.values.append("wide")
    (path / MODEL).write_bytes(spec.SerializeToString())
    with pytest.raises(
        BundleError, match=r"operation softmax .*: its parameters are not what they should be"
    ):
        load(path)


def test_a_program_that_lacks_a_parameter_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mlpackage", lambda x: mb.transpose(x=x, perm=[1, 0]), ONE)
    spec = ct.utils.load_spec(str(path / MODEL))
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    for operation in block.operations:
        operation.inputs.pop("perm", None)
    (path / MODEL).write_bytes(spec.SerializeToString())
    with pytest.raises(BundleError, match="lacks its parameter 'perm'"):
        load(path)


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"None\.mlpackage"):
        load(tmp_path / "None.mlpackage")


def test_neither_coremltools_nor_torch_is_imported(doubled: Path) -> None:
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("coremltools", "torch", "onnx", "onnxruntime", "google"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import json
import numpy as np
from pathlib import Path
from edgediff.bundle import GraphSpec
from edgediff.runtimes import mil
path = Path({str(doubled)!r})
graph = mil.runtime().load(GraphSpec("coreml", "original", path.name, "fp16"), path, "cpu", {{}}, {{}})
print(json.dumps(graph({{"x": np.ones((2, 3), np.float32)}})["y"].tolist()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [[2.0] * 3] * 2


def test_half_precision_rounds_as_ieee_754_says() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    kept = every[np.isfinite(every)]
    np.testing.assert_array_equal(rounded(kept.copy()), kept)
    positive = np.sort(kept[kept >= 0])
    halfway = (positive[1:] + positive[:-1]) / 2
    rng = np.random.default_rng(0)
    wide = rng.standard_normal(100_000).astype(np.float32) * np.float32(10.0) ** rng.integers(-9, 6, 100_000)
    for values in (
        halfway,
        np.nextafter(halfway, np.float32(0)),
        np.nextafter(halfway, np.float32(1e9)),
        wide,
    ):
        with np.errstate(over="ignore"):
            due = values.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(rounded(values.astype(np.float32)), due)
        np.testing.assert_array_equal(rounded(-values.astype(np.float32)), -due)


def test_half_precision_overflows_to_infinity() -> None:
    values = np.float32([65504, 65519.99, 65520, -65520, 1e30, np.inf, -np.inf, np.nan, 0.0, -0.0])
    due = np.float32([65504, 65504, np.inf, -np.inf, np.inf, np.inf, -np.inf, np.nan, 0.0, -0.0])
    found = rounded(values)
    np.testing.assert_array_equal(found, due)


def test_half_precision_is_kept_between_operations(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        half = mb.cast(x=x, dtype="fp16")
        square = mb.mul(x=half, y=half)  # 2^-20 and 2^18: one is subnormal, the other no number of float16
        return mb.cast(x=square, dtype="fp32")

    path = write(tmp_path / "a.mlpackage", build, {"x": ((3,), "float32")})
    found = next(iter(ran(path, {"x": np.float32([2**-10 * 1.5, 512, 1 + 2**-12])}).values()))
    np.testing.assert_array_equal(found, np.float32([np.float16(2.25 * 2**-20), np.inf, 1]))
