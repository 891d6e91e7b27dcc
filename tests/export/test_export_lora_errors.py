"""Adapters that are refused: damaged, incomplete, of other kinds, or for other models. Nothing is applied."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_helpers import model_folder, write_json, write_safetensors

from edgediff.errors import EdgediffError, InputError, SourceError, UnsupportedError
from edgediff.export.lora import file as lora_file
from edgediff.export.lora.file import Adapter, read_adapter
from edgediff.export.lora.source import AdaptedSource
from edgediff.export.sources import open_source

MODULE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
STEM = f"unet.{MODULE}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("lora") / "model")


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def pair(stem: str = STEM, rank: int = 2, size: int = 16) -> dict[str, Any]:
    return {f"{stem}.lora_A.weight": zeros(rank, size), f"{stem}.lora_B.weight": zeros(size, rank)}


def read(folder: Path, tensors: Mapping[str, Any], name: str = "a") -> Adapter:
    file = folder / f"{name}.safetensors"
    write_safetensors(file, tensors)
    return read_adapter(file)


def refusal(folder: Path, tensors: Mapping[str, Any], kind: type[EdgediffError]) -> str:
    with pytest.raises(kind) as raised:
        read(folder, tensors)
    assert "a.safetensors" in str(raised.value)
    return str(raised.value)


def unet(model: Path, *adapters: Adapter) -> Any:
    return (
        AdaptedSource(open_source(str(model)), adapters).component("unet", ("UNet2DConditionModel",)).tensors
    )


INCOMPLETE: dict[str, tuple[dict[str, Any], str]] = {
    "no up": ({f"{STEM}.lora_A.weight": zeros(2, 16)}, "up are missing"),
    "ranks differ": (
        {f"{STEM}.lora_A.weight": zeros(2, 16), f"{STEM}.lora_B.weight": zeros(16, 3)},
        r"do not fit each other \(down \(2, 16\), up \(16, 3\)\)",
    ),
    "rank 0": (pair(rank=0), "do not fit"),
    "vectors": ({f"{STEM}.lora_A.weight": zeros(16), f"{STEM}.lora_B.weight": zeros(16)}, "do not fit"),
    "alpha alone": ({f"{STEM}.alpha": zeros()}, "no adapter of a known kind"),
    "alpha of 0": ({**pair(), f"{STEM}.alpha": zeros()}, "positive"),
    "alphas": ({**pair(), f"{STEM}.alpha": zeros(2)}, "expected one number"),
    "two kinds": ({**pair(), f"{STEM}.diff": zeros(16, 16)}, "no adapter of a known kind"),
    "twice": ({**pair(), f"{STEM}.lora_down.weight": zeros(2, 16)}, "the same part of one module"),
    "half a LoHa": ({f"{STEM}.hada_w1_a": zeros(16, 2)}, "hada_w1_b and hada_w2_a and hada_w2_b are missing"),
    "half a LoKr": ({f"{STEM}.lokr_w1": zeros(4, 4)}, "do not fit"),
    "integers": ({f"{STEM}.diff": np.zeros((16, 16), np.int64)}, "is I64"),
    "a magnitude alone": ({f"{STEM}.dora_scale": zeros(16, 1)}, "no adapter of a known kind"),
    "a checkpoint": ({f"{i}.weight": zeros(1) for i in range(10)}, r"10 tensors are no part .* and 2 more"),
    "an escape": ({"\x1b[2J.diff": zeros(1)}, r"called '\\x1b"),
}  # fmt: skip


@pytest.mark.parametrize("name", INCOMPLETE)
def test_incomplete(name: str, tmp_path: Path) -> None:
    tensors, wanted = INCOMPLETE[name]
    assert re.search(wanted, refusal(tmp_path, tensors, SourceError))


OTHER_KINDS = {
    "IA3": {"lora_unet_mid_block_to_k.weight": zeros(16), "lora_unet_mid_block_to_k.on_input": zeros(1)},
    "OFT or BOFT": {"lora_unet_mid_block_to_k.oft_blocks": zeros(4, 4, 4)},
    "GLoRA": {"lora_unet_mid_block_to_k.a1.weight": zeros(4, 4)},
    "T-LoRA": {"lora_unet_mid_block_to_k.lambda_layer": zeros(4)},
    "textual inversion": {**pair(), "bundle_emb.word.string_to_param.*": zeros(1, 8)},
    "a LoRA of embeddings": {"base_model.model.embeddings.token_embedding.lora_embedding_A": zeros(2, 8)},
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds(kind: str, tmp_path: Path) -> None:
    assert f"holds {kind} (" in refusal(tmp_path, OTHER_KINDS[kind], UnsupportedError)


def test_ranks_have_a_limit(tmp_path: Path) -> None:
    assert "has rank 1025" in refusal(tmp_path, pair(rank=1025, size=2), UnsupportedError)
    read(tmp_path, pair(rank=1024, size=2))


def test_files_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "16385 tensors" in refusal(
        tmp_path, {f"{i}.diff": zeros(0) for i in range(16385)}, UnsupportedError
    )
    assert "0 tensors" in refusal(tmp_path, {}, UnsupportedError)
    file = tmp_path / "b.safetensors"
    length = (8 << 20) + 1
    file.write_bytes(struct.pack("<Q", length) + b"{}" + b" " * (length - 2))
    with pytest.raises(UnsupportedError, match=f"a header of {length}"):
        read_adapter(file)
    monkeypatch.setattr(lora_file, "_BYTES_LIMIT", 100)
    refusal(tmp_path, pair(), UnsupportedError)


def test_other_files(tmp_path: Path) -> None:
    pickle = tmp_path / "lora.pt"
    pickle.write_bytes(b"\x80\x04.")
    with pytest.raises(SourceError, match="pickled"):
        read_adapter(pickle)
    with pytest.raises(InputError, match="no such file"):
        read_adapter(tmp_path / "missing.safetensors")
    with pytest.raises(InputError, match="holds 0 adapters"):
        read_adapter(tmp_path)
    for i, data in enumerate(
        [b"", b"short", struct.pack("<Q", 100) + b"{}", struct.pack("<Q", 1 << 63) + b"{}"]
    ):
        file = tmp_path / f"{i}.safetensors"
        file.write_bytes(data)
        with pytest.raises(SourceError, match="not a safetensors file"):
            read_adapter(file)
    text = json.dumps(
        {"__metadata__": {"a": 1}, f"{STEM}.diff": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    )
    file.write_bytes(struct.pack("<Q", len(text)) + text.encode())
    with pytest.raises(SourceError, match="metadata"):
        read_adapter(file)


def test_nan_is_found_when_it_is_read(model: Path, tmp_path: Path) -> None:
    tensors = pair()
    tensors[f"{STEM}.lora_A.weight"][1, 3] = np.nan
    held = unet(model, read(tmp_path, tensors))
    with pytest.raises(SourceError, match=r"a\.safetensors: tensor .*lora_A\.weight holds NaN"):
        held.whole(f"{MODULE}.weight")


def test_overflow_is_the_adapters_fault(model: Path, tmp_path: Path) -> None:
    tensors = {name: np.full_like(held, 1e30) for name, held in pair().items()}
    held = unet(model, read(tmp_path, tensors))
    with pytest.raises(SourceError, match=r"a\.safetensors: makes .* overflow"):
        held.whole(f"{MODULE}.weight")


def test_unmatched_keys_are_listed(model: Path, tmp_path: Path) -> None:
    tensors = pair() | {k: v for i in range(10) for k, v in pair(f"lora_unet_down_blocks_{i}_x").items()}
    with pytest.raises(
        SourceError, match=r"20 of its tensors belong to no module .*lora_A.* and 12 more"
    ) as raised:
        unet(model, read(tmp_path, tensors))
    assert str(raised.value).count("lora_unet_down_blocks_") == 8


def test_a_bias_that_the_model_lacks(model: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"1 of its tensors .*to_q\.diff_b"):
        unet(model, read(tmp_path, {f"{STEM}.diff_b": zeros(16)}))


def test_another_base_model(model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"another base model.*to_q\.weight is \(16, 16\), .* is \(24, 24\)"
    ):
        unet(model, read(tmp_path, pair(size=24)))
    conv = "unet.mid_block.resnets.0.conv1"
    with pytest.raises(
        SourceError, match=r"conv1\.weight is \(16, 16, 3, 3\), the adapter's change is \(16, 16\)"
    ):
        unet(model, read(tmp_path, pair(conv)))
    with pytest.raises(SourceError, match=r"with magnitudes \(24, 1\)"):
        unet(model, read(tmp_path, {**pair(), f"{STEM}.dora_scale": zeros(24, 1)}))


def test_one_module_under_two_names(model: Path, tmp_path: Path) -> None:
    tensors = pair() | pair(f"lora_unet_{MODULE.replace('.', '_')}")
    with pytest.raises(SourceError, match="twice, under two names"):
        unet(model, read(tmp_path, tensors))


def test_components_that_are_not_there(model: Path, tmp_path: Path) -> None:
    tensors = pair("lora_te2_text_model_encoder_layers_0_mlp_fc1")
    with pytest.raises(SourceError, match="2 of its tensors are for text_encoder_2, but the model has none"):
        AdaptedSource(open_source(str(model)), [read(tmp_path, tensors)])
    source = AdaptedSource(open_source(str(model)), [read(tmp_path, pair())])
    with pytest.raises(SourceError, match="2 of its tensors are for unet, but the exported model has none"):
        source.finish()
    source.component("unet", ("UNet2DConditionModel",))
    source.finish()


def test_sets_of_adapters(model: Path, tmp_path: Path) -> None:
    source = open_source(str(model))
    adapters = [read(tmp_path, pair(), str(i)) for i in range(9)]
    AdaptedSource(source, adapters[:8])
    with pytest.raises(InputError, match="9 adapters; at most 8"):
        AdaptedSource(source, adapters)
    twice = tmp_path / "x" / ".." / "0.safetensors"
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="given twice"):
        AdaptedSource(source, [adapters[0], read_adapter(twice)])
    with pytest.raises(InputError, match="scale of nan"):
        AdaptedSource(source, [read_adapter(tmp_path / "0.safetensors", float("nan"))])


CONFIGS: dict[str, tuple[Any, type[EdgediffError], str]] = {
    "another kind": ({"peft_type": "IA3"}, UnsupportedError, "of type IA3"),
    "a changed base": ({"init_lora_weights": "pissa_niter_16"}, UnsupportedError, "changes the base model"),
    "expressions": ({"r": 2, "alpha_pattern": {"(a+)+$": 2}}, UnsupportedError, "regular expressions"),
    "alpha of text": ({"lora_alpha": "many"}, SourceError, "lora_alpha is many"),
    "alpha below 0": ({"lora_alpha": -1}, SourceError, "positive"),
    "a list of alphas": ({"alpha_pattern": [1]}, SourceError, "alpha_pattern is no object"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_of_peft(name: str, tmp_path: Path) -> None:
    config, kind, wanted = CONFIGS[name]
    write_json(tmp_path / "adapter_config.json", config)
    read(tmp_path, pair())  # says nothing of names without peft's prefix
    with pytest.raises(kind, match=wanted):
        read(tmp_path, pair(f"base_model.model.{MODULE}"))


def test_the_files_beside_are_left_alone(model: Path, tmp_path: Path) -> None:
    """Reading an adapter writes nothing, and its source says what the model's own says."""
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    before = sorted((file, file.stat().st_mtime_ns) for file in folder.rglob("*"))
    plain = open_source(str(folder))
    source = AdaptedSource(plain, [read(tmp_path, pair())])
    assert (source.label, source.license, source.scheduler()) == (
        plain.label,
        plain.license,
        plain.scheduler(),
    )
    assert source.tokenizer() == plain.tokenizer() and source.extra("none.json") is None
    source.component("unet", ("UNet2DConditionModel",)).tensors.whole(f"{MODULE}.weight")
    assert sorted((file, file.stat().st_mtime_ns) for file in folder.rglob("*")) == before
