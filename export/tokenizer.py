"""Copies CLIP's tokenizer in both of its forms: tokenizer.json, and vocab.json with merges.txt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgediff import clip_bpe
from edgediff.errors import SourceError
from edgediff.export.json_files import dump_json, parse_json, read_json

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_LIMIT = 64 << 20


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The tokenizer's files by name; what is missing is made from what is there."""
    names = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
    files = {name: _bounded(folder / name) for name in names if (folder / name).is_file()}
    if "tokenizer_config.json" not in files:
        files["tokenizer_config.json"] = dump_json({"tokenizer_class": "CLIPTokenizer"})
    config = parse_json(files["tokenizer_config.json"], str(folder / "tokenizer_config.json"))
    classic = "vocab.json" in files and "merges.txt" in files
    if "tokenizer.json" not in files:
        if not classic:
            raise SourceError(f"{folder}: holds neither tokenizer.json nor vocab.json with merges.txt.")
        files["tokenizer.json"] = _modern(folder, config)
    elif not classic:
        files.update(_classic(parse_json(files["tokenizer.json"], str(folder / "tokenizer.json"))))
    if "special_tokens_map.json" not in files:
        special = {key: _text(config[key]) for key in _SPECIAL if _text(config.get(key)) is not None}
        files["special_tokens_map.json"] = dump_json(special)
    return {name: files[name] for name in names if name in files}


def text_length(folder: Path, positions: int) -> int:
    """How many ids a prompt has: what the tokenizer says, at most what the encoder can place."""
    path = folder / "tokenizer_config.json"
    length = read_json(path).get("model_max_length") if path.is_file() else None
    return min(positions, length) if isinstance(length, int) and length > 2 else positions


def _modern(folder: Path, config: dict[str, Any]) -> bytes:
    """tokenizer.json from vocab.json and merges.txt: byte-level BPE with CLIP's normalisation and split."""
    from tokenizers import processors

    start, end = (
        _text(config.get(key)) or token
        for key, token in (("bos_token", clip_bpe.START), ("eos_token", clip_bpe.END))
    )
    try:
        tokenizer = clip_bpe.build(folder, _text(config.get("unk_token")) or clip_bpe.END, start, end)
    except Exception as error:  # the library raises plain Exception
        raise SourceError(
            f"{folder}: vocab.json and merges.txt do not make a tokenizer ({error})."
        ) from error
    numbers = [tokenizer.token_to_id(token) for token in (end, start)]
    if numbers[0] is None or numbers[1] is None:
        raise SourceError(f"{folder / 'vocab.json'}: lacks {start} or {end}.")
    tokenizer.post_processor = processors.RobertaProcessing(
        (end, numbers[0]), (start, numbers[1]), trim_offsets=False, add_prefix_space=False
    )
    return (str(tokenizer.to_str(pretty=True)) + "\n").encode()


def largest_id(tokenizer_json: bytes) -> int:
    """The largest token id of a tokenizer.json."""
    content = json.loads(tokenizer_json)
    model = content.get("model") or {}
    added = [int(token["id"]) for token in content.get("added_tokens") or []]
    return max([*(int(i) for i in dict(model.get("vocab") or {}).values()), *added], default=0)


def _classic(content: dict[str, Any]) -> dict[str, bytes]:
    """vocab.json and merges.txt from tokenizer.json, for programs that read only these."""
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or "merges" not in model:
        return {}
    vocabulary = dict(model["vocab"])
    for token in content.get("added_tokens") or []:
        vocabulary.setdefault(token["content"], token["id"])
    ordered = dict(sorted(vocabulary.items(), key=lambda pair: pair[1]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return {
        "vocab.json": dump_json(ordered),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(),
    }


def _text(token: Any) -> str | None:
    """A special token's text: configurations write it plain or with its settings."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}).") from error
    if len(data) > _LIMIT:
        raise SourceError(f"{path}: larger than {_LIMIT >> 20} MiB.")
    return data
