"""Folders of CLIP's tokenizer files for models that come without: made once per run, removed at its end."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from edgediff import clip_bpe
from edgediff.errors import InputError, SourceError
from edgediff.export.json_files import dump_json, parse_json
from edgediff.export.original.clip_vocabulary import PACKAGE, files, published
from edgediff.export.tokenizer import tokenizer_files

_LENGTH = 77
END_PADDED, ZERO_PADDED = clip_bpe.END, "!"


def clip_folder(pad: str, where: Path) -> Path:
    """A folder with CLIP's published tokenizer, padding with the token ``pad``.

    OpenAI's encoders are padded with the end of text, OpenCLIP's with id 0, which is "!". Raises SourceError
    that says how to get the vocabulary if this machine has none; the network is never asked.
    """
    made = _published_folder(pad)
    if made is None:
        raise SourceError(
            f"{where}: no single file holds a tokenizer, and CLIP's vocabulary is not on this machine. "
            "Give a folder with vocab.json and merges.txt (--tokenizer FOLDER), or have any CLIP or Stable "
            f"Diffusion model in Hugging Face's cache, or 'pip install {PACKAGE}'."
        )
    return made


def given_folder(folder: Path, name: str, pad: str) -> Path:
    """The user's tokenizer for a component: its own folder below ``folder``, or ``folder`` for all.

    One folder for all is padded as each encoder needs it. Raises InputError if it does not exist.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; --tokenizer takes one with vocab.json and merges.txt.")
    own = folder / name
    return own if own.is_dir() else _padded(folder, pad)


@cache
def _published_folder(pad: str) -> Path | None:
    merges = published()
    if merges is None:
        return None
    made = files(merges)
    return _written(
        {
            "vocab.json": dump_json(made["vocab.json"]),
            "merges.txt": made["merges.txt"].encode(),
            "tokenizer_config.json": dump_json(_config(pad)),
        }
    )


@cache
def _padded(folder: Path, pad: str) -> Path:
    """A copy whose configuration names the padding; a vocabulary without ``pad`` keeps its own."""
    found = tokenizer_files(folder)
    vocabulary = parse_json(found["vocab.json"], str(folder / "vocab.json")) if "vocab.json" in found else {}
    if pad not in vocabulary:
        return folder
    changed: dict[str, bytes] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        config = parse_json(found[name], str(folder / name))
        changed[name] = dump_json({**config, "pad_token": pad})
    return _written({**found, **changed})


def _config(pad: str) -> dict[str, Any]:
    return {
        "tokenizer_class": "CLIPTokenizer",
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": _LENGTH,
        "bos_token": clip_bpe.START,
        "eos_token": clip_bpe.END,
        "unk_token": clip_bpe.END,
        "pad_token": pad,
    }


def _written(content: dict[str, bytes]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="edgediff-tokenizer-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder
