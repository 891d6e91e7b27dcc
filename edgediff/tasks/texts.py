"""What a call says in words, or in embeddings instead: checked for the text encoders of a bundle."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from edgediff import embeddings
from edgediff.bundle import Bundle
from edgediff.errors import InputError
from edgediff.prompt import checked_prompts
from edgediff.runtime import Tensor
from edgediff.sampler import Array
from edgediff.tasks import request as check

Words = str | Sequence[str] | None


class Worded(TypedDict, total=False):
    """Arguments about the text; :meth:`edgediff.Pipeline.__call__` says what each means."""

    prompt_2: Words
    negative_prompt: Words
    negative_prompt_2: Words
    clip_skip: int | None
    prompt_syntax: str
    prompt_embeds: Tensor | None
    negative_prompt_embeds: Tensor | None
    pooled_prompt_embeds: Tensor | None
    negative_pooled_prompt_embeds: Tensor | None


@dataclass(frozen=True, slots=True)
class Texts:
    """Prompts and negatives, each as texts or as embeddings: hidden states and, where read, pooled vectors.

    ``prompts_2`` and ``negatives_2`` are for the encoders after the first, None where these read the same.
    ``negatives`` and ``negative_embeds`` are both empty where nothing is guided, and where ``zeros`` says
    that guidance steers away from zeros.
    """

    prompts: tuple[str, ...] = ()
    prompts_2: tuple[str, ...] | None = None
    negatives: tuple[str, ...] = ()
    negatives_2: tuple[str, ...] | None = None
    embeds: Array | None = None
    pooled: Array | None = None
    negative_embeds: Array | None = None
    negative_pooled: Array | None = None
    zeros: bool = False
    syntax: str = "plain"
    clip_skip: int | None = None

    @property
    def count(self) -> int:
        """Different prompts."""
        return len(self.prompts) if self.embeds is None else len(self.embeds)

    @property
    def guided(self) -> bool:
        """Whether there is something to steer away from."""
        return self.zeros or bool(self.negatives) or self.negative_embeds is not None


def checked(
    bundle: Bundle,
    prompt: Words,
    guidance_scale: float,
    *,
    prompt_2: Words = None,
    negative_prompt: Words = None,
    negative_prompt_2: Words = None,
    clip_skip: int | None = None,
    prompt_syntax: str = "plain",
    prompt_embeds: Tensor | None = None,
    negative_prompt_embeds: Tensor | None = None,
    pooled_prompt_embeds: Tensor | None = None,
    negative_pooled_prompt_embeds: Tensor | None = None,
) -> Texts:
    """Check what a call says against the text encoders of a bundle.

    Raises:
        InputError: an argument is wrong.
    """
    embeds, pooled = _embedded(bundle, "", prompt_embeds, pooled_prompt_embeds)
    if (prompt is None) == (embeds is None):
        raise InputError("prompt: give either a prompt or prompt_embeds.")
    prompts = () if prompt is None else tuple(checked_prompts(prompt))
    count = len(prompts) if embeds is None else len(embeds)
    _check_second(bundle, "prompt", prompts, prompt_2)
    embedded = bundle.guidance_embedding is not None
    guided = guidance_scale > 1 and not embedded
    if (negative_prompt is not None or negative_prompt_embeds is not None) and not guided:
        reason = "this model takes no negative prompt" if embedded else "guidance_scale is 1 or less"
        warnings.warn(f"negative_prompt has no effect: {reason}.", stacklevel=5)
    if prompt_syntax not in embeddings.SYNTAXES:
        raise InputError(
            f"prompt_syntax: {prompt_syntax!r} is unknown; use {' or '.join(embeddings.SYNTAXES)}."
        )
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise InputError("negative_prompt: give either a text or negative_prompt_embeds.")
    negatives = _each("negative_prompt", "" if negative_prompt is None else negative_prompt, count)
    _check_second(bundle, "negative_prompt", () if negative_prompt is None else negatives, negative_prompt_2)
    no_embeds, no_pooled = _embedded(
        bundle, "negative_", negative_prompt_embeds, negative_pooled_prompt_embeds, count, embeds
    )
    zeros = bundle.text is not None and bundle.text.zero_negative and negative_prompt is None
    written = guided and no_embeds is None and not zeros
    return Texts(
        prompts=prompts,
        prompts_2=None if prompt_2 is None else _each("prompt_2", prompt_2, count),
        negatives=negatives if written else (),
        negatives_2=(
            None
            if negative_prompt_2 is None or not written
            else _each("negative_prompt_2", negative_prompt_2, count)
        ),
        embeds=embeds,
        pooled=pooled,
        negative_embeds=no_embeds if guided else None,
        negative_pooled=no_pooled if guided else None,
        zeros=zeros and guided and no_embeds is None,
        syntax=prompt_syntax,
        clip_skip=_clip_skip(bundle, clip_skip),
    )


def _each(name: str, words: Words, count: int) -> tuple[str, ...]:
    """Return one text for each prompt."""
    found = checked_prompts(words, name)
    if len(found) not in (1, count):
        raise InputError(f"{name}: {len(found)} were given for {count} prompts; give one, or one each.")
    return tuple(found * count if len(found) == 1 else found)


def _check_second(bundle: Bundle, first: str, words: tuple[str, ...], second: Words) -> None:
    """Refuse texts for a second encoder where there is none, or where the first one reads embeddings."""
    if second is None:
        return
    if len(bundle.text_roles) < 2:
        raise InputError(f"{first}_2: this model has one text encoder; put everything into the {first}.")
    if not words:
        raise InputError(f"{first}_2: it goes with a {first}; give that too.")


def _embedded(
    bundle: Bundle,
    sign: str,
    embeds: object,
    pooled: object,
    count: int | None = None,
    beside: Array | None = None,
) -> tuple[Array | None, Array | None]:
    """Return given embeddings and pooled vectors, one for each of ``count`` prompts; ``sign`` is in names."""
    name, other = f"{sign}prompt_embeds", f"{sign}pooled_prompt_embeds"
    reads = bundle.text is not None and any(each.pooled is not None for each in bundle.text.encoders)
    if pooled is not None and not reads:
        raise InputError(f"{other}: this model reads no pooled vector; leave it out.")
    if embeds is None:
        if pooled is not None:
            raise InputError(f"{other}: they go with {name}; give both, or a text.")
        return None, None
    found = check.embeddings(name, embeds)
    if beside is not None and found.shape[1:] != beside.shape[1:]:
        raise InputError(f"{name}: {found.shape} and prompt_embeds {beside.shape} differ in tokens or width.")
    count = len(found) if count is None else count
    if len(found) not in (1, count):
        raise InputError(f"{name}: {len(found)} for {count} prompts; give 1 or {count}.")
    whole = np.repeat(found, count // len(found), axis=0)
    if not reads:
        return whole, None
    if pooled is None:
        raise InputError(f"{other}: this model reads them beside {name}; give what encode_prompt gave.")
    vectors = check.embeddings(other, pooled, ("prompts", "width"))
    if len(vectors) != len(found):
        raise InputError(f"{other}: {len(vectors)} for {len(found)} {name}; give one each.")
    return whole, np.repeat(vectors, count // len(vectors), axis=0)


def _clip_skip(bundle: Bundle, asked: int | None) -> int | None:
    """Return how many layers to leave out; 0, as None, is none. What the manifest rules out is refused."""
    if asked is None or check.whole("clip_skip", asked, 0, 64) == 0:
        return None
    for encoder in () if bundle.text is None else bundle.text.encoders:
        outputs = bundle.graph(encoder.role).outputs
        if outputs:  # a folder without a manifest does not say
            embeddings.check_clip_skip(asked, outputs, encoder.hidden)
    return int(asked)
