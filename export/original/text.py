"""CLIP text encoders inside single files: their configuration from shapes, their tensors as transformers'.

Two layouts occur: transformers' own names, and OpenCLIP's, where queries, keys and values are one matrix and
the projection is stored as input x output.
"""

from __future__ import annotations

from typing import Any

from edgediff.errors import SourceError
from edgediff.export.original.names import openclip_names
from edgediff.export.original.shapes import Shapes
from edgediff.export.views import Piece

_HEAD_CHANNELS = 64
# OpenCLIP's encoders use the exact GELU, OpenAI's one (768 channels) a sigmoid in its place.
_EXACT_GELU = (1024, 1280)
_SD2_LAYERS = 24
_IGNORED = ("logit_scale", "attn_mask")
_LAYERS = "text_model.encoder.layers.{}.layer_norm1.weight"


def is_openclip(shapes: Shapes) -> bool:
    """Whether the names are OpenCLIP's."""
    return "token_embedding.weight" in shapes and "transformer.resblocks.0.ln_1.weight" in shapes


def is_transformers(shapes: Shapes) -> bool:
    """Whether the names are transformers' for a CLIP text encoder, as 4 or 5 writes them."""
    return any(f"{stem}embeddings.token_embedding.weight" in shapes for stem in ("text_model.", ""))


def text_config(shapes: Shapes, projected: bool, layers: int) -> dict[str, Any]:
    """What the ``config.json`` of this encoder would say, drawn with ``layers`` of its layers.

    ``projected``: it is a ``CLIPTextModelWithProjection``. Raises SourceError for what is no CLIP.
    """
    if is_openclip(shapes):
        tokens, places = "token_embedding.weight", "positional_embedding"
        inner = "transformer.resblocks.0.mlp.c_fc.weight"
    else:
        stem = _stem(shapes)
        tokens = f"{stem}embeddings.token_embedding.weight"
        places = f"{stem}embeddings.position_embedding.weight"
        inner = f"{stem}encoder.layers.0.mlp.fc1.weight"
    entries, width = shapes.of(tokens, 2)
    if width % _HEAD_CHANNELS:
        raise SourceError(
            f"{shapes.where}: a text encoder has {width} channels, no multiple of {_HEAD_CHANNELS}; its "
            "number of heads cannot be told. Give the encoder as a folder with its config.json."
        )
    exact = is_openclip(shapes) or width in _EXACT_GELU
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "vocab_size": entries,
        "max_position_embeddings": shapes.of(places, 2)[0],
        "hidden_size": width,
        "intermediate_size": shapes.of(inner, 2)[0],
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD_CHANNELS,
        "hidden_act": "gelu" if exact else "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": _projection(shapes) if projected else width,
        # As published; it makes the pooled vector that of the largest id, which is the end of text.
        "eos_token_id": 2,
    }


def used_layers(shapes: Shapes, projected: bool) -> int:
    """The layers that a model draws with.

    Stable Diffusion 2 leaves out the last layer of its OpenCLIP encoder, which files hold nevertheless.
    """
    found = layer_count(shapes)
    if projected or found < 2:
        return found
    if is_openclip(shapes):
        return found if found == _SD2_LAYERS - 1 else found - 1
    wide = shapes.of(f"{_stem(shapes)}embeddings.token_embedding.weight", 2)[1] == _EXACT_GELU[0]
    return found - 1 if wide and found == _SD2_LAYERS else found


def layer_count(shapes: Shapes) -> int:
    """The encoder's layers in the file."""
    if is_openclip(shapes):
        return shapes.count("transformer.resblocks.{}.ln_1.weight")
    return shapes.count(_LAYERS.replace("text_model.", _stem(shapes)))


def text_pieces(shapes: Shapes, projected: bool, layers: int) -> dict[str, Piece]:
    """The tensors by transformers' names. What no CLIP has stays under its own name, for others to refuse."""
    if not is_openclip(shapes):
        skipped = tuple(f"text_model.encoder.layers.{i}." for i in range(layers, layer_count(shapes)))
        dropped = ("logit_scale",) if projected else ("logit_scale", "text_projection.weight")
        kept = {_modern(name): Piece(shapes.prefix + name) for name in shapes if name not in dropped}
        return {name: piece for name, piece in kept.items() if not name.startswith(skipped)}
    names = openclip_names(layers)
    pieces: dict[str, Piece] = {}
    beyond = tuple(f"transformer.resblocks.{i}." for i in range(layers, layer_count(shapes)))
    for name in shapes:
        piece = Piece(shapes.prefix + name)
        module, _, parameter = name.rpartition(".")
        if name in _IGNORED or name.startswith(beyond) or (name == "text_projection" and not projected):
            continue
        if name == "positional_embedding":
            pieces["text_model.embeddings.position_embedding.weight"] = piece
        elif name in ("text_projection", "text_projection.weight"):
            pieces["text_projection.weight"] = Piece(piece.name, transposed=name == "text_projection")
        elif module.endswith(".attn") and parameter in ("in_proj_weight", "in_proj_bias"):
            pieces |= _split(shapes, name, parameter)
        else:
            pieces[f"{names.get(module, module)}.{parameter}" if module else name] = piece
    return pieces


def _split(shapes: Shapes, name: str, parameter: str) -> dict[str, Piece]:
    """Queries, keys and values out of the rows of one tensor."""
    kind = parameter.removeprefix("in_proj_")
    rows = shapes.of(name, 2 if kind == "weight" else 1)[0]
    width = shapes.of("token_embedding.weight", 2)[1]
    if rows != 3 * width:
        raise SourceError(
            f"{shapes.where}: tensor {shapes.prefix}{name} has {rows} rows, expected {3 * width}."
        )
    layer = name.split(".")[2]
    path = f"text_model.encoder.layers.{layer}.self_attn"
    return {
        f"{path}.{part}_proj.{kind}": Piece(shapes.prefix + name, (i * width, (i + 1) * width))
        for i, part in enumerate("qkv")
    }


def _projection(shapes: Shapes) -> int:
    """The width of the pooled vector after its projection."""
    if "text_projection" in shapes:
        return shapes.of("text_projection", 2)[1]
    return shapes.of("text_projection.weight", 2)[0]


def _stem(shapes: Shapes) -> str:
    return "text_model." if "text_model.embeddings.token_embedding.weight" in shapes else ""


def _modern(name: str) -> str:
    """Names without ``text_model.`` get it, as transformers 4 writes them."""
    plain = name.startswith(("embeddings.", "encoder.", "final_layer_norm."))
    return f"text_model.{name}" if plain else name
