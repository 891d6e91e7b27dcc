"""Adapters: closed forms of every kind, types of numbers, what they do to a graph, and hints."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import TINY_TEXT, build, model_folder, run, write_safetensors

from edgediff.errors import InputError
from edgediff.export.checkpoint import clip_spellings
from edgediff.export.lora.file import read_adapter
from edgediff.export.lora.hint import recipe_hint
from edgediff.export.lora.match import steps
from edgediff.export.lora.source import AdaptedSource, parse_lora
from edgediff.export.lora.tensors import AdaptedTensors
from edgediff.export.networks import clip_text
from edgediff.export.sources import Component, Source, open_source
from edgediff.export.tensors import TensorFiles, Tensors

Array = np.ndarray[Any, Any]
CONV, LINEAR = "mid_block.resnets.0.conv1", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONV_SHAPE, LINEAR_SHAPE = (16, 16, 3, 3), (16, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("lora") / "model")


def draw(*shape: int, seed: int = 0) -> Array:
    return 0.5 * np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def save(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file, with metadata if there is some."""
    write_safetensors(path, tensors)
    if metadata is not None:
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.dumps({"__metadata__": dict(metadata), **json.loads(data[8 : 8 + length])}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
    return path


def adapted(model: Path, file: Path, scale: float = 1.0, component: str = "unet") -> tuple[Tensors, Tensors]:
    """A component's tensors without and with the adapter."""
    plain = open_source(str(model))
    sources: list[Source] = [plain, AdaptedSource(plain, [read_adapter(file, scale)])]
    classes = (str(plain.class_of(component)),)
    before, after = (source.component(component, classes).tensors for source in sources)
    return before, after


def check(model: Path, file: Path, scale: float, wanted: Mapping[str, Array]) -> None:
    """The tensors named are the ones wanted, read whole or in pieces; all others are as they were."""
    before, after = adapted(model, file, scale)
    for name in before.entries:
        found = after.whole(name)
        assert found.shape == before.entries[name].shape
        np.testing.assert_array_equal(np.concatenate(list(after.rows(name, 1 << 30))).ravel(), found.ravel())
        pieces = list(after.rows(name, 32))
        assert name not in wanted or len(pieces) > 1
        np.testing.assert_allclose(np.concatenate(pieces).ravel(), found.ravel(), atol=1e-6)
        if name in wanted:
            np.testing.assert_allclose(found, wanted[name].reshape(found.shape), atol=3e-6)
        else:
            np.testing.assert_array_equal(found, before.whole(name))


def weight(model: Path, module: str, part: str = "weight") -> Array:
    found = open_source(str(model)).component("unet", ("UNet2DConditionModel",)).tensors
    return found.whole(f"{module}.{part}")


def forms() -> dict[str, tuple[str, dict[str, Array], Array]]:
    """Kind -> module, the parts it is stored as, and by the definition of the kind what they add."""
    up, down = draw(16, 2), draw(2, 16, seed=1)
    kernel_down, mid = draw(2, 16, 3, 3), draw(2, 2, 3, 3)
    one, other = draw(4, 2), draw(4, 8)
    w1, w2, w2_kernel = draw(4, 2, seed=2), draw(4, 8, seed=3), draw(4, 8, 3, 3)
    tucker = np.einsum("oi,ijhw,jn->onhw", up, mid, down)
    kron = {(i, j): w1[i, j] * w2_kernel for i in range(4) for j in range(2)}
    kron_kernel = np.block([[[[kron[i, j][..., h, w] for j in range(2)] for i in range(4)] for w in range(3)]
                            for h in range(3)]).reshape(3, 3, 16, 16).transpose(2, 3, 0, 1)  # fmt: skip
    alpha = np.float32(3.0)
    hada = {
        "hada_w1_a": up,
        "hada_w1_b": down,
        "hada_w2_a": draw(16, 2, seed=4),
        "hada_w2_b": draw(2, 16, seed=5),
    }
    rebuilt = np.einsum("oi,ijhw,jn->onhw", hada["hada_w2_a"], mid, hada["hada_w2_b"])
    lying = {key: value.T if key.endswith("_a") else value for key, value in hada.items()}
    return {
        "lora": (LINEAR, {"lora_up.weight": up, "lora_down.weight": down}, up @ down),
        "lora, alpha": (
            LINEAR, {"lora_up.weight": up, "lora_down.weight": down, "alpha": alpha}, 1.5 * up @ down
        ),
        "locon": (
            CONV,
            {"lora_up.weight": up.reshape(16, 2, 1, 1), "lora_down.weight": kernel_down},
            np.einsum("or,rnhw->onhw", up, kernel_down),
        ),
        "locon, tucker": (
            CONV,
            {
                "lora_up.weight": up.reshape(16, 2, 1, 1), "lora_mid.weight": mid, "alpha": alpha,
                "lora_down.weight": down.reshape(2, 16, 1, 1),
            },
            1.5 * tucker,
        ),
        "loha": (
            LINEAR, {**hada, "alpha": alpha}, 1.5 * (up @ down) * (hada["hada_w2_a"] @ hada["hada_w2_b"])
        ),
        "loha, tucker": (CONV, {**lying, "hada_t1": mid, "hada_t2": mid}, tucker * rebuilt),
        "lokr": (LINEAR, {"lokr_w1": w1, "lokr_w2": w2, "alpha": alpha}, np.kron(w1, w2)),
        "lokr, kernel": (CONV, {"lokr_w1": w1, "lokr_w2": w2_kernel}, kron_kernel),
        "lokr, factors": (
            LINEAR,
            {"lokr_w1_a": one, "lokr_w1_b": w1[:2], "lokr_w2": w2, "alpha": alpha},
            1.5 * np.kron(one @ w1[:2], w2),
        ),
        "lokr, both of factors": (
            LINEAR,
            {"lokr_w1_a": one, "lokr_w1_b": w1[:2], "lokr_w2_a": one, "lokr_w2_b": other[:2], "alpha": alpha},
            1.5 * np.kron(one @ w1[:2], one @ other[:2]),
        ),
        "difference": (CONV, {"diff": draw(*CONV_SHAPE)}, draw(*CONV_SHAPE)),
    }  # fmt: skip


@pytest.mark.parametrize("kind", forms())
def test_kinds(kind: str, model: Path, tmp_path: Path) -> None:
    module, parts, delta = forms()[kind]
    stem = f"lora_unet_{module.replace('.', '_')}"
    file = save(tmp_path / "a.safetensors", {f"{stem}.{part}": held for part, held in parts.items()})
    check(
        model,
        file,
        0.6,
        {f"{module}.weight": weight(model, module) + 0.6 * delta.reshape(-1, *delta.shape[1:])},
    )


SPELLINGS = {
    "diffusers": f"unet.{LINEAR}.lora_{{AB}}.weight",
    "diffusers of 2023": f"unet.{LINEAR}.lora.{{down}}.weight",
    "processors": f"unet.{LINEAR.replace('.to_q', '.processor.to_q')}_lora.{{down}}.weight",
    "processors, no component": f"{LINEAR.replace('.to_q', '.processor.to_q')}_lora.{{down}}.weight",
    "peft": f"base_model.model.{LINEAR}.lora_{{AB}}.weight",
    "peft, adapter named": f"base_model.model.unet.{LINEAR}.lora_{{AB}}.default.weight",
    "kohya": f"lora_unet_{LINEAR.replace('.', '_')}.lora_{{down}}.weight",
    "LyCORIS alone": f"lycoris_{LINEAR.replace('.', '_')}.lora_{{down}}.weight",
    "original": "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.lora_{down}.weight",
    "original, kohya": "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q.lora_{down}.weight",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling: str, model: Path, tmp_path: Path) -> None:
    name = SPELLINGS[spelling]
    tensors = {name.format(AB="A", down="down"): draw(2, 16), name.format(AB="B", down="up"): draw(16, 2)}
    delta = 2 * draw(16, 2) @ draw(2, 16)
    check(
        model,
        save(tmp_path / "a.safetensors", tensors),
        2.0,
        {f"{LINEAR}.weight": weight(model, LINEAR) + delta},
    )


@pytest.mark.parametrize("magnitudes", [None, (1, 1024)])
def test_memory_holds_runs(magnitudes: tuple[int, ...] | None, tmp_path: Path) -> None:
    """Reading a changed tensor of 16 MiB takes the factors and some runs of 64 KiB."""
    tensors = {"lora_te_fc1.lora_up.weight": draw(4096, 4), "lora_te_fc1.lora_down.weight": draw(4, 1024)}
    if magnitudes is not None:
        tensors["lora_te_fc1.dora_scale"] = draw(*magnitudes)
    base = TensorFiles([save(tmp_path / "base.safetensors", {"fc1.weight": draw(4096, 1024)})])
    adapter = read_adapter(save(tmp_path / "a.safetensors", tensors))
    component = Component("text_encoder", "CLIPTextModel", tmp_path, {}, base)
    held = AdaptedTensors(base, steps(adapter, component), adapter.path)
    tracemalloc.start()
    rows = sum(len(run) for run in held.rows("fc1.weight", 65536))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == 4096 and peak < 2 << 20


def test_norms_and_biases(model: Path, tmp_path: Path) -> None:
    norm, shift = "mid_block.resnets.0.norm1", draw(16)
    tensors = {
        "lora_unet_mid_block_resnets_0_norm1.w_norm": shift,
        "lora_unet_mid_block_resnets_0_norm1.b_norm": -shift,
        f"unet.{CONV}.diff_b": 2 * shift,
    }
    wanted = {
        f"{norm}.weight": weight(model, norm) - shift,
        f"{norm}.bias": weight(model, norm, "bias") + shift,
        f"{CONV}.bias": weight(model, CONV, "bias") - 2 * shift,
    }
    check(model, save(tmp_path / "a.safetensors", tensors), -1.0, wanted)


@pytest.mark.parametrize("scale", [1.0, 0.4])
@pytest.mark.parametrize("by", ["outputs", "inputs"])
@pytest.mark.parametrize("module", [CONV, LINEAR])
def test_dora(module: str, by: str, scale: float, model: Path, tmp_path: Path) -> None:
    """Liu et al. (2024), eq. 5: the magnitude times the direction. A scale goes part of the way there."""
    shape = CONV_SHAPE if module == CONV else LINEAR_SHAPE
    up, down = draw(16, 3), draw(3, *shape[1:])
    axis = 0 if by == "outputs" else 1
    magnitude = 1 + np.abs(draw(16)).reshape([16 if i == axis else 1 for i in range(len(shape))])
    tensors = {
        "lora_up.weight": up,
        "lora_down.weight": down,
        "dora_scale": magnitude,
        "alpha": np.float32(1.5),
    }
    file = save(tmp_path / "a.safetensors", {f"unet.{module}.{part}": held for part, held in tensors.items()})
    old = weight(model, module)
    summed = old + 0.5 * np.tensordot(up, down, 1)
    others = tuple(i for i in range(len(shape)) if i != axis)
    full = magnitude * summed / np.sqrt(np.square(summed).sum(others, keepdims=True))
    check(model, file, scale, {f"{module}.weight": old + scale * (full - old)})


def test_half_precision(tmp_path: Path) -> None:
    """The sum is made in float32, whatever the checkpoint and the adapter are stored in."""
    model = model_folder(tmp_path / "model", dtype="float16")
    up, down = draw(16, 2).astype(np.float16), draw(2, 16)
    bits = (down.view(np.uint32) >> 16).astype(np.uint16)
    tensors = {
        f"unet.{LINEAR}.lora_up.weight": up,
        f"unet.{LINEAR}.lora_down.weight": ("BF16", bits),
        f"unet.{LINEAR}.alpha": ("BF16", np.array(0x3F80, np.uint16)),
    }
    before, after = adapted(model, save(tmp_path / "a.safetensors", tensors))
    factor = (bits.astype(np.uint32) << 16).view(np.float32)
    wanted = before.whole(f"{LINEAR}.weight").astype(np.float32) + 0.5 * up.astype(np.float32) @ factor
    found = after.whole(f"{LINEAR}.weight")
    assert found.dtype == np.float32 and before.whole(f"{LINEAR}.weight").dtype == np.float16
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", ["int64", "float64"])
def test_alpha_of_other_types(kind: str, model: Path, tmp_path: Path) -> None:
    tensors = {"lora_up.weight": draw(16, 4), "lora_down.weight": draw(4, 16), "alpha": np.array(2, kind)}
    file = save(tmp_path / "a.safetensors", {f"unet.{LINEAR}.{part}": held for part, held in tensors.items()})
    delta = 0.5 * draw(16, 4) @ draw(4, 16)
    check(model, file, 1.0, {f"{LINEAR}.weight": weight(model, LINEAR) + delta})


def test_the_graph_has_the_sum(model: Path, tmp_path: Path) -> None:
    """A text encoder emitted with an adapter gives what one of the summed weights gives."""
    module = "text_model.encoder.layers.1.mlp.fc1"
    tensors = {
        f"lora_te_{module.replace('.', '_')}.lora_up.weight": draw(24, 2),
        f"lora_te_{module.replace('.', '_')}.lora_down.weight": draw(2, 16),
    }
    before, after = adapted(model, save(tmp_path / "a.safetensors", tensors), 0.5, "text_encoder")
    summed = {name: before.whole(name) for name in before.entries}
    summed[f"{module}.weight"] = summed[f"{module}.weight"] + 0.5 * draw(24, 2) @ draw(2, 16)
    merged = save(tmp_path / "merged.safetensors", summed)
    graph = clip_text.record(clip_text.configure(TINY_TEXT, "config.json"))
    ids = {"input_ids": np.array([[30, 1, 2, 3, 39, 0]], np.int64)}
    outputs = []
    for i, held in enumerate((before, after, TensorFiles([merged]))):
        folder = tmp_path / str(i)
        folder.mkdir()
        outputs.append(run(build(graph, held, clip_spellings, folder), ids)["last_hidden_state"])
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-2
    np.testing.assert_allclose(outputs[1], outputs[2], atol=1e-5)


def test_parse_lora() -> None:
    for text, path, scale in [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("a.safetensors:.5e-1", "a.safetensors", 0.05),
        (r"C:\loras\a.safetensors", r"C:\loras\a.safetensors", 1.0),
        (r"C:\loras\a.safetensors:2", r"C:\loras\a.safetensors", 2.0),
        ("style:v2/a.safetensors", "style:v2/a.safetensors", 1.0),
        ("style:2:1", "style:2", 1.0),
        ("D:2", "D:2", 1.0),
    ]:
        assert parse_lora(text) == (Path(path), scale), text
    for text in ["", "a.safetensors:", "a.safetensors:strong", "a.safetensors:nan", "a.safetensors:1000"]:
        with pytest.raises(InputError, match=r"scale|names no file"):
            parse_lora(text)


def test_recipe_hint(tmp_path: Path) -> None:
    tensors = {f"unet.{LINEAR}.diff": draw(16, 16)}
    for name, metadata, hint in [
        ("Hyper-SDXL-8steps-CFG-lora", {}, "Hyper-SD, 8 steps"),
        ("Hyper-SD15-1step-lora", {}, "Hyper-SD, 1 step"),
        ("sdxl_lightning_4step_lora", {}, "Lightning, 4 steps"),
        ("lcm-lora-sdv1-5", {}, "LCM"),
        ("a", {"modelspec.title": "TCD for SDXL"}, "TCD"),
        ("dmd2_sdxl_4step_lora", {}, "DMD2, 4 steps"),
        ("lightning_bolts_style", {}, None),
        ("welcome", {"ss_output_name": "welcome"}, None),
    ]:
        assert recipe_hint(read_adapter(save(tmp_path / f"{name}.safetensors", tensors, metadata))) == hint, (
            name
        )
    nameless = tmp_path / "lcm-lora-sdxl"
    nameless.mkdir()
    save(nameless / "pytorch_lora_weights.safetensors", tensors)
    assert recipe_hint(read_adapter(nameless)) == "LCM"
