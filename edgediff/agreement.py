"""Facts of a manifest that must agree with each other: found when a bundle is opened, before it runs."""

from __future__ import annotations

from collections.abc import Iterator

from edgediff.bundle import Bundle, TensorSpec
from edgediff.errors import BundleError


def check(bundle: Bundle) -> None:
    """Compare what the manifest says of the model with what it says of the graphs, where both are fixed.

    Raises:
        BundleError: two fields contradict each other.
    """
    facts = bundle.latents
    for spec in bundle.components.get("decoder", ()):
        for tensor in spec.inputs[:1]:
            where = f"decoder's {tensor.name}"
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
    for where, tensor in _tensors(bundle, "text_encoder", "inputs"):
        if bundle.text is not None:
            _equal(bundle, where, tensor, -1, bundle.text.length, "model.text.length")
    _check_hidden(bundle)
    _check_factors(bundle)


def _check_hidden(bundle: Bundle) -> None:
    """The text encoder's states are what the denoiser reads, unless several encoders' are joined."""
    if any(role.startswith("text_encoder_") for role in bundle.components):
        return
    sizes = {
        _fixed(tensor, -1)
        for _, tensor in _tensors(bundle, "text_encoder", "outputs")
        if tensor.name == "last_hidden_state"
    } - {None}
    for where, tensor in _tensors(bundle, "denoiser", "inputs"):
        if tensor.name == "encoder_hidden_states":
            for size in sizes:
                _equal(bundle, where, tensor, -1, size, "the text encoder's last_hidden_state")


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
