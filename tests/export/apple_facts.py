"""What Apple's Swift package for Stable Diffusion feeds and reads: names, shapes, types, with the source.

Facts of https://github.com/apple/ml-stable-diffusion at commit e12202c, folder ``swift/StableDiffusion``. A
citation is a file and a line of it, and a word that stands there.
"""

from __future__ import annotations

from dataclasses import dataclass

FED = "float32"  # every input: MLShapedArray<Float32>; "float32" is also what all outputs are read as
COMMIT = "e12202c"
ANY = None


@dataclass(frozen=True, slots=True)
class Cited:
    """Where a fact was taken from."""

    file: str
    line: int
    word: str


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or an output. A name of ANY is not looked at: it is then the only one of its package. A shape
    of ANY is not looked at either; batch axes that Swift makes are in the shape."""

    name: str | None
    shape: tuple[int, ...] | None
    where: Cited


@dataclass(frozen=True, slots=True)
class Package:
    """A compiled model in the resources' folder. ``only``: it must have no further input or output."""

    where: Cited
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    only: bool = True


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a published model: channels of the text, of pooled text, side of latents."""

    text: int
    latents: int
    pooled: int = 0
    ids: int = 0  # numbers in time_ids
    texts: tuple[tuple[str, int], ...] = ()  # text encoders by package, and their channels


PUBLISHED = {
    "sd15": Sizes(768, 64, texts=(("TextEncoder", 768),)),
    "sd21": Sizes(1024, 96, texts=(("TextEncoder", 1024),)),
    "sdxl": Sizes(2048, 128, 1280, 6, (("TextEncoder", 768), ("TextEncoder2", 1280))),
    "refiner": Sizes(1280, 128, 1280, 5, (("TextEncoder2", 1280),)),
}
_V1 = ("sd15", "sd21")  # read by StableDiffusionPipeline; the others by StableDiffusionXLPipeline
LENGTH, LATENT_CHANNELS, DOWNSCALE = 77, 4, 8
_UNET, _CONTROL = "pipeline/Unet.swift", "pipeline/ControlNet.swift"
_FILES, _FILES_XL = (
    "pipeline/StableDiffusionPipeline+Resources.swift",
    "pipeline/StableDiffusionXL+Resources.swift",
)
_NAMES = {
    "TextEncoder": 29, "Unet": 30, "UnetChunk1": 31, "UnetChunk2": 32, "VAEDecoder": 33, "VAEEncoder": 34,
    "ControlledUnet": 39, "ControlledUnetChunk1": 40, "ControlledUnetChunk2": 41,
}  # fmt: skip
_NAMES_XL = {
    "TextEncoder": 27, "TextEncoder2": 28, "Unet": 29, "UnetChunk1": 30, "UnetChunk2": 31, "UnetRefiner": 32,
    "VAEDecoder": 35, "VAEEncoder": 36,
}  # fmt: skip
FILES = {
    "vocab.json": Cited(_FILES, 36, "vocab.json"),
    "merges.txt": Cited(_FILES, 37, "merges.txt"),
}
NAMES = tuple(
    Cited(file, line, f"{name}.mlmodelc")
    for file, lines in ((_FILES, _NAMES), (_FILES_XL, _NAMES_XL))
    for name, line in lines.items()
)
CONTROLNETS = Cited(_FILES, 38, "controlnet")  # the folder that ControlNets lie in
# What the schedulers know: noise is predicted, and of these alphas.
ONLY_EPSILON = Cited("pipeline/DPMSolverMultistepScheduler.swift", 23, "epsilon")
BETAS = (Cited("pipeline/DPMSolverMultistepScheduler.swift", 65, "0.00085"),
         Cited("pipeline/DPMSolverMultistepScheduler.swift", 66, "0.012"))  # fmt: skip
PADDED_WITH = (Cited("tokenizer/BPETokenizer.swift", 36, "<|endoftext|>"), Cited(_FILES_XL, 68, "!"))
# The batch of two is made where guidance is at least 1; below, one row is fed. In XL it is always made.
DOUBLED = (Cited("pipeline/StableDiffusionPipeline.swift", 268, "guidanceScale >= 1.0"),
           Cited("pipeline/StableDiffusionXLPipeline.swift", 213, "concatenating"))  # fmt: skip


def packages(model: str) -> dict[str, Package]:
    """The packages of one of ``PUBLISHED``, by name."""
    sizes = PUBLISHED[model]
    found = {name: _text(model, name, channels) for name, channels in sizes.texts}
    side, pixels = sizes.latents, DOWNSCALE * sizes.latents
    latents = (1, LATENT_CHANNELS, side, side)
    found["Unet"] = Package(_file(model, "Unet"), _unet_inputs(sizes), (_unet_output(sizes),))
    found["VAEDecoder"] = Package(
        _file(model, "VAEDecoder"),
        (Tensor(ANY, latents, Cited("pipeline/Decoder.swift", 76, "inputDescriptionsByName.first")),),
        (Tensor(ANY, (1, 3, pixels, pixels), Cited("pipeline/Decoder.swift", 66, "featureNames.first")),),
    )
    found["VAEEncoder"] = Package(
        _file(model, "VAEEncoder"),
        (Tensor(ANY, (1, 3, pixels, pixels), Cited("pipeline/Encoder.swift", 54, "imageData.shape")),),
        (Tensor(ANY, (1, 8, side, side), Cited("pipeline/Encoder.swift", 71, "[4..<8]")),),
    )
    return found


def controlled(model: str, residuals: dict[str, tuple[int, ...]]) -> dict[str, Package]:
    """A U-Net that takes residuals and the ControlNet that gives them, under the same names and shapes."""
    sizes = PUBLISHED[model]
    picture = (2, 3, DOWNSCALE * sizes.latents, DOWNSCALE * sizes.latents)
    given = tuple(Tensor(name, shape, Cited(_UNET, 114, "dict[k]")) for name, shape in residuals.items())
    made = tuple(
        Tensor(name, shape, Cited(_CONTROL, 105, "outputs[n][k]")) for name, shape in residuals.items()
    )
    shown = Tensor("controlnet_cond", picture, Cited(_CONTROL, 81, "controlnet_cond"))
    lines = {"sample": 78, "timestep": 79, "encoder_hidden_states": 80}
    read = tuple(
        Tensor(each.name, each.shape, Cited(_CONTROL, lines[each.name], each.name))
        for each in _unet_inputs(sizes)
        if each.name is not None
    )
    return {
        "ControlledUnet": Package(
            _file(model, "ControlledUnet"), (*_unet_inputs(sizes), *given), (_unet_output(sizes),)
        ),
        "controlnet": Package(Cited(_FILES, 93, ".mlmodelc"), (*read, shown), made),
    }


def _file(model: str, name: str) -> Cited:
    file, lines = (_FILES, _NAMES) if model in _V1 else (_FILES_XL, _NAMES_XL)
    return Cited(file, lines[name], f"{name}.mlmodelc")


def _text(model: str, name: str, channels: int) -> Package:
    """Ids come as float32, in the shape that the model declares; hidden states are (1, S, C) outside."""
    where = _file(model, name)
    if model in _V1:
        file = "pipeline/TextEncoder.swift"
        ids = Tensor(ANY, (1, LENGTH), Cited(file, 79, "Float32"))
        states = Tensor("last_hidden_state", (1, LENGTH, channels), Cited(file, 88, "last_hidden_state"))
        return Package(where, (ids,), (states,), only=False)
    file = "pipeline/TextEncoderXL.swift"
    ids = Tensor(ANY, (1, LENGTH), Cited(file, 76, "Float32"))
    states = Tensor("hidden_embeds", (1, LENGTH, channels), Cited(file, 85, "hidden_embeds"))
    # Both encoders must have it; that of the first is not read further.
    shape = (1, channels) if name == "TextEncoder2" else ANY
    return Package(
        where,
        (ids,),
        (states, Tensor("pooled_outputs", shape, Cited(file, 86, "pooled_outputs"))),
        only=False,
    )


def _unet_inputs(sizes: Sizes) -> tuple[Tensor, ...]:
    xl = sizes.ids > 0
    sample, time, text = (170, 165, 172) if xl else (108, 100, 110)
    side, states = sizes.latents, "encoder_hidden_states"
    found = (
        Tensor("sample", (2, LATENT_CHANNELS, side, side), Cited(_UNET, sample, "sample")),
        Tensor("timestep", (2,), Cited(_UNET, time, "[2]")),
        Tensor(states, (2, sizes.text, 1, LENGTH), Cited(_UNET, text, states)),
    )  # fmt: skip
    if not xl:
        return found
    line = 355 if sizes.ids == 6 else 333
    ids = Cited("pipeline/StableDiffusionXLPipeline.swift", line, f"[1, {sizes.ids}]")
    return (
        *found,
        Tensor("text_embeds", (2, sizes.pooled), Cited(_UNET, 173, "text_embeds")),
        Tensor("time_ids", (2, sizes.ids), ids),
    )


def _unet_output(sizes: Sizes) -> Tensor:
    shape = (2, LATENT_CHANNELS, sizes.latents, sizes.latents)
    line = 187 if sizes.ids else 128
    return Tensor(ANY, shape, Cited(_UNET, line, "featureNames.first"))
