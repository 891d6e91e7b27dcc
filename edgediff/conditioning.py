"""The denoiser graph as a network: bound to its prompts, its guidance, and whatever else it was given."""

from __future__ import annotations

import numpy as np

from edgediff import denoise as wrap
from edgediff import embeddings, latents
from edgediff.errors import InputError
from edgediff.noise import Noise
from edgediff.parts import Parts
from edgediff.plan import Plan
from edgediff.runtime import Tensor, fitted
from edgediff.sampler import Array
from edgediff.schedule import Point
from edgediff.tasks.call import Call


def network_of(parts: Parts, call: Call, beside: Array | None = None) -> wrap.Network:
    """Encode the prompts and return the guided network of a call.

    ``beside`` is concatenated to each sample's channels, shape (batch or 1, extra channels, ...): what an
    inpainting network is told about the picture.
    """
    prompts, negatives = _embedded(parts, call)
    texts = prompts if negatives is None else np.concatenate([negatives, prompts])
    texts = np.repeat(texts, call.per_prompt, axis=0)
    network = conditioned(parts, texts, call.guidance_scale, beside)
    if negatives is None:
        return network
    return wrap.guided(network, call.guidance_scale, call.guidance_rescale)


def planned(parts: Parts, call: Call, network: wrap.Network, x: Array, noise: Noise) -> Plan:
    """Return the plan of a call whose network is bound and whose start is made."""
    return Plan(
        denoise=wrap.denoiser(network, call.solver.conversion),
        x=x,
        schedule=call.schedule,
        sampler=call.solver.sampler,
        noise=noise,
        decode=lambda done: latents.decode(parts, done),
    )


def _embedded(parts: Parts, call: Call) -> tuple[Array, Array | None]:
    """Return the embeddings of prompts and negatives, made together so that their lengths agree."""
    made = None
    if call.prompts or call.negatives:
        cache = parts.memory.setdefault("prompts", embeddings.Cache())
        made = embeddings.encode(
            parts, call.prompts, call.negatives, syntax=call.syntax, clip_skip=call.clip_skip, cache=cache
        )
    count = len(call.negatives)
    positive = made[count:] if call.embeds is None and made is not None else call.embeds
    negative = made[:count] if count and made is not None else call.negative_embeds
    assert positive is not None  # a call has prompts or embeddings
    if negative is not None and negative.shape[1:] != positive.shape[1:]:
        raise InputError(
            f"prompt_embeds: {positive.shape} and the negative's {negative.shape} differ in tokens or width; "
            "give both as embeddings."
        )
    return positive, negative


def conditioned(
    parts: Parts, texts: Array, guidance_scale: float, beside: Array | None = None
) -> wrap.Network:
    """Return the denoiser graph bound to its prompts (and to the guidance that it was distilled with)."""
    dims = parts.bundle.guidance_embedding
    extra = None if dims is None else wrap.guidance_embedding(guidance_scale, dims)

    def network(x: Array, at: Point) -> Array:
        inputs = {spec.name: spec for spec in parts.graph("denoiser").info.inputs}
        batch = len(x)
        if beside is not None:
            x = np.concatenate([x, np.repeat(beside, batch // len(beside), axis=0)], axis=1)
        feeds: dict[str, Tensor] = {
            "sample": x.astype(inputs["sample"].dtype, copy=False),
            "timestep": fitted(at.t, inputs["timestep"], batch),
            "encoder_hidden_states": texts.astype(inputs["encoder_hidden_states"].dtype, copy=False),
        }
        if extra is not None:
            feeds["timestep_cond"] = np.repeat(extra, batch, axis=0).astype(
                inputs["timestep_cond"].dtype, copy=False
            )
        out = next(iter(parts.run("denoiser", feeds).values()))
        return out.astype(np.float32, copy=False)

    return wrap.finite(network)
