"""Names in programs: every parameter's constant is found by its name in the checkpoint."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from export_helpers import TINY_TEXT, TINY_UNET, Array
from export_mil import Weights, packaged

from edgediff.export.emit.graph import Graph
from edgediff.export.emit.mil import mil_name, program
from edgediff.export.emit.mil_form import MilForm, Signature
from edgediff.export.emit.mil_model import coremltools, to_model
from edgediff.export.networks import clip_text, unet2d_condition

LEGAL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def test_readable() -> None:
    assert mil_name("down_blocks.0.attn1.to_q.weight") == "down_blocks__0__attn1__to_q__weight"
    assert LEGAL.fullmatch(mil_name("0.weight"))


def test_no_two_alike() -> None:
    """All short names of letters, digits, points, underscores and others."""
    for length in (1, 2, 3, 4, 5):
        names = ["".join(letters) for letters in itertools.product("a0._-", repeat=length)]
        names += [mil_name(name) for name in names if len(mil_name(name)) != length]
        said = {mil_name(name) for name in set(names)}
        assert len(said) == len(set(names))
        assert all(LEGAL.fullmatch(name) for name in said)


def unet() -> Graph:
    return unet2d_condition.record(unet2d_condition.configure(TINY_UNET, "unet"))


def constants(path: Path) -> dict[str, Array]:
    """What coremltools reads back of a saved package, by name."""
    ct = coremltools()
    model = ct.models.MLModel(str(path), skip_model_load=True)
    found = ct.optimize.coreml.get_weights_metadata(model, weight_threshold=1)
    return {name: np.asarray(about.val) for name, about in found.items()}


@pytest.mark.parametrize("half", [False, True])
def test_constants_of_a_saved_package(half: bool, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    text = clip_text.record(clip_text.configure(TINY_TEXT, "text"))
    for graph, extents in (
        (unet(), {"sample": (8, 8), "encoder_hidden_states": (7,)}),
        (text, {"input_ids": (12,)}),
    ):
        weights = Weights(graph)
        path = packaged(graph, tmp_path, MilForm("split_einsum", half), Signature((extents,)), weights)
        found = constants(path)
        for parameter in graph.parameters:
            number = found[mil_name(parameter.name)]
            wanted = weights.arrays[parameter.name].astype(np.float16 if half else np.float32)
            assert number.dtype == wanted.dtype
            if "position" in parameter.name:
                number = number[0, :, 0].T
            assert np.array_equal(number.reshape(wanted.shape), wanted), parameter.name
            if len(wanted.shape) == 2 and "embedding" not in parameter.name:
                assert number.shape == (*wanted.shape, 1, 1)  # a layer of tokens is a convolution


def test_operations_have_their_own(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    extents = {"sample": (8, 8), "encoder_hidden_states": (7,)}
    made = program(unet(), Weights(unet()), MilForm(), Signature((extents,)))
    names = [op.name for op in made.functions["main"].operations]
    assert len(set(names)) == len(names)
    assert all(LEGAL.fullmatch(name) for name in names)
    assert "down_blocks__0__resnets__0__conv1__conv" in names
    assert "mid_block__attentions__0__transformer_blocks__0__attn1__to_q__conv" in names


@pytest.mark.parametrize("attention", ["original", "split_einsum"])
def test_the_same_twice(attention: str, tmp_path: Path) -> None:
    """Neither an earlier program of the process nor the order of a dictionary leaves a trace."""
    pytest.importorskip("coremltools")
    extents = {"sample": (8, 8), "encoder_hidden_states": (7,)}
    form = MilForm(attention, True)  # type: ignore[arg-type]
    found = []
    for _ in range(2):
        model = to_model(program(unet(), Weights(unet()), form, Signature((extents,))), form)
        path = tmp_path / f"{len(found)}.mlpackage"
        model.save(str(path))
        spec = model.get_spec()
        assert [about for about in spec.description.metadata.userDefined if "date" in about]
        del spec.description.metadata.userDefined["com.github.apple.coremltools.conversion_date"]
        weights = (path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin").read_bytes()
        found.append((spec.SerializeToString(deterministic=True), weights))
        # Another program in between, of which nothing may be left.
        program(unet(), Weights(unet()), MilForm("split_einsum"), Signature((extents,), 2))
    assert found[0] == found[1]
