"""The cached data set: latents and text states in half precision, made once and drawn from at random."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from benchmarks.reference import loop, nets, tokenizer
from benchmarks.reference.grammar import scenes
from benchmarks.reference.pictures import to_tensor
from benchmarks.reference.pyramid import Pyramid
from benchmarks.reference.render import render

DROPPED = 0.1  # share of captions that are left out, for guidance


@dataclass(frozen=True, slots=True)
class Cached:
    """Latents (N, 16, h, w) and states (N, 32, 128), and the states (1, 32, 128) of the empty caption."""

    latents: Tensor
    states: Tensor
    empty: Tensor

    def draw(self, n: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch in single precision."""
        i = torch.randint(len(self.latents), (n,), generator=random).to(self.latents.device)
        return self.latents[i].float(), self.states[i].float()

    def without_some(self, states: Tensor, random: torch.Generator) -> Tensor:
        """The states, a tenth of them replaced by the empty caption's."""
        dropped = (torch.rand(len(states), generator=random) < DROPPED).to(states.device)
        return torch.where(dropped[:, None, None], self.empty, states)


@torch.no_grad()
def load(setting: loop.Setting, encoder: Pyramid, text: CLIPTextModel, words: Any) -> Cached:
    """The data set of the work folder, made where it is missing or was made with other networks."""
    path, device, mark = setting.work / "data.pt", setting.device, fingerprint(encoder, text)
    held = torch.load(path, weights_only=True) if path.exists() else {}
    if held.get("mark") != mark or len(held["latents"]) != setting.pictures:
        latents, states = [], []
        for start in range(0, setting.pictures, 512):
            asked = scenes(8_000_000 + start, min(512, setting.pictures - start))
            pictures = to_tensor(render(asked, setting.size)).to(device)
            latents.append(encoder.encode(pictures).half().cpu())
            states.append(hidden(text, words, [scene.caption for scene in asked]).half().cpu())
        held = {"latents": torch.cat(latents), "states": torch.cat(states), "mark": mark}
        loop.save_state(path, held)
    empty = hidden(text, words, [""])
    return Cached(held["latents"].to(device), held["states"].to(device), empty)


def identifiers(words: Any, captions: list[str]) -> Tensor:
    """Captions to padded rows of ids."""
    return torch.tensor(tokenizer.encode(words, captions, nets.CONTEXT))


def hidden(text: CLIPTextModel, words: Any, captions: list[str]) -> Tensor:
    """The text encoder's last states, final norm included, as Stable Diffusion uses them."""
    states: Tensor = text(identifiers(words, captions).to(text.device)).last_hidden_state
    return states


def fingerprint(*networks: nn.Module) -> int:
    """A number that other weights would not give."""
    mark = 0
    for net in networks:
        for values in net.state_dict().values():
            mark = zlib.crc32(values.detach().cpu().contiguous().numpy().tobytes(), mark)
    return mark
