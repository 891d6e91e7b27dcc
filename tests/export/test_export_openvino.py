"""The form for OpenVINO: int8 convolutions whose results are not rounded, in int8 on the plug-in too."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from export_helpers import Array, run
from test_export_integers import Checkpoint, checkpoint, codings, every, inputs_of, ratio, recorded, rounding

from edgediff.export.emit.integers import Quantization
from edgediff.export.emit.onnx import PORTABLE
from edgediff.export.emit.onnx_openvino import OPENVINO
from edgediff.runtimes import _ort_openvino as openvino
from edgediff.runtimes import _ort_providers as providers

MISSING = importlib.util.find_spec("onnxruntime_ep_openvino") is None


@pytest.fixture
def made(tmp_path: Path) -> tuple[Checkpoint, Quantization, dict[str, Array], Path]:
    """A U-Net of random weights, what is quantized of it, inputs, and the file."""
    graph = recorded("U-Net")
    weights, inputs = checkpoint(graph, tmp_path), inputs_of(graph, (1, 8, 8))
    choices = every(graph, "int8")
    quantization = Quantization(choices, weights.spans(inputs, choices))
    file = weights.write({"openvino": OPENVINO}, quantization=quantization)["openvino"]
    return weights, quantization, inputs, file


def test_it_is_the_float_graph_with_rounded_inputs_alone(
    made: tuple[Checkpoint, Quantization, dict[str, Array], Path],
) -> None:
    weights, quantization, inputs, file = made
    plain = run(weights.write({"float": PORTABLE})["float"], inputs)["out_sample"]
    rounded = weights.rounded(codings(weights.graph, quantization.choices))
    profile = rounding(quantization, True, unless=tuple(quantization.choices))
    wanted = run(rounded.write({"float": profile})["float"], inputs)["out_sample"]
    lost = ratio(wanted, plain)
    assert 20 < lost < 45
    assert ratio(run(file, inputs)["out_sample"], plain) > lost - 2


def test_gated_activations_read_halves_of_a_weight(
    made: tuple[Checkpoint, Quantization, dict[str, Array], Path],
) -> None:
    weights, _, inputs, file = made
    found = weights.write({"openvino": OPENVINO, "portable": PORTABLE})
    results = {name: run(path, inputs)["out_sample"] for name, path in found.items()}
    assert ratio(results["openvino"], results["portable"]) > 100
    for path in (found["openvino"], file):
        graph = onnx.load(path, load_external_data=False).graph
        constants = {each.name for each in graph.initializer}
        cut = [node.input[0] for node in graph.node if node.op_type == "Split"]
        assert cut and constants.issuperset(cut)
        assert len({name for node in graph.node for name in node.output}) == sum(
            len(node.output) for node in graph.node
        )


def test_no_result_of_a_layer_is_quantized(
    made: tuple[Checkpoint, Quantization, dict[str, Array], Path],
) -> None:
    nodes = onnx.load(made[-1], load_external_data=False).graph.node
    scopes = {n.output[0]: n.name.rpartition("/")[0] for n in nodes if n.op_type in ("Conv", "MatMul")}
    quantizers = [node for node in nodes if node.op_type == "QuantizeLinear"]
    assert scopes and quantizers
    assert not [q.name for q in quantizers if scopes.get(q.input[0]) == q.name.rpartition("/")[0]]


@pytest.mark.skipif(MISSING, reason="onnxruntime-ep-openvino is not installed")
def test_the_plug_in_computes_it_in_int8(
    made: tuple[Checkpoint, Quantization, dict[str, Array], Path], tmp_path: Path
) -> None:
    _, _, inputs, file = made
    ort = providers.import_onnxruntime()
    ran: dict[str, Counter[str]] = {}
    options = ort.SessionOptions()
    providers.select(ort, "openvino", options)  # registers the plug-in
    found = [each for each in ort.get_ep_devices() if each.ep_name == "OpenVINOExecutionProvider"]
    config = json.loads(openvino.configured("fp32", 1)["load_config"])
    config["CPU"]["PERF_COUNT"] = "YES"
    options = ort.SessionOptions()
    options.add_provider_for_devices(found[:1], {"load_config": json.dumps(config)})
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = ort.InferenceSession(str(file), options)
    (result,) = session.run(None, inputs)
    for event in json.loads(Path(session.end_profiling()).read_text()):
        told = event.get("args", {})
        if "ov_exec_type" in told:
            kind = ran.setdefault(told["ov_node_type"].removesuffix("QuantizedLegacy"), Counter())
            kind[told["ov_exec_type"].rpartition("_")[2]] += 1
    assert ran["Convolution"]["i8"] > 10 * ran["Convolution"]["f32"], ran
    assert ran["FullyConnected"]["i8"] > ran["FullyConnected"]["f32"], ran
    assert ratio(result, run(file, inputs)["out_sample"]) > 20
    assert np.isfinite(result).all()
