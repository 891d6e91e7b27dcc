"""Where the components of a model lie in a file, and each as diffusers or transformers would have it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from edgediff.errors import SourceError
from edgediff.export.original import text as original_text
from edgediff.export.original import unet as original_unet
from edgediff.export.original import vae as original_vae
from edgediff.export.original.names import controlnet_names, unet_names, vae_names
from edgediff.export.original.shapes import Shapes
from edgediff.export.sources import Component
from edgediff.export.tensors import Entry, Tensors
from edgediff.export.views import Piece, View

CLASSES = {
    "unet": "UNet2DConditionModel",
    "controlnet": "ControlNetModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}
# Prefixes of LDM and SGM, and of programs that write their own.
_UNETS = ("model.diffusion_model.", "diffusion_model.", "unet.", "")
_CONTROLNETS = ("control_model.", "controlnet.", "")
_VAES = ("first_stage_model.", "vae.", "")
_FIRST = (
    "cond_stage_model.transformer.", "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.", "conditioner.embedders.0.model.",
    "text_encoders.clip_l.transformer.", "text_encoders.clip_h.transformer.",
    "cond_stage_model.clip_l.transformer.", "cond_stage_model.clip_h.transformer.", "text_encoder.",
)  # fmt: skip
_SECOND = (
    "conditioner.embedders.1.model.", "conditioner.embedders.1.transformer.",
    "text_encoders.clip_g.transformer.", "cond_stage_model.clip_g.transformer.", "text_encoder_2.",
)  # fmt: skip
# Training leaves these in files of autoencoders.
_UNUSED_IN_VAE = ("loss.", "model_ema.")
# Marks of a whole file, which a U-Net without a prefix stands among.
_MARKS = ("v_pred", "ztsnr", "global_step")


def find_unet(where: Path, entries: Mapping[str, Entry]) -> Shapes | None:
    """The U-Net, in either layout."""
    return _find(where, entries, _UNETS, original_unet.is_original, original_unet.is_diffusers)


def find_vae(where: Path, entries: Mapping[str, Entry]) -> Shapes | None:
    """The autoencoder, in either layout, or a tiny one in diffusers'."""
    v = original_vae
    return _find(where, entries, _VAES, v.is_original, v.is_diffusers, v.is_tiny)


def find_text(where: Path, entries: Mapping[str, Entry]) -> tuple[Shapes | None, Shapes | None]:
    """The first and the second text encoder of a whole model."""
    t = original_text
    first, second = (_find(where, entries, at, t.is_openclip, t.is_transformers) for at in (_FIRST, _SECOND))
    return first, second


def find_alone(where: Path, entries: Mapping[str, Entry], name: str) -> Shapes | None:
    """A component in a file that need not hold anything else."""
    if name == "controlnet":
        return _find(where, entries, _CONTROLNETS, original_unet.is_original, original_unet.is_diffusers)
    if name in ("unet", "vae"):
        return find_unet(where, entries) if name == "unet" else find_vae(where, entries)
    prefixes = ("", *(_SECOND if name == "text_encoder_2" else _FIRST))
    return _find(where, entries, prefixes, original_text.is_openclip, original_text.is_transformers)


def component_of(name: str, shapes: Shapes, where: Path, tensors: Tensors, xl: bool) -> Component:
    """A component of a file by diffusers' or transformers' names. ``xl``: its model is of the SDXL family.

    Raises:
        SourceError: the tensors are not those of such a component.
    """
    class_name = CLASSES[name]
    if name == "unet":
        config = original_unet.unet_config(shapes)
        pieces = _renamed(shapes, unet_names(config) if original_unet.is_original(shapes) else {})
    elif name == "controlnet":
        config = original_unet.controlnet_config(shapes)
        pieces = _renamed(shapes, controlnet_names(config) if original_unet.is_original(shapes) else {})
    elif name == "vae" and original_vae.is_tiny(shapes):
        class_name, config, pieces = "AutoencoderTiny", original_vae.tiny_config(shapes), _renamed(shapes, {})
    elif name == "vae":
        config = original_vae.vae_config(shapes, xl)
        pieces = _vae_pieces(shapes, vae_names(config) if original_vae.is_original(shapes) else {})
    else:
        projected = class_name == CLASSES["text_encoder_2"]
        layers = original_text.used_layers(shapes, projected)
        config = original_text.text_config(shapes, projected, layers)
        pieces = original_text.text_pieces(shapes, projected, layers)
    return Component(name, class_name, where, config, View(tensors, pieces))


def _find(
    where: Path, entries: Mapping[str, Entry], prefixes: Iterable[str], *layouts: Callable[[Shapes], bool]
) -> Shapes | None:
    for prefix in prefixes:
        shapes = Shapes(where, entries, prefix)
        if any(known(shapes) for known in layouts):
            return shapes
    return None


def _renamed(shapes: Shapes, names: Mapping[str, str]) -> dict[str, Piece]:
    """Every tensor under its module's new name. Unknown ones keep theirs; who reads them refuses them."""
    pieces: dict[str, Piece] = {}
    for name in shapes:
        module, dot, parameter = name.rpartition(".")
        new = names.get(module, module) + dot + parameter
        if new in pieces:
            raise SourceError(f"{shapes.where}: holds the tensor {new} in two layouts; the file is damaged.")
        if name not in _MARKS:
            pieces[new] = Piece(shapes.prefix + name)
    return pieces


def _vae_pieces(shapes: Shapes, names: Mapping[str, str]) -> dict[str, Piece]:
    """The original layout's attention is made of 1x1 convolutions; diffusers' of matrices."""
    pieces = _renamed(shapes, names)
    for name, piece in list(pieces.items()):
        old = piece.name.removeprefix(shapes.prefix)
        if name.startswith(_UNUSED_IN_VAE):
            del pieces[name]
        elif ".attentions." in name and shapes.rank(old) == 4:
            full = shapes.of(old, 4)
            if full[2:] == (1, 1):
                pieces[name] = Piece(piece.name, shape=full[:2])
    return pieces
