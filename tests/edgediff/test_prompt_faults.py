"""What must not happen to prompts and tokenizers, by the numbers of the list of faults."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

import edgediff
from edgediff import embeddings
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, InputError
from edgediff.parts import Parts
from edgediff.prompt import PromptTruncated, Tokenizer, checked_prompts, read_prompt_file
from edgediff.prompt_weights import parse
from tests import tiny

START, END = 662, 663


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(tiny.write_tokenizer(tmp_path_factory.mktemp("words"), whole=True), tiny.LENGTH)


def refused(prompt: object, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        checked_prompts(prompt)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"{}", b'{"version": "1.0"}', b'{"a":' * 50_000, b"\0" * 100]
)
def test_F072_a_damaged_tokenizer(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(BundleError) as caught:
        Tokenizer(tmp_path, tiny.LENGTH)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("token", [tiny.START, tiny.END])
def test_F073_no_start_or_no_end(tmp_path: Path, token: str) -> None:
    whole = json.loads((tiny.write_tokenizer(tmp_path, whole=True) / "tokenizer.json").read_text())
    whole["added_tokens"] = [t for t in whole["added_tokens"] if t["content"] != token]
    del whole["model"]["vocab"][token]
    whole["model"]["unk_token"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(BundleError, match=r"has no token '<\|.*export the bundle again"):
        Tokenizer(tmp_path, tiny.LENGTH)


@pytest.mark.parametrize(("rows", "fits"), [(END + 1, True), (END, False), (50, False)])
def test_F073_more_tokens_than_the_text_encoder_knows(onnx_bundle: Path, rows: int, fits: bool) -> None:
    config = onnx_bundle / "text_encoder" / "config.json"
    config.write_text(json.dumps({"vocab_size": rows}))
    parts = Parts(Bundle.open(onnx_bundle), options={"threads": 1})
    try:
        if fits:
            assert len(embeddings.encode(parts, ["a"]).hidden) == 1
        else:
            with pytest.raises(BundleError, match=f"knows {rows} tokens, the tokenizer gives number {END}"):
                embeddings.encode(parts, ["a"])
            assert parts.infos() == {}
    finally:
        config.unlink()
        parts.close()


@pytest.mark.parametrize("text", ["", " ", "\t\r\n", "\u00a0"])
def test_F074_nothing_is_the_unconditional_prompt(tokenizer: Tokenizer, text: str) -> None:
    assert checked_prompts(text) == [text]
    assert tokenizer([text]).tolist() == [[START] + [END] * (tiny.LENGTH - 1)]


@pytest.mark.parametrize("count", [12, 13, 14, 15, 16, 5000])
def test_F075_around_the_length(tokenizer: Tokenizer, count: int) -> None:
    texts = [" ".join(["red"] * count)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first, second = tokenizer(texts), tokenizer(texts)
    assert np.array_equal(first, second)
    assert first.shape == (1, tiny.LENGTH)
    room = tiny.LENGTH - 2
    if count <= room:
        assert caught == []
    else:
        assert {w.category for w in caught} == {PromptTruncated}
        dropped = " ".join(["red"] * (count - room))
        assert str(caught[0].message).endswith(
            f"{count} tokens, the text encoder reads 14; dropped: {dropped!r}"
        )


@pytest.mark.parametrize("unit", ["a", "a ", "日", "🎈", "\0", "\ud800"])
def test_F076_ten_million_characters(unit: str) -> None:
    refused(unit * (10_000_000 // len(unit)), "more than the 16384 bytes allowed; shorten it")


def test_F076_the_limit_is_in_bytes() -> None:
    assert checked_prompts("é" * 8192)
    refused("é" * 8193, "16386 bytes")


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", os.fsdecode(b"caf\xe9"), "\ud83d \ude00"])
def test_F077_lone_surrogates(text: str, fake_bundle: Path) -> None:
    refused(text, "not UTF-8 text")
    with edgediff.load(fake_bundle, runtime="null") as pipe:
        with pytest.raises(InputError, match="UTF-8"):
            pipe(text)
        assert pipe.infos() == {}


@pytest.mark.parametrize("code", [*range(9), 11, 12, *range(14, 32), 127, 0x80, 0x85, 0x9F])
def test_F078_control_characters(code: int) -> None:
    refused(f"a{chr(code)}b", "control characters; remove them")


@pytest.mark.parametrize("text", ["\ufeffred", "\u202etfel", "a\u200bb", "a\u200db", "\u2028", "a\tb\r\nc"])
def test_F078_marks_without_a_shape_are_text(tokenizer: Tokenizer, text: str) -> None:
    assert checked_prompts(text) == [text]
    assert tokenizer([text])[0, 0] == START


GOLDEN: list[tuple[str, list[int]]] = [
    ("", []),
    ("a red circle", [320, 622, 66, 650]),
    ("A  Red\tCIRCLE", [320, 622, 66, 650]),
    ("it's 12!", [72, 339, 6, 338, 272, 273, 256]),
    ("caf\u00e9", [66, 64, 659]),
    ("cafe\u0301", [66, 64, 659]),
    ("STRASSE straße", [608, 82, 82, 324, 609]),
    ("привет", [554]),
    ("日本", [162, 540, 250, 361]),
    ("👩\u200d👧", [172, 253, 239, 102, 158, 222, 235, 172, 253, 239, 356]),
    ("\u202etfel", [158, 222, 362, 83, 69, 68, 331]),
    ("\ufeffa\u200bb", [171, 119, 379, 320, 158, 222, 489, 321]),
    ("a, b", [320, 267, 321]),
]


@pytest.mark.parametrize("whole", [True, False])
def test_F079_the_same_bytes_give_the_same_ids(tmp_path: Path, whole: bool) -> None:
    ours = Tokenizer(tiny.write_tokenizer(tmp_path, whole=whole), tiny.LENGTH)
    assert ours.comma == 267
    for text, ids in GOLDEN:
        assert ours.ids(text) == ids, ascii(text)
        assert ours([text])[0].tolist() == [START, *ids, *[END] * (tiny.LENGTH - 1 - len(ids))]


@pytest.mark.parametrize(
    "prompt",
    [b"bytes", None, 1, 1.5, [], ["a"] * 65, (), {"a"}, {"a": 1}, [b"a"], ["a", 1], object(), [["a"]]],
)
def test_F080_other_types(prompt: object) -> None:
    refused(prompt, r"^prompt: expected")


def test_F081_prompts_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    expected = ["a red circle", "# not a remark", "  été 🎈 ", "last"]
    for end in ("\n", "\r\n", "\r"):
        for mark in (b"", b"\xef\xbb\xbf"):
            text = end.join(["", "a red circle", " \t", *expected[1:], "", ""])
            file.write_bytes(mark + text.encode())
            assert read_prompt_file(file) == read_prompt_file(str(file)) == expected
    file.write_bytes(b"a\n" * 64)
    assert read_prompt_file(file) == ["a"] * 64


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 prompts were found"),
        (b"\n \r\n\t\n", "0 prompts were found"),
        (b"a\n" * 65, "65 prompts were found, one per line; give 1 to 64"),
        ("a\nb".encode("utf-16"), "UTF-16.*save it as UTF-8"),
        ("a\nb".encode("utf-16-le"), "UTF-16.*save it as UTF-8"),
        (b"\xfe\xff\0a", "UTF-16"),
        (b"caf\xe9\n", "byte 3 is not UTF-8"),
        (b"fine\n\x1b[2J\n", "line 2: it holds control characters"),
        (b"fine\n\n" + b"a" * 16385, "line 3: 16385 characters are more"),
        (b"\xed\xa0\x80", "not UTF-8"),
        (b"\0" * 100, "no text"),
    ],
)
def test_F081_files_without_prompts(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_prompt_file(file)
    assert "prompts.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_F081_five_gigabytes(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    with file.open("wb") as stream:
        stream.truncate(5 << 30)
    with pytest.raises(InputError, match="more than the 1048576 bytes allowed"):
        read_prompt_file(file)


@pytest.mark.parametrize("name", ["missing.txt", ".", "a" * 5000, "nul\0"])
def test_F081_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        read_prompt_file(f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_F081_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read_prompt_file(tmp_path / "pipe")


@pytest.mark.parametrize(
    "unit",
    ["(", "[(", ")", "]", "()", ":", ": ", ":1", "1", "(:1", "\\", "BREAK ", " ", "(a)[b]", "([a])", "(a:1)"],
)
def test_F082_brackets_alone(unit: str) -> None:
    """Ten times what a prompt may hold: what grew with the square of it, or recursed, would not end."""
    text = unit * (160_000 // len(unit))
    if unit == "(:1":  # the colons and ones between brackets are text, of a weight beyond all bounds
        with pytest.raises(InputError, match="weights are from -10 to 10"):
            parse(text)
    else:
        assert all(-10 <= weight <= 10 for _, weight in parse(text))


@pytest.mark.parametrize(
    "text", ["<lora:../../x>", "<lora:/etc/passwd:1>", "embedding:../x", "`id`", "%s{x}"]
)
def test_F082_no_path_comes_from_a_prompt(
    tokenizer: Tokenizer, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.open", lambda *given, **named: pytest.fail("opened a file"))
    monkeypatch.setattr("io.open", lambda *given, **named: pytest.fail("opened a file"))
    assert parse(text) == [(text, 1.0)]
    assert checked_prompts(text) == [text]
    assert tokenizer.ids(text)
