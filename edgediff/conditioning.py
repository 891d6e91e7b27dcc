"""The denoiser graph as a network: bound to its prompts, its guidance, and whatever else it was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgediff import denoise as wrap
from edgediff import embeddings, latents, step_cache, text_projections
from edgediff import guidance_interval as intervals
from edgediff.bundle import TensorSpec
from edgediff.embeddings import Encoded
from edgediff.errors import BundleError, InputError
from edgediff.noise import Noise
from edgediff.parts import Parts
from edgediff.plan import Plan
from edgediff.runtime import Tensor, constant, fitted
from edgediff.sampler import Array
from edgediff.schedule import Point, Schedule
from edgediff.tasks.call import Call

if TYPE_CHECKING:
    from edgediff.control import Steering


def network_of(
    parts: Parts, call: Call, beside: Array | None = None, image_guidance: float | None = None
) -> wrap.Network:
    """Encode the prompts and return the guided network of a call.

    ``beside`` is concatenated to each sample's channels, shape (batch or 1, extra channels, ...): what an
    inpainting network is told about the picture. With ``image_guidance`` a guided call has three branches, in
    this order: prompt and picture, picture alone, neither; ``beside`` then has the rows of all three.
    """
    prompts, negatives = _embedded(parts, call)
    positive, negative = call.size_ids
    branches, ids = [prompts], [positive]
    if negatives is not None:
        branches, ids = [negatives, prompts], [negative, positive]
        if image_guidance is not None:
            branches, ids = [prompts, negatives, negatives], [positive, negative, negative]
    texts = np.concatenate([np.repeat(branch.hidden, call.per_prompt, axis=0) for branch in branches])
    added = _added(parts, call, branches, ids)
    steer = _steering(parts, call)
    kept = None if call.savings.every == 1 else step_cache.kept(call.schedule, call.savings.every)
    network = conditioned(parts, texts, call.guidance_scale, beside, steer, added, kept)
    if negatives is None:
        return network
    if image_guidance is not None:
        combined = wrap.guided_twice(network, call.guidance_scale, image_guidance, call.guidance_rescale)
    else:
        combined = wrap.guided(network, call.guidance_scale, call.guidance_rescale)
    interval = call.savings.interval
    if interval is None:
        return combined
    own = np.repeat(prompts.hidden, call.per_prompt, axis=0)
    told = None if beside is None else beside[: len(beside) // len(branches)] if image_guidance else beside
    alone = conditioned(
        parts, own, call.guidance_scale, told, steer, _added(parts, call, [prompts], [positive]), kept
    )
    return intervals.switched(combined, alone, intervals.within(_whole(call), *interval))


def planned(parts: Parts, call: Call, network: wrap.Network, x: Array, noise: Noise) -> Plan:
    """Return the plan of a call whose network is bound and whose start is made."""
    saving = call.savings
    return Plan(
        denoise=wrap.denoiser(network, call.solver.conversion),
        x=x,
        schedule=call.schedule,
        sampler=call.solver.sampler,
        noise=noise,
        decode=lambda done: latents.decode(parts, done, saving.decoder, saving.tile),
    )


def _embedded(parts: Parts, call: Call) -> tuple[Encoded, Encoded | None]:
    """Return the embeddings of prompts and negatives, made together so that their lengths agree."""
    texts, made = call.texts, None
    if texts.prompts or texts.negatives:
        made = embeddings.encode(
            parts, texts.prompts, texts.negatives, prompts_2=texts.prompts_2, negatives_2=texts.negatives_2,
            syntax=texts.syntax, clip_skip=texts.clip_skip,
            cache=parts.memory.setdefault("prompts", embeddings.Cache()),
        )  # fmt: skip
    count = len(texts.negatives)
    if texts.embeds is not None:
        positive = Encoded(texts.embeds, texts.pooled)
    else:
        assert made is not None  # a call has prompts or embeddings
        positive = made[count:]
    if texts.zeros:
        pooled = None if positive.pooled is None else np.zeros_like(positive.pooled)
        return positive, Encoded(np.zeros_like(positive.hidden), pooled)
    if texts.negative_embeds is not None:
        negative = Encoded(texts.negative_embeds, texts.negative_pooled)
    elif count and made is not None:
        negative = made[:count]
    else:
        return positive, None
    if negative.hidden.shape[1:] != positive.hidden.shape[1:]:
        raise InputError(
            f"prompt_embeds: {positive.hidden.shape} and the negative's {negative.hidden.shape} differ in "
            "tokens or width; give both as embeddings."
        )
    return positive, negative


def _added(
    parts: Parts, call: Call, branches: Sequence[Encoded], ids: Sequence[tuple[float, ...]]
) -> dict[str, Array]:
    """Return what an SDXL-type denoiser reads beside the hidden states: pooled vectors and sizes, by name.

    Rows are those of the hidden states, branch by branch: each branch is told its own sizes.
    """
    found: dict[str, Array] = {}
    pooled = [branch.pooled for branch in branches if branch.pooled is not None]
    if pooled:
        found["text_embeds"] = np.concatenate([np.repeat(each, call.per_prompt, axis=0) for each in pooled])
    if parts.bundle.size_ids:
        found["time_ids"] = np.concatenate(
            [np.tile(np.asarray(each, np.float32), (call.batch, 1)) for each in ids]
        )
    return found


def _steering(parts: Parts, call: Call) -> Steering | None:
    if call.controls is None:
        return None
    from edgediff.control import steering

    sampler = call.solver.sampler
    return steering(parts, call.controls, call.batch, call.guided, sampler, call.schedule, _whole(call))


def _whole(call: Call) -> Schedule:
    """The schedule that shares are of: of a walk cut by strength its own, of a stage that of all stages."""
    return call.schedule if call.strength is not None else call.solver.schedule(call.steps)


def conditioned(
    parts: Parts,
    texts: Array,
    guidance_scale: float,
    beside: Array | None = None,
    steer: Steering | None = None,
    added: Mapping[str, Array] | None = None,
    kept: step_cache.Kept | None = None,
) -> wrap.Network:
    """Return the denoiser graph bound to its prompts (and to the guidance that it was distilled with).

    With ``steer`` it is the form of the graph that reads residuals. ``added`` are further inputs by name,
    with the rows of ``texts``. ``kept`` holds deep features between steps, for a shallow form of the graph.
    """
    role = "denoiser" if steer is None else "controlled_denoiser"
    dims = parts.bundle.guidance_embedding
    extra = None if dims is None else wrap.guidance_embedding(guidance_scale, dims)

    projections = text_projections.role_of(parts)
    made: dict[str, Tensor] = {}

    def told(inputs: Mapping[str, TensorSpec]) -> dict[str, Tensor]:
        """The text as the graph reads it, in the graph's own types; made in the first step."""
        if not made:
            found = {"encoder_hidden_states": texts}
            if projections is not None:
                found |= text_projections.projected(parts, projections, texts)
            for name, rows in found.items():
                rows = rows.astype(inputs[name].dtype, copy=False) if name in inputs else rows
                made[name] = constant(rows)  # the same in every step: devices copy it once
        return made

    def network(x: Array, at: Point) -> Array:
        inputs = {spec.name: spec for spec in parts.graph(role).info.inputs}
        batch = len(x)
        alone = x
        if beside is not None:
            x = np.concatenate([x, np.concatenate([beside] * (batch // len(beside)))], axis=1)
        feeds: dict[str, Tensor] = {
            "sample": x.astype(inputs["sample"].dtype, copy=False),
            "timestep": fitted(at.t, inputs["timestep"], batch),
            **told(inputs),
        }
        if extra is not None:
            feeds["timestep_cond"] = np.repeat(extra, batch, axis=0).astype(
                inputs["timestep_cond"].dtype, copy=False
            )
        for name, rows in () if added is None else added.items():
            if name not in inputs:
                raise BundleError(f"{role}: its graph does not read {name}; export the bundle again.")
            feeds[name] = rows.astype(inputs[name].dtype, copy=False)
        if steer is not None:
            residuals = steer(alone, at, feeds)
            feeds |= {name: value.astype(inputs[name].dtype, copy=False) for name, value in residuals.items()}
        features = None if kept is None else kept.at(at, batch)
        runs = role
        if features is not None:
            runs, feeds = step_cache.ROLE, {**feeds, step_cache.FEATURES: features}
            inputs = {spec.name: spec for spec in parts.graph(runs).info.inputs}
        if projections is not None or features is not None:  # the text itself was for what steers
            feeds = {name: value for name, value in feeds.items() if name in inputs}
        found = parts.run(runs, feeds)
        if kept is not None and features is None:
            kept.features = found[step_cache.FEATURES]
        out = next(iter(found.values()))
        return out.astype(np.float32, copy=False)

    return wrap.finite(network)
