"""Prompts to rows of tokens with weights; what is longer than the text encoder reads makes several rows.

Cutting and weighing follow what AUTOMATIC1111's web interface documents. Weighing works on one chunk of one
prompt, so that what comes out depends on nothing that was asked for beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import InputError
from edgediff.prompt import Tokenizer
from edgediff.prompt_weights import BREAK, parse

MAX_CHUNKS = 32
COMMA_BACKTRACK = 20

# A token's id and its weight; None starts a new chunk.
Token = tuple[int, float] | None
# What the text encoder reads at once: ids between start and end, padded, and a weight for each.
Row = tuple[NDArray[np.int64], NDArray[np.float32]]


def plain(tokenizer: Tokenizer, prompts: Sequence[str], name: str) -> list[list[Row]]:
    """Return one row per prompt, every character taken as text; what does not fit is dropped with
    PromptTruncated."""
    ones = np.ones(tokenizer.length, np.float32)
    return [[(ids, ones)] for ids in tokenizer(prompts, name)] if prompts else []


def marked(tokenizer: Tokenizer, prompts: Sequence[str], name: str) -> list[list[Row]]:
    """Return one or more rows per prompt, with the weights and breaks that are marked in it."""
    found = []
    for prompt in prompts:
        tokens: list[Token] = []
        for piece in parse(prompt, name):
            if piece == BREAK:
                tokens.append(None)
            tokens += [(token, piece[1]) for token in tokenizer.ids(piece[0])]
        chunks = cut(tokens, tokenizer.length - 2, tokenizer.comma, name)
        found.append([framed(tokenizer, chunk) for chunk in chunks])
    return found


def framed(tokenizer: Tokenizer, chunk: Sequence[tuple[int, float]]) -> Row:
    """Return a chunk as a row; start, end and padding have the weight 1."""
    weights = np.ones(tokenizer.length, np.float32)
    weights[1 : 1 + len(chunk)] = [weight for _, weight in chunk]
    return tokenizer.framed([token for token, _ in chunk]), weights


def cut(
    tokens: Iterable[Token], room: int, comma: int | None, name: str = "prompt"
) -> list[list[tuple[int, float]]]:
    """Return one or more chunks of at most ``room`` tokens.

    A full chunk ends after the last comma among its last 20 tokens, if there is one (``comma`` is its id):
    words that belong together stay together. The rest of such a chunk is padding, as it is where a chunk is
    broken off.

    Raises:
        InputError: there are more than 32.
    """
    chunks: list[list[tuple[int, float]]] = [[]]
    ended = False
    for token in tokens:
        if token is None:
            if ended:
                chunks.append([])
            ended = True
            continue
        if ended:
            chunks.append([])
            ended = False
        elif len(chunks[-1]) == room:
            end = _end(chunks[-1], comma)
            chunks.append(chunks[-1][end:])
            del chunks[-2][end:]
        chunks[-1].append(token)
    if len(chunks) > MAX_CHUNKS:
        raise InputError(
            f"{name}: it makes more than {MAX_CHUNKS} chunks of {room} tokens, which is the most; shorten it."
        )
    return chunks


def _end(chunk: Sequence[tuple[int, float]], comma: int | None) -> int:
    for end in range(len(chunk), max(len(chunk) - COMMA_BACKTRACK, 0), -1):
        if chunk[end - 1][0] == comma:
            return end
    return len(chunk)


def weighed(hidden: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return one chunk's hidden states (tokens, dims), each token's times its weight, with the mean of all
    numbers as it was.

    Where the weights cancel the mean there is none to restore, and the products stay as they are.
    """
    if np.all(weights == 1):
        return hidden
    products = hidden * weights[:, None]
    before, after = (float(x.mean(dtype=np.float64)) for x in (hidden, products))
    return products if after == 0 else products * np.float32(before / after)
