"""The recorded text encoder and the made tokenizer against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from export_cases import TEXT as BASE  # noqa: E402
from export_cases import TEXTS as CASES  # noqa: E402
from export_helpers import build, difference, run, write_json, write_safetensors, write_tokenizer  # noqa: E402
from export_parity import halved, randomise, saved  # noqa: E402

from edgediff.export.checkpoint import clip_spellings  # noqa: E402
from edgediff.export.emit.onnx import emit  # noqa: E402
from edgediff.export.networks import clip_text  # noqa: E402
from edgediff.export.tensors import TensorFiles  # noqa: E402
from edgediff.export.tokenizer import tokenizer_files  # noqa: E402

pytestmark = pytest.mark.parity

TOLERANCE = 1e-4


def some_ids(batch: int, length: int) -> np.ndarray[Any, Any]:
    """Sentences that end at different places; the end may come again, as padding."""
    ids = np.random.default_rng(3).integers(3, 47, (batch, length))
    ids[:, 0] = 48
    for i in range(batch):
        ids[i, length - 2 - i :] = 49
    return ids


def final_norm(model: Any) -> Any:
    """The norm after the last layer; transformers 5 dropped a level from the names."""
    return getattr(model, "text_model", model).final_layer_norm


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CASES)
def test_equal(name: str, storage: Any, tmp_path: Path) -> None:
    config, batch, length = CASES[name]
    reference = randomise(transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)))
    tensors, saved_config = saved(reference, tmp_path)
    graph = clip_text.record(clip_text.configure(saved_config, "config.json"))
    path = build(graph, tensors, clip_spellings, tmp_path, storage)
    if storage == "fp16":
        halved(reference)
    ids = some_ids(batch, length)
    with torch.no_grad():
        wanted = reference(torch.from_numpy(ids), output_hidden_states=True)
        skips = range(1, config["num_hidden_layers"])
        skipped = {f"clip_skip.{k}": final_norm(reference)(wanted.hidden_states[-k - 1]) for k in skips}
    found = run(path, {"input_ids": ids})
    assert list(found) == ["last_hidden_state", "pooler_output", *skipped]
    for key in found:
        assert difference(found[key], (skipped[key] if key in skipped else wanted[key]).numpy()) < TOLERANCE


def test_skipped_layers_add_no_weights() -> None:
    graph = clip_text.record(clip_text.configure({**BASE, "num_hidden_layers": 5}, "config.json"))
    names = [p.name for p in graph.parameters]
    assert len(names) == len(set(names)) == len(transformers.CLIPTextModel(
        transformers.CLIPTextConfig(**{**BASE, "num_hidden_layers": 5})
    ).state_dict())  # fmt: skip
    stored = [each.initializer for each in emit(graph).stored]
    assert sorted(stored) == sorted(names)
    outputs = [port.name for port in graph.outputs]
    assert outputs[2:] == ["clip_skip.1", "clip_skip.2", "clip_skip.3", "clip_skip.4"]


def test_classic_names_and_positions_buffer(tmp_path: Path) -> None:
    reference = randomise(transformers.CLIPTextModel(transformers.CLIPTextConfig(**BASE)))
    state = {
        f"text_model.{name.removeprefix('text_model.')}": value.numpy()
        for name, value in reference.state_dict().items()
    }
    state["text_model.embeddings.position_ids"] = np.arange(11)[None]
    write_safetensors(tmp_path / "model.safetensors", state)
    graph = clip_text.record(clip_text.configure(BASE, "config.json"))
    path = build(graph, TensorFiles([tmp_path / "model.safetensors"]), clip_spellings, tmp_path)
    ids = some_ids(1, 11)
    with torch.no_grad():
        wanted = reference(torch.from_numpy(ids)).last_hidden_state.numpy()
    assert difference(run(path, {"input_ids": ids})["last_hidden_state"], wanted) < TOLERANCE


def test_projection(tmp_path: Path) -> None:
    config = transformers.CLIPTextConfig(**BASE, projection_dim=6)
    reference = randomise(transformers.CLIPTextModelWithProjection(config))
    tensors, saved_config = saved(reference, tmp_path)
    graph = clip_text.record(clip_text.configure(saved_config, "config.json", projected=True))
    path = build(graph, tensors, clip_spellings, tmp_path)
    ids = some_ids(2, 8)
    with torch.no_grad():
        wanted = reference(torch.from_numpy(ids))
    found = run(path, {"input_ids": ids})
    for key in ("text_embeds", "last_hidden_state"):
        assert difference(found[key], wanted[key].numpy()) < TOLERANCE


@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_states(projected: bool, storage: Any, tmp_path: Path) -> None:
    """The states of every layer, as the SDXL family reads them, for both of its encoders."""
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    changes = {"hidden_act": "gelu", "num_attention_heads": 4} if projected else {}
    config = {**BASE, "num_hidden_layers": 3, "eos_token_id": 2, "projection_dim": 6, **changes}
    reference = randomise(kind(transformers.CLIPTextConfig(**config)))
    tensors, saved_config = saved(reference, tmp_path)
    net = clip_text.configure(saved_config, "config.json", projected)
    graph = clip_text.record(net, states=True)
    path = build(graph, tensors, clip_spellings, tmp_path, storage)
    if storage == "fp16":
        halved(reference)
    ids = some_ids(2, 9)
    with torch.no_grad():
        wanted = reference(torch.from_numpy(ids), output_hidden_states=True)
    found = run(path, {"input_ids": ids})
    states = {f"hidden_states.{i}": state for i, state in enumerate(wanted.hidden_states)}
    assert len(states) == 4
    pooled = "text_embeds" if projected else "pooler_output"
    assert set(found) == {*states, "last_hidden_state", pooled}
    for key in found:
        assert difference(found[key], (states[key] if key in states else wanted[key]).numpy()) < TOLERANCE
    plain = clip_text.record(net)
    assert {p.name for p in graph.parameters} == {p.name for p in plain.parameters}


TEXTS = (
    "abc ab  abab",
    "A B\tC\n d'o don't a'bll",
    "ab1 23 ab,ab!! (c)",
    "\u00e9\u0301 caf\u00e9 \u212b",
    "cafe\u0301 A\u030a",
    "",
    "  ab  ",
    "\U0001f600 ab",
    "<|endoftext|> ab <|startoftext|>ab",
)


def test_made_tokenizer(tmp_path: Path) -> None:
    """tokenizer.json made from vocab.json and merges.txt gives the ids that transformers gives."""
    from tokenizers import Tokenizer, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(f"{c}</w>" for c in alphabet), "ab", "ab</w>", "abab</w>"]
    words += ["<|startoftext|>", "<|endoftext|>"]
    write_tokenizer(tmp_path)
    write_json(tmp_path / "vocab.json", {word: i for i, word in enumerate(words)})
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\na b</w>\nab ab</w>\n", encoding="utf-8")
    made = Tokenizer.from_str(tokenizer_files(tmp_path)["tokenizer.json"].decode())
    reference = transformers.CLIPTokenizer.from_pretrained(str(tmp_path))
    for text in TEXTS:
        assert made.encode(text).ids == reference(text).input_ids, text
