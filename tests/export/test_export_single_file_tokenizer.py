"""CLIP's vocabulary for files that have none: from a folder, the hub's cache, or an installed package."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import types
from pathlib import Path

import pytest
from export_helpers import write_tokenizer

from edgediff.errors import InputError, SourceError
from edgediff.export.original import clip_folders, clip_vocabulary
from edgediff.export.original.clip_folders import END_PADDED, ZERO_PADDED, clip_folder, given_folder
from edgediff.export.tokenizer import tokenizer_files
from edgediff.prompt import Tokenizer

pytestmark = pytest.mark.slow

# Words, a word's end, and letters of several bytes of which tokens hold a part: U+1F600, U+3042, U+FFFD.
MERGES = [
    ("a", "b"), ("ab", "c</w>"), ("a", "b</w>"), ("ð", "Ł"), ("ðŁ", "ĺ"), ("ðŁĺ", "Ģ</w>"), ("ï", "¿"),
    ("ï¿", "½"), ("ã", "ģ"), ("Ĥ", "ab"), ("ï¿", "½</w>"), ("à", "¸"), ("ðŁĺ", "Ģ"),
]  # fmt: skip


class Decoder:
    """What a compiled tokenizer answers: text, in which bytes that make no letter are replaced."""

    def __init__(self) -> None:
        letters = clip_vocabulary._bytes_and_letters()
        self.bytes = {letter: byte for byte, letter in letters}
        self.tokens = clip_vocabulary.tokens(MERGES)

    def decode(self, tokens: list[int]) -> str:
        found = b""
        for token in tokens:
            word = self.tokens[token]
            found += bytes(self.bytes[letter] for letter in word.removesuffix("</w>"))
            found += b" " if word.endswith("</w>") else b""
        return found.decode("utf-8", "replace")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A small published vocabulary, and a machine that has it nowhere."""
    monkeypatch.setattr(clip_vocabulary, "COUNT", len(MERGES))
    text = "\n".join(" ".join(pair) for pair in MERGES)
    monkeypatch.setattr(clip_vocabulary, "_SHA256", hashlib.sha256(text.encode()).hexdigest())
    for name in ("HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr(clip_vocabulary, "_CARRIERS", {"edgediff_test_carrier": "data"})
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    clip_folders._published_folder.cache_clear()
    yield tmp_path  # type: ignore[misc]
    clip_folders._published_folder.cache_clear()


def test_nowhere(small: Path) -> None:
    with pytest.raises(SourceError) as caught:
        clip_folder(END_PADDED, small / "x.safetensors")
    for way in ("--tokenizer FOLDER", "Hugging Face's cache", "pip install instant-clip-tokenizer"):
        assert way in str(caught.value)


def test_from_the_cache(small: Path) -> None:
    """Any model's merges will do if they are the published ones; others and damaged ones are passed over."""
    text = "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in MERGES) + "\n"
    for model, content in {"a--other": text[:-3], "b--broken": "\xff", "c--real": text}.items():
        folder = small / "hub" / f"models--{model}" / "snapshots" / "0123" / "tokenizer"
        folder.mkdir(parents=True)
        (folder / "merges.txt").write_bytes(content.encode("latin-1" if model == "b--broken" else "utf-8"))
    assert clip_vocabulary.published() == MERGES
    folder = clip_folder(ZERO_PADDED, small)
    assert folder == clip_folder(ZERO_PADDED, small) != clip_folder(END_PADDED, small)
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    assert vocabulary["!"] == 0 and vocabulary["!</w>"] == 256 and vocabulary["ab"] == 512
    assert vocabulary["<|endoftext|>"] == len(vocabulary) - 1
    files = tokenizer_files(folder)
    assert json.loads(files["special_tokens_map.json"])["pad_token"] == "!"
    ids = Tokenizer(folder, 8)(["abc ab \U0001f600"])[0].tolist()
    start, end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
    assert ids == [start, 513, 514, 517, end, 0, 0, 0]
    assert Tokenizer(clip_folder(END_PADDED, small), 8)(["abc"])[0].tolist() == [start, 513, *[end] * 6]


def test_from_a_package_that_carries_the_file(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = small / "site" / "edgediff_test_carrier"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    lines = ['"bpe_simple_vocab_16e6.txt#version: 0.2', *(" ".join(pair) for pair in MERGES), "and more"]
    data = gzip.compress("\n".join(lines).encode())
    (package / "data" / "bpe_simple_vocab_16e6.txt.gz").write_bytes(data[:-12])
    monkeypatch.syspath_prepend(str(small / "site"))
    assert clip_vocabulary.published() is None  # cut
    (package / "data" / "bpe_simple_vocab_16e6.txt.gz").write_bytes(data)
    assert clip_vocabulary.published() == MERGES


def test_from_a_compiled_package(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Merges are told from decoded tokens alone, whatever part of a letter they hold."""
    assert list(clip_vocabulary.merges_of(Decoder())) == MERGES
    module = types.ModuleType("instant_clip_tokenizer")
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", module)
    assert clip_vocabulary.published() is None  # of another shape
    module.Tokenizer = Decoder  # type: ignore[attr-defined]
    assert clip_vocabulary.published() == MERGES
    monkeypatch.setattr(clip_vocabulary, "_SHA256", "0")
    assert clip_vocabulary.published() is None


def test_no_merges_behind_a_decoder(small: Path) -> None:
    class Odd(Decoder):
        def decode(self, tokens: list[int]) -> str:
            return "xyz"

    with pytest.raises(ValueError, match="token 512 is no merge"):
        clip_vocabulary.merges_of(Odd())


def test_given_folder(tmp_path: Path) -> None:
    """One folder for all is padded as each encoder needs it; a folder of its own is taken as it is."""
    with pytest.raises(InputError, match="no such folder; --tokenizer takes"):
        given_folder(tmp_path / "absent", "tokenizer", END_PADDED)
    write_tokenizer(tmp_path)
    assert given_folder(tmp_path, "tokenizer_2", "!") == tmp_path  # the vocabulary has no "!"
    copy = given_folder(tmp_path, "tokenizer_2", "ab")
    assert json.loads((copy / "special_tokens_map.json").read_text(encoding="utf-8"))["pad_token"] == "ab"
    assert Tokenizer(copy, 6)(["a"])[0].tolist()[3:] == [30, 30, 30]
    write_tokenizer(tmp_path / "tokenizer_2")
    assert given_folder(tmp_path, "tokenizer_2", "ab") == tmp_path / "tokenizer_2"


def test_published_vocabulary() -> None:
    """With the package at hand: the known ids of a known prompt (Radford et al. 2021)."""
    pytest.importorskip("instant_clip_tokenizer")
    merges = clip_vocabulary._compiled()
    assert merges is not None and len(merges) == 48894
    clip_folders._published_folder.cache_clear()
    ids = Tokenizer(clip_folder(END_PADDED, Path()), 9)(["a photo of a cat"])[0].tolist()
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407, 49407, 49407]
    ids = Tokenizer(clip_folder(ZERO_PADDED, Path()), 9)(["a photo of a cat"])[0].tolist()
    assert ids == [49406, 320, 1125, 539, 320, 2368, 49407, 0, 0]
