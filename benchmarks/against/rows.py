"""Which systems are measured, in which forms, and beside which one each is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.against.models import Models, sigmas

GUIDANCE = 7.5
GUIDED_STEPS = 20


@dataclass(frozen=True)
class Setting:
    """What rows are made from: converted checkpoints, bundles by form, a folder for compiled models."""

    models: Models
    bundle: Callable[[str], Path]
    caches: Path


@dataclass(frozen=True)
class Row:
    """One system in one form.

    ``options`` gives what its worker is started with; ``files`` the model files it reads; ``beside`` names
    the row that it is timed in turns with, ``also`` further ones for passes alone. ``slow``: one round, no
    picture of one step, and only one cold start, since such a system keeps no caches. ``cold``: whether
    starts are measured at all.
    """

    label: str
    environment: str
    worker: str
    options: Callable[[Setting, str], dict[str, Any]]
    files: Callable[[Setting], Path]
    peer: bool = True
    tiny: bool = False
    beside: str = "genai-bf16"
    also: tuple[str, ...] = ()
    slow: bool = False
    guided: bool = False
    cold: bool = True

    def kept(self, setting: Setting, key: str) -> Path:
        """Where compiled models are kept; rows that differ in their decoder share them."""
        return setting.caches / key.removesuffix("-tiny")


def _diffusers(dtype: str, tiny: bool = False, **more: Any) -> Row:
    def options(setting: Setting, key: str) -> dict[str, Any]:
        found = {"model": str(setting.models.checkpoint()), "dtype": dtype}
        return {**found, "tiny": str(setting.models.tiny())} if tiny else found

    label = "diffusers " + {"float32": "fp32", "bfloat16": "bf16"}[dtype]
    return Row(
        label, "diffusers", "on_diffusers.py", options, lambda s: s.models.checkpoint(), tiny=tiny, **more
    )


def _genai(form: str, label: str, tiny: bool = False, **more: Any) -> Row:
    def options(setting: Setting, key: str) -> dict[str, Any]:
        return {
            "model": str(setting.models.openvino(form, tiny)),
            "cache": str(setting.caches / key.removesuffix("-tiny")),
        }

    return Row(
        f"OpenVINO GenAI {label}", "openvino", "on_genai.py", options,
        lambda s: s.models.openvino(form, tiny), tiny=tiny, **more,
    )  # fmt: skip


def _sdcpp(form: str, tiny: bool = False) -> Row:
    def options(setting: Setting, key: str) -> dict[str, Any]:
        levels = {str(n): ",".join(map(repr, sigmas(n))) for n in (1, 4)}
        file = setting.models.tiny() / "diffusion_pytorch_model.safetensors"
        model = str(setting.models.sdcpp(form))
        return {"model": model, "sigmas": levels, "tiny": str(file) if tiny else None, **SDCPP}

    return Row(
        f"stable-diffusion.cpp {form}", "sdcpp", "on_sdcpp.py", options, lambda s: s.models.sdcpp(form),
        tiny=tiny, slow=True, beside="genai-bf16-tiny" if tiny else "genai-bf16", cold=not tiny,
    )  # fmt: skip


def _ours(label: str, form: str, given: Mapping[str, Any], tiny: bool = False, **more: Any) -> Row:
    def options(setting: Setting, key: str) -> dict[str, Any]:
        call = {"decoder": "tiny"} if tiny else {}
        return {"bundle": str(setting.bundle(form)), "call": call,
                "given": {"cache": str(setting.caches / key.removesuffix("-tiny")), **given}}  # fmt: skip

    beside = "genai-bf16-tiny" if tiny else "genai-bf16"
    return Row(f"edgediff {label}", "edgediff", "on_edgediff.py", options, lambda s: s.bundle(form),
               peer=False, tiny=tiny, **{"beside": beside, **more})  # fmt: skip


SDCPP: dict[str, Any] = {"flash": True, "direct": False, "vae_direct": False}
_BF16 = {"device": "openvino", "precision": "bf16"}
_OV8 = {"device": "openvino", "precision": "bf16"}  # what is not int8 computes in bf16
_CPU = {"device": "cpu"}
REFERENCE = "diffusers-fp32"
ROWS: dict[str, Row] = {
    REFERENCE: _diffusers("float32", slow=True),
    "diffusers-bf16": _diffusers("bfloat16", guided=True),
    "optimum-onnx": Row(
        "optimum-onnx fp32", "optimum", "on_diffusers.py",
        lambda s, key: {"model": str(s.models.optimum()), "optimum": True}, lambda s: s.models.optimum(),
        slow=True,
    ),
    "genai-bf16": _genai("fp16", "bf16", guided=True),
    "genai-int8": _genai("int8", "int8 weights"),
    "genai-hybrid": _genai("hybrid", "int8 (hybrid)", guided=True),
    "sdcpp-f16": _sdcpp("f16"),
    "sdcpp-q8": _sdcpp("q8_0"),
    "ours-cpu-int8": _ours("int8, ONNX Runtime CPU", "int8", _CPU, also=("optimum-onnx",)),
    "ours-bf16": _ours("bf16, OpenVINO", "fp16", _BF16),
    "ours-int8": _ours("int8, OpenVINO", "int8", _OV8, guided=True),
    "ours-reduced": _ours("int8 and reduced attention, OpenVINO", "reduced", _OV8, guided=True),
    "ours-lean": _ours("int8, leanest", "int8", {"device": "cpu", "memory": "1.5GB"}),
    "diffusers-bf16-tiny": _diffusers("bfloat16", True, beside="genai-bf16-tiny", cold=False),
    "genai-bf16-tiny": _genai("fp16", "bf16", True, beside="genai-bf16-tiny", cold=False),
    "genai-hybrid-tiny": _genai("hybrid", "int8 (hybrid)", True, beside="genai-bf16-tiny", cold=False),
    "sdcpp-q8-tiny": _sdcpp("q8_0", True),
    "ours-cpu-int8-tiny": _ours("int8, ONNX Runtime CPU", "int8", _CPU, True, cold=False),
    "ours-bf16-tiny": _ours("bf16, OpenVINO", "fp16", _BF16, True, cold=False),
    "ours-int8-tiny": _ours("int8, OpenVINO", "int8", _OV8, True, cold=False),
    "ours-reduced-tiny": _ours("int8 and reduced attention, OpenVINO", "reduced", _OV8, True, cold=False),
    "ours-lean-tiny": _ours("int8, leanest", "int8", {"device": "cpu", "memory": "1GB"}, True),
}  # fmt: skip
