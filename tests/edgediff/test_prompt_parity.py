"""Token ids against transformers' CLIPTokenizer, from both forms of the tokenizer's files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from edgediff.export.tokenizer import tokenizer_files
from edgediff.prompt import Tokenizer
from tests import tiny

pytestmark = pytest.mark.parity

TEXTS = [
    "", " ", "   \t \n ", "a", "A RED Circle",
    "a red circle to the left of a blue square on a white background",
    "it's we're they've i'm you'll he'd don't IT'S 'tis rock'n'roll o'clock 's 't '' '",
    "1234567890", "in 1999, 12.5% of 3,000 (or 42)", "a1b2c3", "x²+y³=½", "…—–", "!!! ??? ,,, ;;; :::",
    "(red:1.5) [blue|green] {white} <lora:style:0.8> ((((very))))", "under_score-and-dash/slash\\back",
    "naïve café über straße ÅNGSTRÖM İstanbul ŒUVRE ǅ ﬁ",
    "e\u0301clair vs \u00e9clair", "a\u0300\u0301\u0302 zalgo h\u0337e\u0338",
    "привет мир", "日本語のテスト", "한국어 문장", "שלום עולם", "مرحبا بالعالم", "हिन्दी भाषा", "ไทย",
    "🎈", "a 👩‍👩‍👧 family 👍🏽 flag 🇩🇪 heart ❤️", "mixed日本and🎈emoji",
    "tabs\tand\nnew\r\nlines", "\u00a0no-break\u2003em\u3000wide", "zero\u200bwidth\u200djoin\ufeffmark",
    "\u202eright to left\u202c", "ﬀ ﬃ ｆｕｌｌｗｉｄｔｈ Ⅷ ①", "l'été d'Hélène", "don’t use ‘curly’ “quotes”",
    "hello<|endoftext|>world", "<|startoftext|>a cat<|endoftext|>", "<|endoftext|>", "< |endoftext| >",
    "http://example.com/a?b=c&d=e#f", "user@example.com", "C:\\path\\file.txt", "a" * 300, "ab" * 100,
    "word " * 100, "the quick brown fox jumps over the lazy dog " * 5, "antidisestablishmentarianism",
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"), "ßẞ", "Σίσυφος ΣΊΣΥΦΟΣ", "ŉ ǰ ΐ",
    "1st 2nd 3rd 4th", "$5.00 €10 £3 ¥7", "# hash @ at ^ caret ~ tilde ` tick", "a.b.c.d", "...a...", "-",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)


@pytest.mark.parametrize("form", ["vocabulary", "tokenizer.json", "exported"])
@pytest.mark.parametrize("length", [tiny.LENGTH, 77])
def test_ids(reference: Any, tmp_path: Path, form: str, length: int) -> None:
    tiny.write_tokenizer(tmp_path, whole=form == "tokenizer.json")
    if form == "exported":
        for name, data in tokenizer_files(tmp_path).items():
            (tmp_path / name).write_bytes(data)
    ours = Tokenizer(tmp_path, length)
    different = {}
    for text in TEXTS:
        expected = reference(text, padding="max_length", max_length=length, truncation=True)["input_ids"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = ours([text])[0].tolist()
        if got != expected:
            different[text] = (got, expected)
    assert not different


def test_random_texts(reference: Any, folder: Path) -> None:
    import random

    draw = random.Random(0)
    pieces = [*"abcdeé日🎈'’ .,!?-1²\t", "'s", "'re", " the", "red", "\u200d", "\u0301", "ß", "İ", "\u00a0"]
    ours = Tokenizer(folder, 77)
    for _ in range(500):
        text = "".join(draw.choices(pieces, k=draw.randrange(1, 25)))
        expected = reference(text, padding="max_length", max_length=77, truncation=True)["input_ids"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert ours([text])[0].tolist() == expected, repr(text)


def test_a_tokenizer_saved_by_transformers(reference: Any, tmp_path: Path) -> None:
    reference.save_pretrained(tmp_path)
    ours = Tokenizer(tmp_path, 77)
    for text in TEXTS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = ours([text])[0].tolist()
        expected = reference(text, padding="max_length", max_length=77, truncation=True)["input_ids"]
        assert got == expected, repr(text)
