"""The tracing process: a diffusers folder becomes a folder of ONNX graphs as Optimum lays it out.

Optimum's exporter goes first; where it has no configuration, or its graph does not agree with the module,
PyTorch's own exporter does the part. Run by :mod:`edgediff.export.optimum.tracing`; the one file of edgediff
that imports PyTorch.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import onnx
import onnx_ir
import onnxscript.optimizer
import torch

from edgediff.errors import CheckFailed, EdgediffError, SourceError, UnsupportedError
from edgediff.export.optimum.folder import spec_of
from edgediff.export.optimum.graph_files import read_graph
from edgediff.export.optimum.tracing import save_result
from edgediff.export.optimum.trial import Extents, feeds, one_pass
from edgediff.runtime import Tensor

TOLERANCE = 1e-4
OPSET = 18
_TEXTS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_SAVED = ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3")
_WORDS = 7


def main(arguments: list[str]) -> int:
    """Trace ``FOLDER`` into ``STAGING`` and write what happened to ``RESULT``; 0 if all went well."""
    folder, staging, result = map(Path, arguments[:3])
    try:
        loader: Any = diffusers.DiffusionPipeline
        pipe = loader.from_pretrained(
            str(folder), variant=arguments[3] if len(arguments) > 3 else None, use_safetensors=True,
            local_files_only=True, torch_dtype=torch.float32,
        )  # fmt: skip
        save_result(result, {"parts": trace(pipe, staging)})
    except EdgediffError as error:
        save_result(result, {"error": error.code, "message": str(error)})
        return 1
    except Exception as error:  # whatever the libraries raise, it is they that cannot do this model
        text = " ".join(str(error).split())[:300]
        save_result(result, {"error": "unsupported", "message": f"cannot be traced ({_kind(error)}: {text})"})
        return 1
    return 0


def trace(pipe: Any, staging: Path) -> dict[str, dict[str, Any]]:
    """Write all graphs of a pipeline; who made each, and how far it is from its module.

    Raises:
        UnsupportedError: the pipeline lacks a denoiser or an autoencoder, or cannot be traced.
        CheckFailed: a graph disagrees with its module.
    """
    names = _names(pipe)
    reason = _by_optimum(pipe, staging)
    if reason is not None:
        _save_the_rest(pipe, staging)
    made = {}
    for name in names:
        fault = reason
        if fault is None:
            try:
                made[name] = {"by": "optimum", "difference": difference(pipe, name, staging)}
                continue
            except (CheckFailed, SourceError) as error:
                fault = str(error)
        _by_pytorch(pipe, name, staging, fault)
        made[name] = {"by": "torch.export", "difference": difference(pipe, name, staging)}
    return made


def _names(pipe: Any) -> list[str]:
    network = next((n for n in ("unet", "transformer") if getattr(pipe, n, None) is not None), None)
    if network is None or getattr(pipe, "vae", None) is None:
        raise UnsupportedError(f"{_kind(pipe)} has no denoiser or no autoencoder; it cannot be a bundle.")
    texts = [name for name in _TEXTS if getattr(pipe, name, None) is not None]
    return [*texts, network, "vae_decoder", "vae_encoder"]


def _by_optimum(pipe: Any, staging: Path) -> str | None:
    """Export the whole pipeline; why not, where Optimum cannot."""
    from optimum.exporters.onnx import onnx_export_from_model

    try:
        onnx_export_from_model(pipe, staging, task="text-to-image", no_post_process=True, do_validation=False)
    except Exception as error:  # it has no error of its own for what it does not know
        return f"{_kind(error)}: {' '.join(str(error).split())[:200]}"
    return None


def _save_the_rest(pipe: Any, staging: Path) -> None:
    pipe.save_config(staging)
    for name in _SAVED:
        if getattr(pipe, name, None) is not None:
            getattr(pipe, name).save_pretrained(staging / name)


def difference(pipe: Any, name: str, staging: Path) -> float:
    """Return how far a graph is from its module on random inputs, relative to the largest value.

    Raises:
        CheckFailed: it is further than TOLERANCE, does not run, or gives NaN or Inf, on zeros too.
    """
    path = staging / name / "model.onnx"
    spec = spec_of(staging, name, read_graph(path))
    extents = _extents(pipe, name)
    usual = feeds(spec.inputs, extents)
    one_pass(path, spec, {k: np.zeros_like(v) if v.dtype.kind == "f" else v for k, v in usual.items()})
    given = _random(usual)
    found = one_pass(path, spec, given)
    with torch.inference_mode():
        expected = _reference(pipe, name, {key: torch.from_numpy(value) for key, value in given.items()})
    worst = 0.0
    for tensor in spec.outputs:
        value = expected[tensor.name] if tensor.name in expected else expected[""]
        right = value.numpy()
        if right.shape != found[tensor.name].shape:
            raise CheckFailed(
                f"{name}: {tensor.name} is {found[tensor.name].shape}, PyTorch's {right.shape}."
            )
        scale = max(1.0, float(np.abs(right).max()))
        worst = max(worst, float(np.abs(right - found[tensor.name]).max()) / scale)
    if not worst <= TOLERANCE:
        raise CheckFailed(f"{name}: differs from PyTorch by {worst:.1e}, more than {TOLERANCE}.")
    return worst


def _extents(pipe: Any, name: str) -> Extents:
    """Sizes that no tracer used: what it took for a constant shows."""
    config = pipe.vae.config
    channels = int(config.latent_channels)
    if name == "vae_encoder":
        levels = config.get("block_out_channels") or config.get("encoder_block_out_channels")
        factor = 2 ** (len(levels) - 1)
        return Extents(2 * factor, 6 * factor, int(config.in_channels), 2)
    if name == "vae_decoder":
        return Extents(2, 6, channels, 2)
    if name in _TEXTS:
        return Extents(1, 1, 1, 2)
    inside = int(getattr(pipe, name).config.in_channels)
    return Extents(8, 16, inside, 2)


def _random(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same shapes with random floats; ids and masks stay."""
    rng = np.random.default_rng(0)
    found = {}
    for key, value in given.items():
        fresh = rng.standard_normal(value.shape)
        if key in ("timestep", "guidance"):
            fresh = np.abs(fresh)
        found[key] = fresh.astype(value.dtype) if value.dtype.kind == "f" else value
    return found


def _reference(pipe: Any, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The module's outputs by the graph's names; the name ``""`` is for whatever the graph calls its one."""
    if name in _TEXTS:
        out = getattr(pipe, name)(**given, output_hidden_states=True, return_dict=True)
        states = {f"hidden_states.{i}": state for i, state in enumerate(out.hidden_states)}
        return {**states, **{key: value for key, value in out.items() if key != "hidden_states"}}
    if name == "vae_decoder":
        return {"": pipe.vae.decode(given["latent_sample"], return_dict=False)[0]}
    if name == "vae_encoder":
        return {"": _encoded(pipe.vae, given["sample"])}
    if name == "unet" and "time_ids" in given:
        given["added_cond_kwargs"] = {key: given.pop(key) for key in ("text_embeds", "time_ids")}
    return {"": getattr(pipe, name)(**given, return_dict=False)[0]}


def _encoded(vae: Any, sample: Any) -> Any:
    out = vae.encode(sample)
    return out.latent_dist.parameters if hasattr(out, "latent_dist") else out.latent


class _Text(torch.nn.Module):
    """A text encoder with tensors for arguments and results."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class _Decoder(torch.nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent_sample: Any) -> Any:
        return self.vae.decode(latent_sample, return_dict=False)[0]


class _Encoder(torch.nn.Module):
    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, sample: Any) -> Any:
        return _encoded(self.vae, sample)


def _by_pytorch(pipe: Any, name: str, staging: Path, reason: str) -> None:
    """Export one part with PyTorch's exporter.

    ``optimize=False``: its optimiser takes additions of small constants away (1e-15 in the linear attention
    of deep-compression autoencoders), and a division by zero remains.
    """
    folder = staging / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    module, inputs, axes, output = _example(pipe, name)
    constants = {} if name in _TEXTS or name.startswith("vae") else {"return_dict": False}
    try:
        program: Any = torch.onnx.export(
            module, (), kwargs={**inputs, **constants}, dynamo=True, optimize=False, opset_version=OPSET,
            output_names=[output], verbose=False, dynamic_shapes={**axes, **dict.fromkeys(constants)},
        )  # fmt: skip
        tidied(program.model)
        program.save(str(folder / "model.onnx"), external_data=True)
    except Exception as error:  # every stage of it raises errors of its own
        text = " ".join(re.sub(r"\x1b\[\d+m", "", str(error.__cause__ or error)).split())[:300]
        raise UnsupportedError(f"{name} cannot be traced (Optimum: {reason}; PyTorch: {text})") from error
    _name_dims(folder / "model.onnx", axes)
    part = pipe.vae if name.startswith("vae") else getattr(pipe, name)
    save: Callable[[Path], None] = getattr(part, "save_config", None) or part.config.save_pretrained
    save(folder)


def tidied(model: Any) -> None:
    """Compute what is known: without this, a split in known parts stays a sequence of tensors."""
    _drop_idle_squeezes(model)
    onnxscript.optimizer.fold_constants(model)
    onnxscript.optimizer.remove_unused_nodes(model)


def _drop_idle_squeezes(model: Any) -> None:
    """PyTorch leaves a dim that is not 1 alone, where ONNX's Squeeze fails; ranks tell (PixArt has one)."""
    for node in [node for node in model.graph if node.op_type == "Squeeze"]:
        before, after = node.inputs[0], node.outputs[0]
        if before.shape is None or after.shape is None:
            continue
        if before.shape.rank() == after.shape.rank():
            onnx_ir.convenience.replace_all_uses_with(after, before)
            model.graph.remove(node, safe=True)


Example = tuple[Any, dict[str, Any], dict[str, dict[int, Any]], str]
_ROWS = {0: "batch_size", 1: "sequence_length"}
_PICTURE = {0: "batch_size", 2: "height", 3: "width"}


def _example(pipe: Any, name: str) -> Example:
    """A module, inputs to trace it with, which of their dims are free, and the output's name."""
    if name in _TEXTS:
        ids = torch.ones(2, _WORDS, dtype=torch.int64)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return _Text(getattr(pipe, name)).eval(), given, _free(dict.fromkeys(given, _ROWS)), (
            "last_hidden_state"
        )  # fmt: skip
    channels = int(pipe.vae.config.latent_channels)
    if name == "vae_decoder":
        given = {"latent_sample": torch.randn(2, channels, 8, 10)}
        return _Decoder(pipe.vae).eval(), given, _free({"latent_sample": _PICTURE}), "sample"
    if name == "vae_encoder":
        given = {"sample": torch.randn(2, int(pipe.vae.config.in_channels), 64, 96)}
        output = (
            "latent_parameters" if hasattr(pipe.vae.encode(given["sample"]), "latent_dist") else "latents"
        )
        return _Encoder(pipe.vae).eval(), given, _free({"sample": _PICTURE}), output
    network = getattr(pipe, name)
    given, axes = _arguments(network)
    return network.eval(), given, _free(axes), "out_sample" if name == "unet" else "out_hidden_states"


def _free(axes: Mapping[str, Mapping[int, str]]) -> dict[str, dict[int, Any]]:
    return {key: dict.fromkeys(dims, torch.export.Dim.DYNAMIC) for key, dims in axes.items()}


def _arguments(network: Any) -> tuple[dict[str, Any], dict[str, dict[int, str]]]:
    """Inputs for the parameters of a denoiser's ``forward`` whose meaning its name tells.

    Raises:
        UnsupportedError: it demands a parameter that is not known.
    """
    config = network.config
    width = next((int(config[k]) for k in _WIDTHS if isinstance(config.get(k), int)), None)
    known: dict[str, tuple[Any, dict[int, str]]] = {
        "timestep": (torch.tensor([3.0, 4.0]), {0: "batch_size"}),
        "guidance": (torch.tensor([3.0, 4.0]), {0: "batch_size"}),
    }
    picture = torch.randn(2, int(config.in_channels), 8, 12)
    known |= {"sample": (picture, _PICTURE), "hidden_states": (picture, _PICTURE)}
    if width is not None:
        known["encoder_hidden_states"] = (torch.randn(2, _WORDS, width), _ROWS)
    if isinstance(config.get("pooled_projection_dim"), int):
        known["pooled_projections"] = (torch.randn(2, config["pooled_projection_dim"]), {0: "batch_size"})
    if not config.get("guidance_embeds"):
        del known["guidance"]
    parameters = inspect.signature(network.forward).parameters
    unknown = [
        key for key, each in parameters.items()
        if each.default is inspect.Parameter.empty and key not in known and each.kind is not each.VAR_KEYWORD
    ]  # fmt: skip
    if unknown:
        raise UnsupportedError(f"{_kind(network)} demands {', '.join(unknown)}, which is not known here")
    taken = [key for key in parameters if key in known]
    return {key: known[key][0] for key in taken}, {key: known[key][1] for key in taken}


_WIDTHS = ("caption_channels", "joint_attention_dim", "cross_attention_dim", "text_dim", "cap_feat_dim")


def _name_dims(path: Path, axes: Mapping[str, Mapping[int, Any]]) -> None:
    """Give the exporter's symbols (``s33``) the names of what they are."""
    model = onnx.load(str(path), load_external_data=False)
    names: dict[str, str] = {}
    for value in model.graph.input:
        shape = value.type.tensor_type.shape.dim
        usual = _PICTURE if len(shape) == 4 else _ROWS
        for place in axes.get(value.name, {}):
            names.setdefault(shape[place].dim_param, usual[place])
    for value in [*model.graph.input, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\bs\d+\b", lambda m: names.get(m[0], m[0]), dim.dim_param)
    path.write_bytes(model.SerializeToString())


def _kind(value: object) -> str:
    return type(value).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
