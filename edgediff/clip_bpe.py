"""CLIP's tokenizer from ``vocab.json`` and ``merges.txt``: for folders that have no ``tokenizer.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

START, END = "<|startoftext|>", "<|endoftext|>"
# Special tokens, English contractions, runs of letters, single digits, runs of anything else.
SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def build(folder: Path, unknown: str = END, start: str = START, end: str = END) -> Any:
    """Return a ``tokenizers.Tokenizer``: lower case, byte level, ``</w>`` at the end of a word.

    The normalisation and the split are those of CLIP's published tokenizer (Radford et al., 2021, section
    2.4). ``tokenizers`` raises a bare ``Exception`` for files that do not make one: callers wrap it.
    """
    from tokenizers import AddedToken, Tokenizer, models

    bpe = models.BPE.from_file(
        str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token=unknown, end_of_word_suffix="</w>"
    )
    built = Tokenizer(bpe)
    dress(built)
    special = [t for t in (start, end) if built.token_to_id(t) is not None]
    built.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    return built


def dress(tokenizer: Any) -> None:
    """Give a byte-pair encoding CLIP's normalisation, split and decoder."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
