"""Prompts to hidden states: chunks, weights, skipped layers and the cache; against PyTorch where marked."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgediff import chunks, embeddings
from edgediff.bundle import Bundle, TensorSpec, Text, TextEncoder
from edgediff.embeddings import Cache, check_clip_skip
from edgediff.errors import InputError, NumericError, UnsupportedError
from edgediff.parts import Parts
from edgediff.prompt import PromptTruncated, Tokenizer
from tests import tiny

ROOM = tiny.LENGTH - 2
DIMS = 8


def encode(*given: Any, **options: Any) -> Any:
    """The hidden states alone: these models have no pooled vector."""
    made = embeddings.encode(*given, **options)
    assert made.pooled is None
    return made.hidden


class FakeParts:
    """A text encoder that looks tokens up and shifts them by their place; it counts what it is asked."""

    def __init__(self, folder: Path, tokens: str | int = "tokens", skips: int = 3) -> None:
        self._tokenizer = Tokenizer(tiny.write_tokenizer(folder, whole=True), tiny.LENGTH)
        draw = np.random.default_rng(0).standard_normal
        self.table = draw((len(tiny.vocabulary()[0]), DIMS)).astype(np.float32)
        names = ["last_hidden_state", *(f"clip_skip.{k}" for k in range(1, skips + 1))]
        self.outputs = [TensorSpec(name, "float32", ("batch", tiny.LENGTH, DIMS)) for name in names]
        self.states = TensorSpec("encoder_hidden_states", "float32", ("batch", tokens, DIMS))
        text = Text(
            tiny.LENGTH, "tokenizer.json", (TextEncoder("text_encoder", tiny.LENGTH, "tokenizer.json"),)
        )
        spec = SimpleNamespace(file="text/model", inputs=())
        self.bundle: Any = SimpleNamespace(path=folder, text=text, graph=lambda role: spec)
        self.asked: list[list[int]] = []

    def tokenizer(self, encoder: TextEncoder | None = None) -> Tokenizer:
        return self._tokenizer

    def graph(self, role: str) -> Any:
        ids = TensorSpec("input_ids", "int32", ("batch", tiny.LENGTH))
        inputs = (ids,) if role == "text_encoder" else (self.states,)
        return SimpleNamespace(info=SimpleNamespace(inputs=inputs, outputs=self.outputs))

    def run(self, role: str, feeds: Mapping[str, Any]) -> dict[str, Any]:
        assert role == "text_encoder"
        ids = feeds["input_ids"]
        assert ids.dtype == np.int32
        assert ids.shape == (1, tiny.LENGTH)
        self.asked.append(ids[0].tolist())
        hidden = self.table[ids] + np.linspace(0, 1, tiny.LENGTH, dtype=np.float32)[:, None]
        return {spec.name: hidden + np.float32(k) for k, spec in enumerate(self.outputs)}


@pytest.fixture
def parts(tmp_path: Path) -> Any:
    return FakeParts(tmp_path / "tokenizer")


def words(asked: Sequence[int]) -> str:
    """Return a row's tokens without start, end and padding, by the words of the vocabulary."""
    spelt = {i: word for word, i in tiny.vocabulary()[0].items()}
    return "".join(spelt[i] for i in asked[1:] if spelt[i] != tiny.END).replace("</w>", " ").strip()


def test_plain_is_one_row_each(parts: Any) -> None:
    found = encode(parts, ["(a:2) BREAK", "red"], ["blue"])
    assert (found.shape, found.dtype) == ((3, tiny.LENGTH, DIMS), np.float32)
    ids = parts.tokenizer()(["blue", "(a:2) BREAK", "red"])
    assert parts.asked == ids.tolist()
    place = np.linspace(0, 1, tiny.LENGTH, dtype=np.float32)[:, None]
    assert np.array_equal(found, parts.table[ids] + place)


def test_plain_text_is_cut_with_a_warning_that_names_the_argument(parts: Any) -> None:
    with pytest.warns(PromptTruncated) as caught:
        encode(parts, ["a " * ROOM + "red"], ["a " * ROOM + "blue"])
    assert [str(w.message).split(":")[0] for w in caught] == ["negative_prompt", "prompt"]


def test_both_syntaxes_agree_where_nothing_is_marked(parts: Any) -> None:
    for text in ("", "a red circle, on white", "a " * ROOM):
        assert np.array_equal(encode(parts, [text]), encode(parts, [text], syntax="a1111"))


def test_long_prompts_in_chunks(parts: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = encode(parts, ["a " * (2 * ROOM + 1)], ["red"], syntax="a1111")
    assert found.shape == (2, 3 * tiny.LENGTH, DIMS)
    assert [words(row) for row in parts.asked] == ["red", "", "a " * (ROOM - 1) + "a", "a"]
    empty = encode(parts, [""])[0]
    assert np.array_equal(found[0, tiny.LENGTH :], np.concatenate([empty, empty]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a " * 10 + ", " + "red " * 5, ["a " * 10 + ",", "red " * 5]),
        ("a " * 13 + ", " + "red " * 5, ["a " * 13 + ",", "red " * 5]),
        ("a, " * 3 + "red " * 12, ["a , a , a ,", "red " * 12]),
        ("a " * 20, ["a " * 14, "a " * 6]),
        ("a BREAK red", ["a", "red"]),
        ("a BREAK BREAK red BREAK", ["a", "", "red"]),
        ("BREAK a", ["", "a"]),
        ("BREAK", [""]),
        ("a " * 14 + "BREAK red", ["a " * 14, "red"]),
        ("(a BREAK red:1.2)", ["a", "red"]),
    ],
)
def test_where_chunks_end(parts: Any, text: str, expected: list[str]) -> None:
    found = encode(parts, [text], syntax="a1111", cache=Cache(0))
    assert [words(row) for row in parts.asked] == [text.strip() for text in expected]
    assert found.shape[1] == len(expected) * tiny.LENGTH


def test_a_comma_is_looked_for_among_the_last_twenty() -> None:
    comma, far = [(0, 1.0)], [(1, 1.0)]
    for after, length in ((0, 75), (18, 57), (19, 56), (20, 75)):
        tokens = far * (74 - after) + comma + far * (after + 30)
        one, two = chunks.cut(tokens, 75, 0)
        assert len(one) == length
        assert [*one, *two] == tokens
    assert [len(c) for c in chunks.cut(far * 200, 75, None)] == [75, 75, 50]
    assert [len(c) for c in chunks.cut([*far * 74, *comma * 30], 75, 0)] == [75, 29]


def test_too_many_chunks(parts: Any) -> None:
    for text in ("a " * (32 * ROOM + 1), "BREAK " * 33 + "a"):
        with pytest.raises(InputError, match=r"^negative_prompt: it makes more than 32 chunks of 14 tokens"):
            encode(parts, ["a"], [text], syntax="a1111")
    assert encode(parts, ["a " * 32 * ROOM], syntax="a1111").shape[1] == 32 * tiny.LENGTH


def test_weights_keep_the_mean_of_each_chunk(parts: Any) -> None:
    text = "(red:1.5) [white] BREAK (square:0.3)"
    found = encode(parts, [text], syntax="a1111")[0].reshape(2, tiny.LENGTH, DIMS)
    plain = np.concatenate([encode(parts, ["red white"]), encode(parts, ["square"])])
    assert np.allclose(found.mean(axis=(1, 2)), plain.mean(axis=(1, 2)), rtol=1e-5)
    factor = found[:, :1] / plain[:, :1]  # the start has the weight 1, so it shows the rescaling
    weights = found / plain / factor
    assert np.allclose(weights[0, :5], np.array([1, 1.5, 1 / 1.1, 1, 1])[:, None], rtol=1e-4)


def test_weights_of_one_change_no_bit(parts: Any) -> None:
    assert np.array_equal(encode(parts, ["(red:1.0) [(blue)]"], syntax="a1111"), encode(parts, ["red blue"]))


def test_weights_that_cancel_the_mean() -> None:
    hidden = np.array([[1.0, 1.0], [1.0, 1.0]], np.float32)
    weights = np.array([1.0, -1.0], np.float32)
    assert np.array_equal(chunks.weighed(hidden, weights), [[1, 1], [-1, -1]])


def test_weights_that_overflow(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "weighed", lambda hidden, weights: hidden * np.float32(np.inf))
    with pytest.raises(NumericError, match="nearer to 1"):
        encode(parts, ["(red:2)"], syntax="a1111")


def test_skipped_layers_of_prompt_and_negatives(parts: Any) -> None:
    last, skipped = encode(parts, ["red"]), encode(parts, ["red"], clip_skip=2)
    assert np.allclose(skipped, last + 2)
    both = encode(parts, ["red"], ["red"], clip_skip=2)
    assert np.array_equal(both, np.concatenate([last, skipped]))
    both = encode(parts, ["red"], ["red"], clip_skip=2, syntax="a1111")
    assert np.array_equal(both, np.concatenate([skipped, skipped]))


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", 4, 100])
def test_layers_that_cannot_be_skipped(parts: Any, value: Any) -> None:
    with pytest.raises(InputError, match=r"clip_skip: .*(1 or more|1 to 3)"):
        encode(parts, ["a"], clip_skip=value)
    with pytest.raises(InputError):
        check_clip_skip(value, parts.outputs)
    assert parts.asked == []


def test_a_graph_without_skipped_layers(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"clip_skip=1.*export the model again"):
        encode(FakeParts(tmp_path, skips=0), ["a"], clip_skip=1)  # type: ignore[arg-type]


def test_a_denoiser_of_fixed_length(tmp_path: Path) -> None:
    fixed: Any = FakeParts(tmp_path, tokens=tiny.LENGTH)
    assert encode(fixed, ["a"], syntax="a1111").shape[1] == tiny.LENGTH
    with pytest.raises(UnsupportedError, match="2 chunks, 32 tokens; this denoiser reads 16"):
        encode(fixed, ["a BREAK b"], syntax="a1111")


def test_unknown_syntax(parts: Any) -> None:
    with pytest.raises(InputError, match="syntax: 'compel' is unknown; choose one of plain, a1111"):
        encode(parts, ["a"], syntax="compel")


def test_the_cache_asks_once_and_gives_the_same_bits(parts: Any) -> None:
    cache = Cache()
    options: dict[str, Any] = {"syntax": "a1111", "cache": cache}
    first = encode(parts, ["a (red:1.3) circle", "blue BREAK a"], [""], **options)
    assert len(parts.asked) == len(cache) == 4
    first[:] = 7  # the caller's copy
    again = encode(parts, ["a (red:1.3) circle", "blue BREAK a"], [""], **options)
    assert len(parts.asked) == 4
    fresh = encode(parts, ["a (red:1.3) circle", "blue BREAK a"], [""], syntax="a1111")
    assert np.array_equal(again, fresh)
    encode(parts, ["a (red:0.7) circle"], **options)  # other weights are no other tokens
    assert len(cache) == 4
    encode(parts, ["a red circle"], clip_skip=1, cache=cache)
    assert len(cache) == 5


def test_a_hit_loads_no_graph(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache()
    expected = encode(parts, ["red"], [""], clip_skip=1, cache=cache)
    monkeypatch.setattr(FakeParts, "graph", lambda self, role: pytest.fail("loaded"))
    assert np.array_equal(encode(parts, ["red"], [""], clip_skip=1, cache=cache), expected)


def test_the_cache_is_bounded_and_forgets_the_oldest() -> None:
    ids = [np.array([i]) for i in range(5)]
    cache = Cache(limit=3 * 40)
    for i in ids[:3]:
        cache.put("out", i, np.zeros((5, 2), np.float32))
    assert cache.get("out", ids[0]) is not None
    cache.put("out", ids[3], np.ones((5, 2), np.float32))
    assert [cache.get("out", i) is not None for i in ids] == [True, False, True, True, False]
    assert cache.get("other", ids[0]) is None
    kept = cache.get("out", ids[3])
    assert kept is not None
    with pytest.raises(ValueError, match="read-only"):
        kept[0, 0] = 1
    cache.put("out", ids[3], np.ones((5, 2), np.float32))
    assert (len(cache), cache.bytes) == (3, 120)
    cache.put("out", ids[4], np.zeros((100, 2), np.float32))
    assert (len(cache), cache.bytes) == (0, 0)
    cache.put("out", ids[0], np.zeros((5, 2), np.float32))
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_one_bad_number_is_enough(parts: Any) -> None:
    parts.table[tiny.vocabulary()[0]["red</w>"], 3] = np.nan
    cache = Cache()
    assert np.isfinite(encode(parts, ["blue"], cache=cache)).all()
    with pytest.raises(NumericError, match="text_encoder"):
        encode(parts, ["red"], cache=cache)
    assert len(cache) == 1


def test_with_a_real_runtime(onnx_bundle: Path) -> None:
    parts = Parts(Bundle.open(onnx_bundle), options={"threads": 1})
    found = encode(parts, ["a red circle", "a"], ["blue"])
    assert found.shape == (3, tiny.LENGTH, 8)
    assert np.array_equal(found[1:2], encode(parts, ["a red circle"]))
    with pytest.raises(UnsupportedError, match="this denoiser reads 16"):
        encode(parts, ["a BREAK b"], syntax="a1111")
    with pytest.raises(UnsupportedError, match="export the model again"):
        encode(parts, ["a"], clip_skip=1)
    parts.close()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny pipeline of diffusers, and its bundle."""
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("onnx")
    from edgediff.export.main import export_onnx

    folder = tmp_path_factory.mktemp("exported")
    reference = tiny.pipeline(folder / "torch", diffusers.DDIMScheduler(steps_offset=1, clip_sample=False))
    norm = getattr(reference.text_encoder, "text_model", reference.text_encoder).final_layer_norm
    norm.weight.data.uniform_(0.5, 1.5)
    norm.bias.data.uniform_(-0.5, 0.9)  # a mean away from 0, as trained encoders have
    reference.save_pretrained(folder / "torch")
    export_onnx(str(folder / "torch"), str(folder / "bundle"))
    parts = Parts(Bundle.open(folder / "bundle"), options={"threads": 1})
    yield reference, parts
    parts.close()


@pytest.mark.parity
@pytest.mark.parametrize("clip_skip", [None, 1])
def test_as_diffusers_encodes(exported: Any, clip_skip: int | None) -> None:
    import torch

    reference, parts = exported
    if not hasattr(reference.text_encoder, "text_model"):  # diffusers looks for what transformers 5 dropped
        object.__setattr__(reference.text_encoder, "text_model", reference.text_encoder)
    prompts, negatives = ["a red circle", "a blue square " * 8], ["white", ""]
    with torch.no_grad():
        positive, negative = reference.encode_prompt(
            prompts, "cpu", 1, True, negative_prompt=negatives, clip_skip=clip_skip
        )
    expected = torch.cat([negative, positive]).numpy()
    with pytest.warns(PromptTruncated):
        found = encode(parts, prompts, negatives, clip_skip=clip_skip)
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found).max() > 0.5


A_LONG_ONE = [
    [("a ", 1.0), ("red ", 1.3), ("circle to the left of a ", 1.0), ("blue", 1.1), (" ,", 1.0)],
    [("square on a white background the quick brown fox", 1.0)],
    [("cat", 0.5 * 1.1), (" dog", 1.1), (" a", -0.7)],
]


@pytest.mark.parity
@pytest.mark.parametrize("clip_skip", [None, 1])
def test_weights_and_chunks_against_pytorch(exported: Any, clip_skip: int | None) -> None:
    """The chunks are listed by hand above; PyTorch encodes and weighs each."""
    import torch

    reference, parts = exported
    text = (
        "a (red :1.3)circle to the left of a (blue) ,square on a white background the quick brown fox"
        " BREAK ((cat:0.5) dog)(a:-0.7)"
    )
    words_of = reference.tokenizer
    start, end = words_of.bos_token_id, words_of.eos_token_id
    norm = getattr(reference.text_encoder, "text_model", reference.text_encoder).final_layer_norm
    made = []
    for chunk in A_LONG_ONE:
        ids, weights = [start], [1.0]
        for piece, weight in chunk:
            found = words_of(piece, add_special_tokens=False)["input_ids"]
            ids += found
            weights += [weight] * len(found)
        ids += [end] * (tiny.LENGTH - len(ids))
        weights += [1.0] * (tiny.LENGTH - len(weights))
        with torch.no_grad():
            out = reference.text_encoder(torch.tensor([ids]), output_hidden_states=True)
            z = out[0] if clip_skip is None else norm(out.hidden_states[-1 - clip_skip])
        weighed = z * torch.tensor(weights)[None, :, None]
        made.append(weighed * (z.mean() / weighed.mean()))
    expected = torch.cat(made, dim=1).numpy()
    got = encode(parts, [text], syntax="a1111", clip_skip=clip_skip)
    assert got.shape == expected.shape == (1, 3 * tiny.LENGTH, 16)
    assert np.abs(got - expected).max() < 1e-5


@pytest.mark.parity
def test_a_row_is_the_same_in_any_company(exported: Any) -> None:
    _, parts = exported
    texts = ["a red circle", "blue (square:1.2)", "a BREAK cat", ""]
    alone = {text: encode(parts, [text, "a BREAK b"], syntax="a1111")[0] for text in texts}
    for order in itertools.permutations(texts, 3):
        found = encode(parts, [*order, "a BREAK b"], syntax="a1111", cache=Cache())
        for text, row in zip(order, found, strict=False):
            assert np.array_equal(row, alone[text])
