"""Prompts to token ids: CLIP's byte-pair encoding through ``tokenizers``, padded to the encoder's length."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgediff import clip_bpe
from edgediff.errors import BundleError, InputError
from edgediff.manifest import read_json

MAX_PROMPT_BYTES = 16 * 1024
MAX_TOKENIZER_BYTES = 16 << 20


class PromptTruncated(UserWarning):
    """A prompt was longer than the text encoder reads; the message quotes what was dropped."""


def checked_prompts(prompt: object, name: str = "prompt") -> list[str]:
    """Return ``prompt`` as a list of 1 to 64 strings.

    Raises:
        InputError: it is neither a string nor a list of strings, is longer than 16 KiB, or holds control
            characters
            or bytes that are not text.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)) or not 1 <= len(prompts) <= 64:
        raise InputError(f"{name}: expected a string or a list of 1 to 64 strings, found {prompt!r:.60}.")
    for text in prompts:
        if not isinstance(text, str):
            raise InputError(f"{name}: expected strings, found {text!r:.60}.")
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError:
            raise InputError(f"{name}: it holds bytes that are not UTF-8 text; retype it.") from None
        if size > MAX_PROMPT_BYTES:
            raise InputError(
                f"{name}: {size} bytes are more than the {MAX_PROMPT_BYTES} allowed; shorten it."
            )
        if any(unicodedata.category(c) == "Cc" and c not in "\t\n\r" for c in text):
            raise InputError(f"{name}: it holds control characters; remove them.")
    return list(prompts)


class Tokenizer:
    """A CLIP tokenizer: ``<start> ids <end>`` padded to ``length``.

    Args:
        folder: holds ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``.
        length: what the text encoder reads, start and end included.

    Raises:
        BundleError: the files are missing or are no such tokenizer.
    """

    def __init__(self, folder: Path, length: int) -> None:
        self._bpe = _load(folder)
        self.length = length
        special = _special_tokens(folder)
        self._start = self._id(special.get("bos_token", "<|startoftext|>"), folder)
        self._end = self._id(special.get("eos_token", "<|endoftext|>"), folder)
        self._pad = self._id(special.get("pad_token", special.get("eos_token", "<|endoftext|>")), folder)

    def __call__(self, prompts: Sequence[str], name: str = "prompt") -> NDArray[np.int64]:
        """Return token ids, shape (len(prompts), length). Text that does not fit is dropped with
        PromptTruncated."""
        room = self.length - 2
        rows = np.full((len(prompts), self.length), self._pad, np.int64)
        for row, text in zip(rows, prompts, strict=True):
            encoded = self._bpe.encode(text, add_special_tokens=False)
            ids = encoded.ids[:room]
            if len(encoded.ids) > room:
                dropped = text[encoded.offsets[room][0] :]
                warnings.warn(
                    f"{name}: {len(encoded.ids)} tokens, the text encoder reads {room}; dropped: {dropped!r}",
                    PromptTruncated,
                    stacklevel=2,
                )
            row[0] = self._start
            row[1 : 1 + len(ids)] = ids
            row[1 + len(ids)] = self._end
        return rows

    def _id(self, token: str, folder: Path) -> int:
        found: int | None = self._bpe.token_to_id(token)
        if found is None:
            raise BundleError(f"{folder}: the tokenizer has no token {token!r}; export the bundle again.")
        return found


def _load(folder: Path) -> Any:
    import tokenizers

    whole = folder / "tokenizer.json"
    try:
        if whole.is_file():
            if whole.stat().st_size > MAX_TOKENIZER_BYTES:
                raise BundleError(f"{whole}: larger than the {MAX_TOKENIZER_BYTES} bytes allowed.")
            loaded = tokenizers.Tokenizer.from_file(str(whole))
            loaded.no_padding()
            loaded.no_truncation()
            return loaded
        return _from_vocabulary(folder)
    except BundleError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for every fault of a file
        raise BundleError(f"{folder}: the tokenizer cannot be read ({error}).") from error


def _from_vocabulary(folder: Path) -> Any:
    for file in (folder / "vocab.json", folder / "merges.txt"):
        if not file.is_file():
            raise BundleError(
                f"{folder}: neither tokenizer.json nor {file.name} is there; export the bundle again."
            )
        if file.stat().st_size > MAX_TOKENIZER_BYTES:
            raise BundleError(f"{file}: larger than the {MAX_TOKENIZER_BYTES} bytes allowed.")
    return clip_bpe.build(folder)


def _special_tokens(folder: Path) -> dict[str, str]:
    """Return what tokenizer_config.json and special_tokens_map.json call the special tokens."""
    found: dict[str, str] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = folder / name
        if not file.is_file():
            continue
        value = read_json(file)
        for key in ("bos_token", "eos_token", "pad_token"):
            token = value.get(key) if isinstance(value, dict) else None
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                found[key] = token
    return found
