"""The sizes that a graph is compiled for, on devices that compute faster where they know them.

OpenVINO fuses less of a graph whose sizes are open, so there a graph is loaded for the sizes of a call, and
loaded again when a call has others.
Its batch is fixed at one, and larger ones are run picture by picture: one compiled graph serves any number of
pictures, with guidance and without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgediff.bundle import Bundle, GraphSpec, TensorSpec
from edgediff.runtime import Tensor

_PICTURES = ("controlnet_cond",)  # inputs of the result's own size; those below are of the latents'
_LATENTS = ("sample", "latent_sample")
_TOKENS = ("input_ids", "encoder_hidden_states")


def expected(
    bundle: Bundle, role: str, spec: GraphSpec, size: Mapping[str, int], tokens: bool = True
) -> dict[str, int]:
    """Return extents of the named dims of a graph for results of ``size`` (units by axis).

    Without ``tokens`` the text's length stays open, as long prompts need it. Empty where the manifest does
    not say what the graph reads, and where it was made for sizes of its own.
    """
    found: dict[str, int] = {}
    words = (*_TOKENS, *_projected(bundle))
    for tensor in () if spec.extents else spec.inputs:
        if tensor.name in words:
            if tokens and len(tensor.dims) > 1:
                _bind(found, tensor.dims[1], _length(bundle, role))
        elif tensor.name in (*_PICTURES, *_LATENTS):
            whole = role == "encoder" or tensor.name in _PICTURES
            for axis, dim in zip(bundle.latents.axes, tensor.dims, strict=False):
                if axis in size and axis in bundle.latents.downscale:
                    factor = 1 if whole else bundle.latents.downscale[axis]
                    _bind(found, dim, -(-size[axis] // factor))
        else:
            continue
        _bind(found, tensor.dims[0], 1)
    return found


def of_inputs(specs: Sequence[TensorSpec], inputs: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the extents that a call's inputs give to the named dims, the batch cut to one."""
    found: dict[str, int] = {}
    for spec in specs:
        if spec.name in inputs and inputs[spec.name].ndim > 1:
            for i, (dim, extent) in enumerate(zip(spec.dims, inputs[spec.name].shape, strict=False)):
                _bind(found, dim, extent if i else 1)
    return found


def contradicted(fixed: Mapping[str, int], specs: Sequence[TensorSpec], inputs: Mapping[str, Tensor]) -> bool:
    """Return whether inputs have other extents than a graph was loaded for; a larger batch can be cut."""
    return any(
        isinstance(dim, str) and fixed.get(dim, extent) != extent
        for spec in specs
        if spec.name in inputs
        for dim, extent in zip(spec.dims[1:], inputs[spec.name].shape[1:], strict=False)
    )


def _projected(bundle: Bundle) -> tuple[str, ...]:
    """Inputs that the denoiser reads in the place of the text's states: what another graph makes of them."""
    role = None if bundle.text is None else bundle.text.projections
    return tuple(tensor.name for spec in bundle.components.get(role or "", ()) for tensor in spec.outputs)


def _bind(found: dict[str, int], dim: str | int, extent: int) -> None:
    if isinstance(dim, str):
        found[dim] = extent


def _length(bundle: Bundle, role: str) -> int:
    """Tokens that a text encoder reads, or that the denoiser is given of a text that fits."""
    text = bundle.text
    if text is None:
        return 1
    own = [encoder.length for encoder in text.encoders if encoder.role == role]
    return own[0] if own else text.length
