"""The forms of a model's graphs, one for each provider that a bundle is made for, over shared weights.

All graphs of one folder, whatever their role and profile, refer to its one ``model.onnx_data``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

from edgediff.errors import InputError
from edgediff.export.emit.graph import Graph, Kind, Node
from edgediff.export.emit.integers import Quantization
from edgediff.export.emit.onnx import PORTABLE, Emitted, Profile, Tensor, emit
from edgediff.export.emit.onnx_builder import Storage, Stored
from edgediff.export.emit.onnx_cuda import ORT_CUDA
from edgediff.export.emit.onnx_fused import ORT_CPU, ORT_CPU_AVX2
from edgediff.export.emit.onnx_openvino import OPENVINO
from edgediff.export.emit.onnx_static import COREML_EP
from edgediff.export.emit.sizes import Extents
from edgediff.export.emit.weights import describe, joined, refer, write_bytes
from edgediff.export.emit.work import work_terms
from edgediff.export.families.parts import Model, Part
from edgediff.export.json_files import dump_json
from edgediff.export.write import Folder

PROFILES: Mapping[str, Profile] = {
    each.name: each for each in (PORTABLE, ORT_CPU, ORT_CPU_AVX2, ORT_CUDA, COREML_EP, OPENVINO)
}
DEFAULT_PROFILES = ("portable", "ort-cpu")
# Which forms a device is given first; every device can be given the portable one.
_PREFERRED: Mapping[str, tuple[str, ...]] = {
    "cpu": ("ort-cpu", "ort-cpu-avx2"),
    "cuda": ("ort-cuda",),
    "coreml": ("coreml-ep",),
    "openvino": ("openvino",),
}
_DEVICES = ("cpu", "cuda", "coreml", "openvino", "webgpu")
# Of ControlNets and what they steer the extents differ from call to call.
_WITHOUT_FIXED = ("control", "controlled_denoiser")
_WEIGHTS = "model.onnx_data"


@dataclass(frozen=True, slots=True)
class Form:
    """One graph file to be: a part in a profile."""

    part: Part
    profile: Profile
    emitted: Emitted
    integers: bool = False  # some layers compute in int8

    @property
    def file(self) -> str:
        """Its path in the bundle, such as ``unet/ort_cpu.onnx``; the portable form has the plain name."""
        stem, profile = self.part.file, self.profile.name.replace("-", "_")
        if self.profile is not PORTABLE:
            stem = profile if stem == "model" else f"{stem}_{profile}"
        return f"{self.part.folder}/{stem}.onnx"

    @property
    def runs_here(self) -> bool:
        """Whether ONNX Runtime's CPU provider can run it on small inputs."""
        return self.profile is not ORT_CUDA and not self.profile.fixed

    @property
    def requires(self) -> tuple[str, ...]:
        """What the processor must have for the form to compute right, and fast."""
        if not self.integers or not self.profile.integers.direct:
            return ()
        return ("x86-64",) if self.profile.integers.narrow else ("x86-64", "vnni")


def profiles_of(names: Iterable[str]) -> tuple[Profile, ...]:
    """The profiles of these names, ``portable`` first.

    Raises:
        InputError: a name is unknown, or ``portable``, which every device can fall back to, is missing.
    """
    asked = dict.fromkeys(names)
    unknown = [name for name in asked if name not in PROFILES]
    if unknown or PORTABLE.name not in asked:
        found = ", ".join(unknown) if unknown else "none of them is portable"
        raise InputError(f"profiles {', '.join(asked) or 'of no name'}: {found}; known are "
                         f"{', '.join(PROFILES)}, and portable is always among them.")  # fmt: skip
    return tuple(PROFILES[name] for name in (PORTABLE.name, *(n for n in asked if n != PORTABLE.name)))


def forms_of(
    model: Model,
    storage: Storage,
    profiles: Sequence[Profile],
    quantizations: Mapping[str, Quantization] | None = None,
) -> list[Form]:
    """Every part in every profile that has a form for it; no weights are read.

    ``quantizations`` says by role which layers are said with integers.
    """
    found = []
    for part in model.parts:
        for profile in profiles:
            if not (profile.fixed and part.role.startswith(_WITHOUT_FIXED)):
                extents = _fixed(model, part) if profile.fixed else None
                kept = partial(_kept_float, part)
                integers = (quantizations or {}).get(part.role)
                emitted = emit(
                    part.graph, storage, profile, extents=extents, keep_float=kept, quantization=integers
                )
                found.append(Form(part, profile, emitted, _computes(integers)))
    return found


def _computes(quantization: Quantization | None) -> bool:
    return quantization is not None and "int8" in quantization.choices.values()


def _kept_float(part: Part, node: Node) -> bool:
    """Where half precision is too narrow: a U-Net's products of queries and keys, the whole of others."""
    return part.overflows and (node.op == "attention" or not _has_time(part.graph))


def _has_time(graph: Graph) -> bool:
    return any(port.value.kind is Kind.TIME for port in graph.inputs)


def _fixed(model: Model, part: Part) -> dict[str, Extents]:
    """The extents of a part's inputs at the model's own size."""
    size, factors = model.defaults["size"], model.facts["latents"]["downscale"]
    pixels = (int(size["height"]), int(size["width"]))
    latents = (ceil(pixels[0] / factors["height"]), ceil(pixels[1] / factors["width"]))
    found: dict[str, Extents] = {}
    for port in part.graph.inputs:
        match port.value.kind:
            case Kind.IMAGE:
                found[port.name] = pixels if part.role == "encoder" else latents
            case Kind.TOKENS | Kind.IDS:
                found[port.name] = (int(model.facts["text"]["length"]),)
    return found


def folders_of(forms: Sequence[Form]) -> dict[str, list[Form]]:
    """The forms by folder, in order."""
    found: dict[str, list[Form]] = {}
    for form in forms:
        found.setdefault(form.part.folder, []).append(form)
    return found


def stored_by(forms: Iterable[Form]) -> tuple[Stored, ...]:
    """What the weights file of one folder holds."""
    return joined(form.emitted.stored for form in forms)


def write_folder(folder: Folder, forms: Sequence[Form], precision: str) -> dict[str, dict[str, Any]]:
    """Write the graphs of one folder and their weights; the entries of their roles in the manifest.

    ``precision`` is what the manifest calls these forms: ``fp32``, ``fp16``, ``int8``, ...
    """
    first, stored = forms[0].part, stored_by(forms)
    with folder.create(f"{first.folder}/{_WEIGHTS}") as file:
        places = write_bytes(stored, first.tensors, _names(forms), file)
    folder.write(f"{first.folder}/config.json", first.config)
    folder.write(f"{first.folder}/parameters.json", dump_json({"parameters": describe(stored)}))
    roles: dict[str, dict[str, Any]] = {}
    for form in forms:
        refer(form.emitted.model, form.emitted.stored, places, _WEIGHTS)
        folder.write(form.file, form.emitted.model.SerializeToString(deterministic=True))
        entry: dict[str, Any] = {"graphs": [], "parameters": f"{first.folder}/parameters.json"}
        entry |= {"work": terms} if (terms := work_terms(form.part.graph)) else {}
        roles.setdefault(form.part.role, entry)["graphs"].append(_entry(form, precision))
    return roles


def _names(forms: Iterable[Form]) -> dict[str, str]:
    return {name: tensor for form in forms for name, tensor in form.part.names.items()}


def _entry(form: Form, precision: str) -> dict[str, Any]:
    # What weights in half precision compute was not looked at yet.
    more: dict[str, Any] = {"numerics": "unproven"} if "fp16" in precision else {}
    more |= {"requires": list(form.requires)} if form.requires else {}
    return {
        "runtime": "onnxruntime",
        "profile": form.profile.name,
        "file": form.file,
        "weights": [f"{form.part.folder}/{_WEIGHTS}"],
        "precision": precision,
        **more,
        "inputs": [_listed(tensor) for tensor in form.emitted.inputs],
        "outputs": [_listed(tensor) for tensor in form.emitted.outputs],
    }


def _listed(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "dims": list(tensor.dims)}


def by_device(profiles: Sequence[Profile]) -> dict[str, list[str]]:
    """The manifest's table: the forms that a device takes, the preferred one first."""
    written = {profile.name for profile in profiles}
    table = {}
    for device in _DEVICES:
        own = [name for name in _PREFERRED.get(device, ()) if name in written]
        table[device] = [*own, PORTABLE.name]
    return table
