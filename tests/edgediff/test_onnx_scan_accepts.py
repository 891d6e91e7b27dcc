"""The scan accepts what exporters write, and survives whatever damage does to a file."""

from __future__ import annotations

import random
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff import onnx_scan, protobuf
from edgediff.bundle import Bundle
from edgediff.errors import EdgediffError
from edgediff.pipeline import EMBEDDED

pytest.importorskip("onnx")
from onnx import TensorProto

from tests.hostile import SPEC, graph, node, outside, product, refused, scan

ROOT = Path(__file__).parents[2]


def test_the_embedded_graphs_are_accepted() -> None:
    bundle = Bundle.open(EMBEDDED)
    for spec in (spec for specs in bundle.components.values() for spec in specs):
        report = onnx_scan.scan(bundle.path / spec.file, spec)
        assert report.nodes > 70, spec.file
        assert [f"{Path(spec.file).parent}/{f.name}" for f in report.external_files] == list(spec.weights)


def test_weights_inside_a_large_file_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_scan, "MAX_GRAPH_BYTES", 2000)
    report = scan(tmp_path, product(w=np.zeros((4, 1000), np.float32)))  # mapped, since it is larger
    assert report.inline_bytes == 16_000
    model = product()
    model.doc_string = "a" * 3000
    refused(tmp_path, model, "more than 2000 bytes of it are no weights")


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_what_we_export_is_accepted(tmp_path: Path, storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors")
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "export"))
    import export_helpers as ours

    from edgediff.export.main import export_onnx

    folder = ours.model_folder(tmp_path / "model")
    export_onnx(str(folder), str(tmp_path / "bundle"), dtype=storage)
    bundle = Bundle.open(tmp_path / "bundle")
    for role, specs in bundle.components.items():
        for spec in specs:
            assert onnx_scan.scan(bundle.path / spec.file, spec).nodes, (role, spec.profile)


@pytest.mark.parity
@pytest.mark.parametrize("dynamo", [False, True])
def test_what_pytorch_exports_is_accepted(tmp_path: Path, dynamo: bool) -> None:
    """What Optimum does with a folder of diffusers, for its largest part."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    if dynamo:
        pytest.importorskip("onnxscript")
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        attention_head_dim=2, cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip
    inputs = {
        "sample": torch.randn(2, 4, 8, 8), "timestep": torch.tensor([1.0]),
        "encoder_hidden_states": torch.randn(2, 16, 16),
    }  # fmt: skip
    options: dict[str, Any] = {"input_names": list(inputs), "output_names": ["out_sample"], "dynamo": dynamo}
    if not dynamo:
        axes = {"sample": {0: "batch", 2: "height", 3: "width"}, "encoder_hidden_states": {0: "batch"}}
        options |= {"dynamic_axes": axes, "opset_version": 14}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(unet, tuple(inputs.values()), str(tmp_path / "model.onnx"), **options)
    report = onnx_scan.scan(tmp_path / "model.onnx", SPEC)
    assert report.operators["Conv"] > 5
    assert report.initializers > 50


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return ``data`` with a few bits, bytes or runs of bytes changed."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at = draw.randrange(len(changed))
        match draw.randrange(5):
            case 0:
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                changed[at] = draw.choice((0, 0x7F, 0x80, 0xFF, draw.randrange(256)))
            case 2:
                del changed[at : at + draw.randrange(1, 9)]
            case 3:
                changed[at:at] = draw.randbytes(draw.randrange(1, 9))
            case _:
                start = draw.randrange(len(changed))
                changed[at:at] = changed[start : start + draw.randrange(1, 40)]
        changed = changed or bytearray(1)
    return bytes(changed)


def test_three_thousand_damaged_files(tmp_path: Path) -> None:
    """Nothing but our own errors, and no file takes long; some damage is harmless and passes."""
    made = [
        node("Constant", [], ["c"], value_ints=[2, 2]),
        node("Expand", ["e", "c"], ["t"]),
        node("MatMul", ["x", "w"], ["y"], domain=""),
        node("Range", ["r", "r", "r"], ["z"]),
    ]
    typed = TensorProto(name="r", data_type=TensorProto.INT64, dims=[], int64_data=[1])
    whole = graph(*made, w=outside(), e=np.float32([[1, 2]]), r=typed).SerializeToString()
    draw, outcomes, slowest = random.Random(1), {True: 0, False: 0}, 0.0
    scan(tmp_path, whole)
    for turn in range(3000):
        data = mutated(whole, draw) if turn % 10 else draw.randbytes(draw.randrange(1, 200))
        began = time.perf_counter()
        try:
            scan(tmp_path, data)
            outcomes[True] += 1
        except EdgediffError as error:
            assert str(error).removeprefix(str(tmp_path)).isprintable()
            outcomes[False] += 1
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 2
    assert outcomes[False] > 1000
    assert outcomes[True] > 10


@pytest.mark.parametrize("role", ["text_encoder", "decoder"])
def test_damage_to_a_whole_graph(tmp_path: Path, role: str) -> None:
    bundle = Bundle.open(EMBEDDED)
    spec = bundle.graph(role)
    whole, draw = (bundle.path / spec.file).read_bytes(), random.Random(2)
    for name in (spec.file, *spec.weights):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((bundle.path / name).read_bytes())
    for _ in range(200):
        (tmp_path / spec.file).unlink()
        (tmp_path / spec.file).write_bytes(mutated(whole, draw))
        try:
            onnx_scan.scan(tmp_path / spec.file, spec)
        except EdgediffError:
            continue


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x80" * 11, "ten bytes"), (b"\x08" + b"\xff" * 9 + b"\x7f", "64 bits"), (b"\x08", "middle"),
        (b"\x0a\x02a", "beyond"), (b"\x0d\0\0", "beyond"), (b"\x09\0", "beyond"), (b"\x0b", "wire type"),
        (b"\x02\0", "no field 0"), (b"\xf8\xff\xff\xff\xff\x01\0", "no field"),
    ],
)  # fmt: skip
def test_the_wire(data: bytes, says: str) -> None:
    with pytest.raises(protobuf.Fault, match=says):
        list(protobuf.Message(data).fields(0, len(data)))


def test_numbers_on_the_wire() -> None:
    assert protobuf.signed((1 << 64) - 1) == -1
    assert protobuf.small((1 << 64) - 1) == -1
    with pytest.raises(protobuf.Fault, match="32 bits"):
        protobuf.small(1 << 31)
    message = protobuf.Message(b"\x01\xac\x02\x80\x01")
    assert message.numbers(0, 5) == [1, 300, 128]
    assert message.count(0, 5) == 3
    with pytest.raises(protobuf.Fault):
        message.count(0, 4)
    with pytest.raises(protobuf.Fault):
        message.numbers(0, 4)


def test_the_scan_needs_neither_onnx_nor_protobuf() -> None:
    from tests.test_house import loaded_by

    loaded = loaded_by("import edgediff.onnx_scan")
    assert not loaded & {"onnx", "google", "numpy", "onnxruntime"}
    assert "onnx" in sys.modules
