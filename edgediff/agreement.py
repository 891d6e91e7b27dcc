"""Facts of a manifest that must agree with each other: found when a bundle is opened, before it runs."""

from __future__ import annotations

from collections.abc import Iterator

from edgediff.bundle import COREML, Bundle, Control, TensorSpec, Text
from edgediff.errors import BundleError


def check(bundle: Bundle) -> None:
    """Compare what the manifest says of the model with what it says of the graphs, where both are fixed.

    Raises:
        BundleError: two fields contradict each other.
    """
    facts = bundle.latents
    for role in ("decoder", "tiny_decoder"):
        for spec in bundle.components.get(role, ()):
            for tensor in spec.inputs[:1]:
                where = f"{role}'s {tensor.name}"
                _rank(bundle, where, tensor)
                _equal(bundle, where, tensor, 1, facts.channels, "model.latents.channels")
    for where, tensor in _tensors(bundle, "denoiser", "inputs"):
        if tensor.name == "sample":
            channels = _fixed(tensor, 1)
            # Networks that fill in pictures read a mask and a picture besides the latents.
            if channels is not None and channels < facts.channels:
                _contradict(bundle, where, channels, f"model.latents.channels of {facts.channels}")
        if tensor.name == "timestep_cond" and bundle.guidance_embedding is not None:
            _equal(bundle, where, tensor, -1, bundle.guidance_embedding, "model.guidance_embedding.dims")
        if tensor.name == "time_ids":
            _equal(bundle, where, tensor, -1, len(bundle.size_ids), "model.size_ids")
    if bundle.text is not None:
        for role in bundle.text_roles:
            for where, tensor in _tensors(bundle, role, "inputs"):
                _equal(bundle, where, tensor, -1, bundle.text.length, "model.text.length")
        _check_text(bundle, bundle.text)
        _check_projections(bundle, bundle.text)
    _check_added(bundle)
    for control in bundle.controls:
        _check_control(bundle, control)
    _check_factors(bundle)
    _check_pieces(bundle)


RESIDUALS = {
    "down_block_res_samples": "down_block_additional_residuals",
    "mid_block_res_sample": "mid_block_additional_residual",
}
"""What the outputs of a network that steers are called where the denoiser reads them; of the first there are
many, numbered: ``down_block_res_samples.0``, ...."""


def residual(name: str) -> str:
    """Return the denoiser's name of a steering network's output."""
    kind, dot, place = name.partition(".")
    return f"{RESIDUALS.get(kind, kind)}{dot}{place}"


def _check_control(bundle: Bundle, control: Control) -> None:
    """A network that steers reads what the manifest says and gives what the denoiser's other form reads."""
    for where, tensor in _tensors(bundle, control.role, "inputs"):
        if tensor.name == "sample":
            _equal(bundle, where, tensor, 1, bundle.latents.channels, "model.latents.channels")
        if tensor.name == "controlnet_cond":
            _equal(bundle, where, tensor, 1, control.channels, "model.controls.channels")
    if "controlled_denoiser" not in bundle.components:
        _contradict(bundle, "model.controls", control.role, "components without a controlled_denoiser")
    given = {residual(tensor.name): tensor for _, tensor in _tensors(bundle, control.role, "outputs")}
    read = {
        tensor.name: tensor
        for _, tensor in _tensors(bundle, "controlled_denoiser", "inputs")
        if tensor.name.partition(".")[0] in RESIDUALS.values()
    }
    if given.keys() != read.keys():
        found = f"{len(given)} outputs"
        _contradict(bundle, control.role, found, f"the controlled_denoiser's {len(read)} residuals")
    for name, tensor in given.items():
        channels = _fixed(read[name], 1)
        if channels is not None:
            _equal(bundle, f"{control.role}'s {tensor.name}", tensor, 1, channels, f"the denoiser's {name}")


def _check_text(bundle: Bundle, text: Text) -> None:
    """The encoders give the outputs that are named; joined, they are as wide as the denoiser reads them."""
    joined, pooled = 0, 0
    known = {role for role in bundle.components if role.startswith("text_encoder")} <= set(bundle.text_roles)
    for encoder in text.encoders:
        hidden = _output(bundle, encoder.role, encoder.hidden)
        width = None if hidden is None else _fixed(hidden, -1)
        joined, known = joined + (width or 0), known and width is not None
        if encoder.pooled is not None:
            vector = _output(bundle, encoder.role, encoder.pooled)
            pooled += (None if vector is None else _fixed(vector, -1)) or 0
    first = text.encoders[0].hidden if text.encoders else ""
    name = f"the text encoder's {first}" if len(text.encoders) == 1 else "the text encoders' states, joined,"
    readers = ("denoiser",) if text.projections is None else ("denoiser", text.projections)
    for where, tensor in (each for role in readers for each in _tensors(bundle, role, "inputs")):
        if tensor.name == "encoder_hidden_states" and known:
            _equal(bundle, where, tensor, -1, joined, name)
        if tensor.name == "text_embeds" and pooled:
            _equal(bundle, where, tensor, -1, pooled, "the text encoders' pooled vector")


def _check_projections(bundle: Bundle, text: Text) -> None:
    """What is made of the text once per prompt, the denoisers read, and in the width in which it is made."""
    if text.projections is None:
        return
    made = {tensor.name: tensor for _, tensor in _tensors(bundle, text.projections, "outputs")}
    for role in ("denoiser", "controlled_denoiser"):
        for spec in bundle.components.get(role, ()):
            read = {tensor.name: tensor for tensor in spec.inputs}
            missing = sorted(made.keys() - read.keys()) if read else []
            if missing:
                found = f"no input {missing[0]}"
                _contradict(bundle, f"{role} ({spec.file})", found, f"{text.projections}, which makes it")
            for name in made.keys() & read.keys():
                width = _fixed(made[name], -1)
                if width is not None:
                    _equal(bundle, f"{role}'s {name}", read[name], -1, width, text.projections)


def _output(bundle: Bundle, role: str, name: str) -> TensorSpec | None:
    """Return an output that the manifest names; None where no graph of this runtime is listed."""
    for spec in bundle.components.get(role, ()):
        if spec.runtime in ("onnxruntime", COREML) and spec.outputs:
            for tensor in spec.outputs:
                if tensor.name == name:
                    return tensor
            names = ", ".join(tensor.name for tensor in spec.outputs)
            _contradict(bundle, role, f"the outputs {names}", f"model.text.encoders, which names {name}")
    return None


def _check_added(bundle: Bundle) -> None:
    """What the denoiser reads of pooled text and of sizes, the manifest says where to take from."""
    read = {tensor.name for _, tensor in _tensors(bundle, "denoiser", "inputs")}
    if not read:
        return
    pooled = bundle.text is not None and any(each.pooled is not None for each in bundle.text.encoders)
    for name, told, fact in (
        ("text_embeds", pooled, "model.text.encoders (pooled)"),
        ("time_ids", bool(bundle.size_ids), "model.size_ids"),
    ):
        if (name in read) != told:
            inputs = "an input" if name in read else "no input"
            _contradict(
                bundle, "denoiser", f"{inputs} {name}", f"{fact}: there is {'one' if told else 'none'}"
            )


def _check_factors(bundle: Bundle) -> None:
    """A decoder of fixed size shows its own factor."""
    axes = bundle.latents.axes
    for spec in bundle.components.get("decoder", ()):
        if len(spec.inputs) == len(spec.outputs) == 1:
            small, large = spec.inputs[0], spec.outputs[0]
            for axis, factor in bundle.latents.downscale.items():
                place = axes.index(axis)
                before, after = _fixed(small, place), _fixed(large, place)
                if before is not None and after is not None and before * factor != after:
                    ratio = f"{before} to {after}"
                    _contradict(bundle, f"decoder ({axis})", ratio, f"model.latents.downscale of {factor}")


def _check_pieces(bundle: Bundle) -> None:
    """Graphs of ONNX are whole; the values that named dims may have are said of dims that are there."""
    for role, specs in bundle.components.items():
        for spec in specs:
            if spec.stages and spec.runtime == "onnxruntime":
                _contradict(bundle, role, f"{len(spec.stages)} stages", "its runtime, onnxruntime")
            free = {dim for tensor in spec.inputs for dim in tensor.dims if isinstance(dim, str)}
            for values in spec.extents:
                if not values.keys() <= free:
                    _contradict(bundle, role, f"extents of {sorted(values)}", f"its free dims {sorted(free)}")


def _tensors(bundle: Bundle, role: str, which: str) -> Iterator[tuple[str, TensorSpec]]:
    for spec in bundle.components.get(role, ()):
        for tensor in spec.inputs if which == "inputs" else spec.outputs:
            yield f"{role}'s {tensor.name}", tensor


def _fixed(tensor: TensorSpec, place: int) -> int | None:
    if not -len(tensor.dims) <= place < len(tensor.dims):
        return None
    dim = tensor.dims[place]
    return dim if isinstance(dim, int) else None


def _rank(bundle: Bundle, where: str, tensor: TensorSpec) -> None:
    axes = bundle.latents.axes
    if len(tensor.dims) != len(axes):
        _contradict(bundle, where, f"{len(tensor.dims)} dims", f"model.latents.axes of {len(axes)}")


def _equal(bundle: Bundle, where: str, tensor: TensorSpec, place: int, fact: int | None, name: str) -> None:
    found = _fixed(tensor, place)
    if found is not None and found != fact:
        _contradict(bundle, where, found, f"{name} of {fact}")


def _contradict(bundle: Bundle, where: str, found: object, fact: str) -> None:
    raise BundleError(
        f"{bundle.path}: {where} has {found}, which contradicts {fact}; export the bundle again."
    )
