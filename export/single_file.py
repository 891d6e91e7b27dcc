"""Whole models in one ``.safetensors`` file, in the layout of LDM or SGM: Stable Diffusion 1 and 2, SDXL.

The kind is told by the tensors; configurations, which such a file does not hold, are made from their shapes.
Weights of an exponential moving average beside the model's own (``model_ema.*``) are left out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgediff.errors import InputError, SourceError
from edgediff.export.json_files import parse_json, read_json
from edgediff.export.original import unet as original_unet
from edgediff.export.original.clip_folders import END_PADDED, ZERO_PADDED, clip_folder, given_folder
from edgediff.export.original.kind import Kind, kind_of, pipeline, refuse_others, scheduler_config
from edgediff.export.original.parts import (
    CLASSES,
    component_of,
    find_alone,
    find_text,
    find_unet,
    find_vae,
)
from edgediff.export.original.shapes import Shapes
from edgediff.export.original.vae import is_tiny
from edgediff.export.sources import PICKLES, Component, Source, pickled, weight_files
from edgediff.export.tensors import Entry, TensorFiles

_OPTIONS = {
    "unet": "--unet",
    "vae": "--vae",
    "text_encoder": "--text-encoder",
    "text_encoder_2": "--text-encoder-2",
}


@dataclass(frozen=True)
class SingleFile(Source):
    """One file. ``parts`` says where in it each component lies; what it lacks, others must supply."""

    kind: Kind = field(kw_only=True)
    tensors: TensorFiles = field(kw_only=True)
    parts: Mapping[str, Shapes] = field(kw_only=True)
    tokenizers: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def license(self) -> str | None:
        """The licence that the file's metadata names."""
        found = self.metadata.get("modelspec.license", "").strip()
        return found if re.fullmatch(r"[\w.+-]{1,100}", found) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the file was taken for, and by what."""
        form = {"text": "", "inpaint": " for inpainting", "instruct": " for instructed editing"}
        kind = self.kind
        return (
            f"read as {kind.family}{form[kind.task]}, by its tensors; predicts {kind.prediction}, {kind.told}"
            " (--prediction-type says otherwise)",
        )

    def _component(self, name: str, class_name: str) -> Component:
        shapes = self.parts.get(name)
        if shapes is None:
            absent = [n for n in self.index if n in _OPTIONS and n not in self.parts]
            options = ", ".join(f"{n} ({_OPTIONS[n]})" for n in absent)
            raise SourceError(
                f"{self.where}: is {self.kind.family}, but holds no {name}. Not in the file, each with "
                f"the option that supplies it: {options or name}."
            )
        found = component_of(name, shapes, self.where, self.tensors, self.kind.xl)
        if name == "unet":
            extra: dict[str, Any] = {"sample_size": self.kind.sample_size}
            if self.kind.family == "Stable Diffusion 2" and self.kind.prediction == "v_prediction":
                extra["upcast_attention"] = True  # as 2.1 was published: its scores overflow float16
            return Component(name, class_name, self.where, {**found.config, **extra}, found.tensors)
        return found

    def scheduler(self) -> dict[str, Any]:
        return scheduler_config(self.kind)

    def tokenizer(self, name: str = "tokenizer") -> Path:
        openai = self.kind.family != "Stable Diffusion 2" and name == "tokenizer"
        pad = END_PADDED if openai else ZERO_PADDED
        if self.tokenizers is not None:
            return given_folder(self.tokenizers, name, pad)
        return clip_folder(pad, self.where)


def open_single_file(
    path: str | Path, *, prediction_type: str | None = None, tokenizer: str | Path | None = None
) -> SingleFile:
    """The model in a single file.

    ``prediction_type`` says what its U-Net predicts (epsilon, v_prediction or sample) where the file does
    not; ``tokenizer`` is a folder with CLIP's vocabulary.

    Raises:
        SourceError: the file is damaged, or holds no U-Net.
        UnsupportedError: it is another model, which the message names.
        InputError: it is Stable Diffusion 2 and does not say what it predicts, nor does ``prediction_type``.
    """
    where = Path(path)
    tensors = TensorFiles([where])
    metadata = read_metadata(where)
    unet = find_unet(where, tensors.entries)
    refuse_others(where, tensors.entries)
    if unet is None:
        raise SourceError(_no_unet(where, tensors.entries))
    config = original_unet.unet_config(unet)
    first, second = find_text(where, tensors.entries)
    bigg_first = first is not None and second is None and first.prefix == "conditioner.embedders.0.model."
    kind = kind_of(
        where, config, bigg_first, tensors.entries.keys(), metadata, _step(tensors.entries), prediction_type
    )
    encoders = (second or first,) if kind.encoders == ("text_encoder_2",) else (first, second)
    found = {"unet": unet, "vae": find_vae(where, tensors.entries)}
    found |= dict(zip(kind.encoders, encoders, strict=False))
    return SingleFile(
        where,
        _index(kind),
        kind=kind,
        tensors=tensors,
        parts={name: shapes for name, shapes in found.items() if shapes is not None},
        tokenizers=None if tokenizer is None else Path(tokenizer),
        metadata=metadata,
    )


def open_part(path: str | Path, name: str, beside: Source | None = None) -> Component:
    """A component alone: a folder with ``config.json``, or a file in the original layout or diffusers'.

    ``name`` is unet, vae, text_encoder, text_encoder_2 or controlnet. ``beside`` is the model that it joins:
    a lone autoencoder in a file does not say the scale of its latents, which is that of the model's family.

    Raises:
        InputError: there is no such file or folder.
        SourceError: it does not hold such a component, or is damaged.
    """
    where = Path(path)
    if where.is_dir():
        return _part_folder(where, name)
    if not where.is_file():
        raise InputError(f"{path}: no such file or folder; it was named as {name}.")
    if where.suffix.lower() in PICKLES:
        raise SourceError(pickled(where))
    tensors = TensorFiles([where])
    shapes = find_alone(where, tensors.entries, name)
    if shapes is None:
        raise SourceError(f"{where}: holds no {name} in the layout of LDM, SGM or diffusers.")
    if name == "vae" and beside is None and not is_tiny(shapes):
        raise SourceError(
            f"{where}: does not say the scale of its latents, which is that of the model it belongs to. Give "
            "the autoencoder as a folder with its config.json."
        )
    xl = beside is not None and "StableDiffusionXL" in beside.pipeline
    return component_of(name, shapes, where, tensors, xl)


def _part_folder(where: Path, name: str) -> Component:
    """A component's folder, or the folder of a whole model with one of that name in it."""
    folder = where if (where / "config.json").is_file() else where / name
    if not (folder / "config.json").is_file():
        raise SourceError(f"{where}: holds no config.json, and no folder {name} with one.")
    config = read_json(folder / "config.json")
    named = config.get("_class_name")
    architectures = config.get("architectures")
    if named is None and isinstance(architectures, list) and architectures:
        named = architectures[0]
    return Component(name, str(named or CLASSES[name]), folder, config, TensorFiles(weight_files(folder)))


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself; its header has been checked before."""
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = parse_json(file.read(length), str(path))
    found = header.get("__metadata__")
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _index(kind: Kind) -> dict[str, Any]:
    """What ``model_index.json`` would say."""
    index: dict[str, Any] = {"_class_name": pipeline(kind)}
    if kind.xl:
        index["force_zeros_for_empty_prompt"] = kind.family == "SDXL"
    if kind.family == "SDXL refiner":
        index["requires_aesthetics_score"] = True
    if not kind.xl:
        index |= {"safety_checker": [None, None], "requires_safety_checker": False}
        index["feature_extractor"] = [None, None]
    index["scheduler"] = ["diffusers", scheduler_config(kind)["_class_name"]]
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    for name in ("text_encoder", "text_encoder_2") if kind.xl else ("text_encoder",):
        has = name in kind.encoders
        index[name] = ["transformers", CLASSES[name]] if has else [None, None]
        tokenizer = name.replace("text_encoder", "tokenizer")
        index[tokenizer] = ["transformers", "CLIPTokenizer"] if has else [None, None]
    return index


def _step(entries: Mapping[str, Entry]) -> int | None:
    """The training step that some files carry, a single whole number."""
    entry = entries.get("global_step")
    if entry is None or entry.dtype != "I64" or entry.shape not in ((), (1,)):
        return None
    with entry.file.open("rb") as file:
        file.seek(entry.begin)
        return int(struct.unpack("<q", file.read(8))[0])


def _no_unet(where: Path, entries: Mapping[str, Entry]) -> str:
    vae, (text, _) = find_vae(where, entries), find_text(where, entries)
    if vae is not None or text is not None or find_alone(where, entries, "text_encoder") is not None:
        held = "a text encoder" if vae is None else "an autoencoder"
        return f"{where}: holds {held} and no U-Net. --vae and --text-encoder take parts; -m takes a model."
    listed = ", ".join(name[:80] for name in sorted(entries)[:4])
    return f"{where}: holds no U-Net in the layout of LDM, SGM or diffusers, but {listed} and so on."
