"""What an adapter's tensor is called, in the spellings that trainers use: component, module, and part.

``lora_unet_mid_block_attentions_0_proj_in.lora_down.weight`` (kohya), ``unet.mid_block.attentions.0.proj_in.
lora_A.weight`` (diffusers) and ``base_model.model.mid_block.attentions.0.proj_in.lora_A.weight`` (peft) say
the same thing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# What a name ends with -> which part of the change it is. LyCORIS names: its docs/Algo-Details.md.
_ENDS = {
    **{f"{stem}.down.weight": "down" for stem in (".lora", "_lora", ".lora_linear_layer")},
    **{f"{stem}.up.weight": "up" for stem in (".lora", "_lora", ".lora_linear_layer")},
    **{f".{part}.weight": "down" for part in ("lora_down", "lora_A", "lora_A.default")},
    **{f".{part}.weight": "up" for part in ("lora_up", "lora_B", "lora_B.default")},
    **{f".{part}.bias": "up_bias" for part in ("lora_up", "lora_B", "lora_B.default")},
    ".lora_mid.weight": "mid",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_magnitude_vector.default.weight": "magnitude",
    **{f".hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **{f".{part}": part for part in ("alpha", "dora_scale", "diff", "diff_b")},
    ".w_norm": "diff",
    ".b_norm": "diff_b",
}
# What a name begins with -> the component. Longer ones come first: text_encoder_2 before text_encoder.
_STARTS = {
    "base_model.model.": None,
    "model.diffusion_model.": "unet",
    "diffusion_model.": "unet",
    "lora_unet_": "unet",
    "lycoris_": "unet",
    "unet.": "unet",
    "lora_te2_": "text_encoder_2",
    "lora_te1_": "text_encoder",
    "lora_te_": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder.": "text_encoder",
}
# The first word of a module's path, where no component is named.
_OF_TEXT = ("text_model", "encoder", "embeddings", "final_layer_norm", "text_projection")
_OTHER_KINDS = {
    "IA3": r"\.on_input$|(^|[._])ia3(_l)?([._]|$)",
    "OFT or BOFT": r"(^|\.)b?oft_",
    "GLoRA": r"\.(a[12]|b[12m])\.weight$",
    "T-LoRA": r"\.(lambda_layer|[pq]_layer\.weight)$",
    "VeRA": r"\.vera_",
    "a LoRA of embeddings": r"\.lora_embedding_[AB]",
    "textual inversion": r"^(bundle_emb\.|string_to_|emb_params$|clip_[lg]$)",
    "Control-LoRA": r"^lora_controlnet$",
}
PEFT = "base_model.model."


class Key(NamedTuple):
    """``module`` is spelt as the file spells it: dotted or with underscores; ``part`` is one of ours."""

    component: str
    module: str
    part: str


def parse_key(name: str) -> Key | None:
    """Read a tensor's name; None for one that is no part of an adapter that is covered."""
    end = max((end for end in _ENDS if name.endswith(end)), key=len, default=None)
    if end is None:
        return None
    module, component = name.removesuffix(end), None
    for start, named in _STARTS.items():
        if component is None and module.startswith(start):
            module, component = module.removeprefix(start), named
    module = module.replace(".processor.", ".")
    if component is None:
        component = "text_encoder" if module.partition(".")[0] in _OF_TEXT else "unet"
    return Key(component, module, _ENDS[end]) if module else None


def other_kind(name: str) -> str | None:
    """The kind of adapter that a name gives away and that this exporter does not cover."""
    return next((kind for kind, pattern in _OTHER_KINDS.items() if re.search(pattern, name)), None)
