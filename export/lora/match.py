"""Finds the tensors of a component that an adapter changes, and refuses adapters that do not fit it.

Nothing is guessed from a name: every spelling of every module that the checkpoint has is listed, and an
adapter's module is one of them or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

from edgediff.errors import SourceError
from edgediff.export.lora.deltas import Delta, Piece
from edgediff.export.lora.file import Adapter, listed
from edgediff.export.networks.unet2d_condition import configure
from edgediff.export.original.names import unet_names
from edgediff.export.sources import Component
from edgediff.export.tensors import Entry

# The ends of modules' names, and what diffusers called them until 2023.
_OLD_ENDS = {
    "unet": {".to_out.0": ".to_out"},
    "text": {
        ".self_attn.q_proj": ".self_attn.to_q",
        ".self_attn.k_proj": ".self_attn.to_k",
        ".self_attn.v_proj": ".self_attn.to_v",
        ".self_attn.out_proj": ".self_attn.to_out",
    },
}
_TEXT = "text_model."


@dataclass(frozen=True, slots=True)
class Step:
    """What an adapter does to one tensor: it gains ``factor`` times ``delta``, then DoRA rescales it.

    ``blend`` is how far the result moves from the old weight to the rescaled one.
    """

    delta: Delta
    factor: float
    magnitude: Piece | None = None
    by_columns: bool = False
    blend: float = 1.0


def steps(adapter: Adapter, component: Component) -> Mapping[str, Step]:
    """What the adapter does to the component's tensors, by their names.

    SourceError lists the adapter's keys that no module has, or the shapes that differ: then nothing of it is
    applied.
    """
    changes = [change for change in adapter.changes if change.component == component.name]
    modules = _modules(component, {change.module for change in changes})
    found: dict[str, Step] = {}
    unmatched: list[str] = []
    misshapen: list[str] = []
    for change in changes:
        module = modules.get(change.module)
        wanted: list[tuple[str, Step]] = []
        if change.weight is not None:
            of_peft, magnitude = change.of_peft, change.magnitude
            plain = magnitude is None or of_peft
            factor = change.factor * (adapter.scale if plain else 1.0)
            step = Step(change.weight, factor, magnitude, blend=1.0 if plain else adapter.scale)
            wanted.append((f"{module}.weight", step))
        if change.bias is not None:
            wanted.append((f"{module}.bias", Step(change.bias, change.bias_factor * adapter.scale)))
        if module is None or any(name not in component.tensors.entries for name, _ in wanted):
            unmatched.extend(change.keys)
            continue
        for name, step in wanted:
            if name in found:
                raise SourceError(
                    f"{adapter.path}: changes {name} twice, under two names ({change.keys[0]})."
                )
            fitted = _fitted(step, component.tensors.entries[name], of_peft=change.of_peft)
            if fitted is None:
                misshapen.append(_misfit(name, step, component.tensors.entries[name]))
            else:
                found[name] = fitted
    if unmatched:
        raise SourceError(
            f"{adapter.path}: {len(unmatched)} of its tensors belong to no module of {component.where}: "
            f"{listed(unmatched)}. Is it for another base model?"
        )
    if misshapen:
        raise SourceError(
            f"{adapter.path}: is for another base model, does not fit {component.where}: {listed(misshapen)}."
        )
    return found


def _modules(component: Component, wanted: set[str]) -> dict[str, str | None]:
    """The spellings of the component's modules -> their names there; None for what two modules share.

    The original layout's are listed only if some of the ``wanted`` are not among the others.
    """
    found: dict[str, str | None] = {}
    names = {name.removesuffix(".weight") for name in component.tensors.entries if name.endswith(".weight")}
    _list(found, ((dotted, name) for name in names for dotted in _spellings(component.name, name)))
    if not wanted <= found.keys():
        _list(found, ((old, new) for old, new in _originals(component).items() if new in names))
    return found


def _list(found: dict[str, str | None], spellings: Iterable[tuple[str, str]]) -> None:
    for dotted, module in spellings:
        for spelling in {dotted, dotted.replace(".", "_")}:
            if found.setdefault(spelling, module) != module:
                found[spelling] = None


def _originals(component: Component) -> Mapping[str, str]:
    """What the original layout calls the U-Net's modules, which kohya's adapters for SDXL keep to."""
    if component.name != "unet":
        return {}
    configure(component.config, str(component.where / "config.json"))  # refuses what cannot be counted
    return unet_names(component.config)


def _spellings(component: str, module: str) -> Iterator[str]:
    of_text = component.startswith("text_encoder")
    if of_text:
        # transformers 5 dropped this prefix from CLIPTextModel; adapters were trained on either.
        bare = module.removeprefix(_TEXT)
        names = [bare, f"{_TEXT}{bare}"]
    else:
        names = [module]
    for name in names:
        yield name
        for new, old in _OLD_ENDS["text" if of_text else "unet"].items():
            if name.endswith(new):
                yield name.removesuffix(new) + old


def _fitted(step: Step, entry: Entry, of_peft: bool) -> Step | None:
    """The step with what the tensor's shape decides; None if the shapes do not fit."""
    ours, theirs = entry.shape, step.delta.shape
    if not theirs or not ours or ours[0] != theirs[0] or prod(ours) != prod(theirs):
        return None
    if len(theirs) > 2 and _essential(ours) != _essential(theirs):
        return None
    if step.magnitude is None:
        return step
    lengths = step.magnitude.shape
    if not lengths:
        return None
    numbers, inputs = prod(lengths), ours[1] if len(ours) > 1 else 1
    if numbers == ours[0] and (of_peft or lengths[0] == numbers):
        return step
    # One magnitude for each input: LyCORIS with wd_on_out off stores (1, inputs, 1, 1).
    if not of_peft and len(lengths) > 1 and lengths[:2] == (1, inputs) and numbers == inputs:
        return replace(step, by_columns=True)
    return None


def _essential(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing ones: a 1x1 convolution and a linear layer hold the same numbers."""
    kept = len(shape)
    while kept and shape[kept - 1] == 1:
        kept -= 1
    return shape[:kept]


def _misfit(name: str, step: Step, entry: Entry) -> str:
    magnitude = f" with magnitudes {step.magnitude.shape}" if step.magnitude is not None else ""
    return f"{name} is {entry.shape}, the adapter's change is {step.delta.shape}{magnitude}"
