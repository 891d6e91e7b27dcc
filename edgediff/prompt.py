"""Prompts to token ids: CLIP's byte-pair encoding through ``tokenizers``, padded to the encoder's length.

Text is brought to NFC and lower case before it is split, so an accent typed as a mark of its own gives the
ids of the one letter, and the same bytes give the same ids on every system.
"""

from __future__ import annotations

import re
import reprlib
import stat
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
MAX_PROMPTS = 64
MAX_FILE_BYTES = 1 << 20
MAX_TOKENIZER_BYTES = 16 << 20


class PromptTruncated(UserWarning):
    """A prompt was longer than the text encoder reads; the message quotes what was dropped."""


def checked_prompts(prompt: object, name: str = "prompt") -> list[str]:
    """Return ``prompt`` as a list of 1 to 64 strings.

    Raises:
        InputError: it is neither a string nor a list of strings, is longer than 16 KiB, or holds control
            characters or bytes that are not text.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)) or not 1 <= len(prompts) <= MAX_PROMPTS:
        raise InputError(
            f"{name}: expected a string or a list of 1 to {MAX_PROMPTS} strings, found "
            f"{type(prompt).__name__} {reprlib.repr(prompt):.60}."
        )
    for text in prompts:
        if not isinstance(text, str):
            raise InputError(f"{name}: expected strings, found {reprlib.repr(text):.60}.")
        if len(text) > MAX_PROMPT_BYTES:  # known at once, however many millions there are
            raise InputError(
                f"{name}: {len(text)} characters are more than the {MAX_PROMPT_BYTES} bytes allowed; "
                "shorten it."
            )
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


def read_prompt_file(path: str | Path) -> list[str]:
    """Return the prompts in a text file: one per line, blank lines skipped; line ends of any system.

    Raises:
        InputError: it is no regular file of UTF-8 text of at most 1 MiB with 1 to 64 prompts, or a line is
            no prompt.
    """
    file = Path(path)
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe would wait, a device would never end
            raise InputError(f"{file}: not a regular file; name a text file with one prompt per line.")
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{str(file)!r:.200}: the prompt file cannot be read ({reason}).") from error
    if len(raw) > MAX_FILE_BYTES:
        raise InputError(f"{file}: more than the {MAX_FILE_BYTES} bytes allowed; split it.")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw:
        raise InputError(f"{file}: this is UTF-16 or no text; save it as UTF-8.")
    try:
        lines = re.split("\r\n|\n|\r", raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: byte {error.start} is not UTF-8; save the file as UTF-8.") from None
    found = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not 1 <= len(found) <= MAX_PROMPTS:
        raise InputError(f"{file}: {len(found)} prompts were found, one per line; give 1 to {MAX_PROMPTS}.")
    return [checked_prompts(line, f"{file}: line {n}")[0] for n, line in found]


class Tokenizer:
    """A CLIP tokenizer: ``<start> ids <end>`` padded to ``length``. ``comma`` is a comma's id, if there is
    one.

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
        self.comma: int | None = self._bpe.token_to_id(",</w>")

    def __call__(self, prompts: Sequence[str], name: str = "prompt") -> NDArray[np.int64]:
        """Return token ids, shape (len(prompts), length). Text that does not fit is dropped with
        PromptTruncated."""
        room = self.length - 2
        rows = []
        for text in prompts:
            encoded = self._bpe.encode(text, add_special_tokens=False)
            if len(encoded.ids) > room:
                dropped = text[encoded.offsets[room][0] :]
                warnings.warn(
                    f"{name}: {len(encoded.ids)} tokens, the text encoder reads {room}; dropped: {dropped!r}",
                    PromptTruncated,
                    stacklevel=2,
                )
            rows.append(self.framed(encoded.ids[:room]))
        return np.stack(rows)

    def ids(self, text: str) -> list[int]:
        """Return the ids of ``text`` alone, however many: no start, no end, no padding."""
        found: list[int] = self._bpe.encode(text, add_special_tokens=False).ids
        return found

    def framed(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Return at most ``length - 2`` ids between start and end, padded, shape (length,)."""
        row = np.full(self.length, self._pad, np.int64)
        row[: len(ids) + 2] = (self._start, *ids, self._end)
        return row

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
