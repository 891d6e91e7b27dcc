"""Prompts: what is refused, what is cut and said to be cut, and tokenizer files that are damaged."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from edgediff.errors import BundleError, InputError
from edgediff.prompt import PromptTruncated, Tokenizer, checked_prompts
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tokenizer."""
    return tiny.write_tokenizer(tmp_path_factory.mktemp("tokenizer"), whole=True)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder, tiny.LENGTH)


def test_the_frame(tokenizer: Tokenizer) -> None:
    vocab, _ = tiny.vocabulary()
    (ids,) = tokenizer(["a red circle"])
    circle = [vocab["c"], vocab["ircle</w>"]]
    start, end = vocab[tiny.START], vocab[tiny.END]
    assert ids.dtype == np.int64
    assert len(ids) == tiny.LENGTH
    assert ids[0] == start
    used = list(ids).index(end)
    assert list(ids[1:used]) == [vocab["a</w>"], vocab["red</w>"], *circle]
    assert set(ids[used:]) == {end}


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_empty_prompts_are_the_unconditional_one(tokenizer: Tokenizer, text: str) -> None:
    vocab, _ = tiny.vocabulary()
    assert list(tokenizer([text])[0]) == [vocab[tiny.START]] + [vocab[tiny.END]] * (tiny.LENGTH - 1)


def test_rows_are_independent(tokenizer: Tokenizer) -> None:
    texts = ["a red circle", "", "a blue square on a white background"]
    assert np.array_equal(tokenizer(texts), np.concatenate([tokenizer([t]) for t in texts]))


@pytest.mark.parametrize("count", [13, 14])
def test_what_fits_is_not_cut(tokenizer: Tokenizer, count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = tokenizer(["a " * count])[0]
    vocab, _ = tiny.vocabulary()
    assert list(ids[1 : count + 1]) == [vocab["a</w>"]] * count
    assert ids[count + 1] == vocab[tiny.END]


@pytest.mark.parametrize(
    ("extra", "dropped"),
    [(" red", "'red'"), (" red  CIRCLE!", "'red  CIRCLE!'"), (" été", "'été'"), (" a" * 500, "'a a a a")],
)
def test_what_is_cut_is_quoted(tokenizer: Tokenizer, extra: str, dropped: str) -> None:
    kept = "a" + " a" * 13
    with pytest.warns(PromptTruncated) as caught:
        ids = tokenizer([kept + extra], "negative_prompt")
    message = str(caught[0].message)
    assert message.startswith("negative_prompt: ")
    assert f"dropped: {dropped}" in message
    assert "reads 14" in message
    assert np.array_equal(ids, tokenizer([kept]))


@pytest.mark.parametrize(
    "prompt",
    [None, 1, b"bytes", [], ["a"] * 65, [1], ["a", None], {"a": 1}, "nul\0", "bell\a", "esc\x1b[2J", "\x7f",
     "\x85", "\ud800", "a" * (16 * 1024 + 1), ["fine", "\0"]],
)  # fmt: skip
def test_refused(prompt: object) -> None:
    with pytest.raises(InputError, match=r"^prompt: ") as caught:
        checked_prompts(prompt)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "prompt", ["", "a\tb\nc\r\n", "\u202etfel", "zero\u200bwidth", "👩‍👩‍👧 日本", "a" * 16 * 1024]
)
def test_accepted(prompt: str) -> None:
    assert checked_prompts(prompt) == [prompt]
    assert checked_prompts([prompt] * 64) == [prompt] * 64


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b""),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"[" * 100_000),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "Unknown"}}'),
        ("vocab.json", b"[]"),
        ("vocab.json", b'{"a": "b"}'),
        ("vocab.json", b'{"a": 0}'),
        ("merges.txt", b"one two three four\n"),
        ("merges.txt", b"not listed\n"),
        ("tokenizer_config.json", b"{"),
        ("special_tokens_map.json", b'{"bos_token": "unheard of"}'),
        ("special_tokens_map.json", b"[" * 100_000),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes) -> None:
    tiny.write_tokenizer(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleError) as caught:
        Tokenizer(tmp_path, tiny.LENGTH)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    tiny.write_tokenizer(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=name):
        Tokenizer(tmp_path, tiny.LENGTH)


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    tiny.write_tokenizer(tmp_path)
    with (tmp_path / "tokenizer.json").open("wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(BundleError, match="larger than"):
        Tokenizer(tmp_path, tiny.LENGTH)


def test_special_tokens_from_the_configuration(tmp_path: Path) -> None:
    tiny.write_tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "!</w>"}}))
    vocab, _ = tiny.vocabulary()
    ids = Tokenizer(tmp_path, 5)(["a"])[0]
    assert list(ids[-2:]) == [vocab["!</w>"]] * 2
