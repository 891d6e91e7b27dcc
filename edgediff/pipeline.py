"""The facade for people who come from diffusers: ``edgediff.load(...)``, then call it."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from edgediff import embeddings, hub, media, tasks
from edgediff import latents as autoencoder
from edgediff.bundle import Bundle
from edgediff.errors import BusyError, InputError
from edgediff.parts import Parts
from edgediff.plan import Plan
from edgediff.runtime import GraphInfo, Tensor
from edgediff.sampler import Step
from edgediff.tasks import text2image
from edgediff.tasks import texts as texts_of
from edgediff.tasks.call import Shared

if TYPE_CHECKING:
    from edgediff.tasks.request import Seeds

OUTPUT_TYPES = ("pil", "np", "latent")
Callback = Callable[["Pipeline", int, float, dict[str, Any]], dict[str, Any] | None]
"""``callback(pipe, i, t, {"latents": ...})``; what it returns as ``latents`` goes on."""
EMBEDDED = Path(__file__).parent / "bundles" / "shapes"


@dataclass(frozen=True, slots=True)
class Output:
    """What a call returns. Indexing gives diffusers' tuple: ``output[0]`` is ``output.images``.

    ``images``: PIL images (``pil``), an array (B, H, W, 3) in [0, 1] (``np``), or latents (``latent``).
    ``seed``: the seed or seeds used, also when none was given. ``timings``: seconds by stage.
    """

    images: Any
    seed: Seeds
    timings: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, index: int) -> Any:
        return (self.images,)[index]


class Pipeline:
    """A bundle ready to draw. One call at a time; :meth:`cancel` may come from any thread.

    Args:
        bundle: folder of the bundle, or an opened one; the embedded model unless given.
        device: ``auto``, ``cpu``, ``cuda``, ``coreml``, ``openvino``, ``webgpu``, or by part
            (``denoiser=cuda,decoder=cpu``). A device that is named is used or is an error; ``auto`` is the
            CPU, or what packages of Core ML were made for; they take ``coreml-ne``, ``-gpu``, ``-cpu``.
        runtime: a runtime outright (``onnxruntime``, ``coreml``, ``mil``, ``null``, ``recorded``).
        threads: threads inside a graph; the cores this process may use unless given.
        verify: compare each file's sha256 with the manifest before its first use.

    Raises:
        BundleError, UnsupportedError: the bundle cannot be read.
        InputError: an argument is wrong.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | None = None,
        *,
        device: str = "auto",
        runtime: str = "auto",
        threads: int | None = None,
        verify: bool = True,
    ) -> None:
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise InputError(f"threads: {threads!r} is not a whole number of 1 or more.")
        if bundle is None and not EMBEDDED.is_dir():
            raise InputError(
                "no bundle was named, and this installation carries no embedded model; name one."
            )
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(EMBEDDED if bundle is None else bundle)
        self._parts = Parts(opened, device, runtime, {"threads": threads}, verify)
        self._busy = threading.Lock()

    @property
    def bundle(self) -> Bundle:
        """The opened bundle."""
        return self._parts.bundle

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        fit: str | None = None,
        background: Any = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **arguments: Unpack[Shared],
    ) -> Output:
        """Draw pictures from text. Arguments as in diffusers; what is not given comes from the bundle's
        defaults.

        Args:
            prompt: a text or a list of them (at most 64, 16 KiB each).
            negative_prompt: what to keep away from; one for all, or one each. Needs guidance above 1.
            num_inference_steps: 1 to 1000. Or ``timesteps`` (falling), or ``sigmas`` (falling, last one 0).
            guidance_scale: 0 to 100; 1 means none. Networks distilled with guidance get it as an embedding.
            guidance_rescale: 0 to 1 (Lin et al., 2023, section 3.4).
            height, width: pixels, multiples of the model's factor.
            num_images_per_prompt: pictures of each prompt, next to each other in the result.
            seed: one for the whole batch (as one torch generator), or one per picture; random unless given.
            noise: ``torch`` (diffusers' with a CPU generator), ``philox`` (with one on an NVIDIA card), or
                ``numpy``.
            latents: standard normal start, shape (B, C, h, w), instead of noise from the seed.
            sampler: ``ddim``, ``euler``, ``dpmpp_2m_karras``, ``lcm``, ...; the bundle's own unless given.
            eta: 0 to 1, a share of fresh noise, for samplers that take one.
            clip_skip: leave out that many of the text encoder's last layers.
            prompt_syntax: ``plain`` (every character is text, what does not fit is dropped with a warning) or
                ``a1111`` (weights as ``(word:1.2)``, ``[word]``, BREAK; long prompts in chunks).
            prompt_embeds, negative_prompt_embeds: what :meth:`encode_prompt` gave, instead of texts; of a
                pair the first half; ``pooled_prompt_embeds``, ``negative_pooled_...`` are the second.
            prompt_2, negative_prompt_2: other texts for the second text encoder, where there is one.
            original_size, crops_coords_top_left, target_size: pairs, height (top) first, that SDXL is told;
                the result's size and (0, 0) unless given. ``negative_`` before a name: for the negatives.
            aesthetic_score, negative_aesthetic_score: what the SDXL refiner is told (6.0 and 2.5).
            denoising_start, denoising_end: begin or stop part way, as shares of the whole; ``latents`` are
                then those that a call with ``denoising_end`` and ``output_type="latent"`` returned.
            control_image: what a ControlNet is steered by: a picture, or a list with one for each prompt; its
                size is drawn unless ``height`` and ``width`` are given. With several ControlNets a list with
                a picture for each, or for each prompt such a list.
            controlnet_conditioning_scale: 0 to 10, how much it counts (1 unless given, whatever the task);
                one number, or one for each ControlNet.
            control_guidance_start, control_guidance_end: shares of the steps between which it counts.
            guess_mode: let the control picture alone say what is drawn.
            fit, background: for control pictures; see :meth:`image2image`.
            output_type: ``pil``, ``np`` or ``latent``.
            callback_on_step_end: called as ``callback(pipe, i, t, {"latents": ...})`` after each step; a
                dictionary with ``latents`` that it returns replaces them.

        Raises:
            InputError: an argument is wrong; nothing was loaded.
            NumericError: NaN or Inf, with stage and step.
            CancelledError: :meth:`cancel` was called.
            BusyError: another thread is drawing with this pipeline.
        """
        _check_output(output_type, callback_on_step_end_tensor_inputs)
        call = text2image.request(self.bundle, prompt, fit=fit, background=background, **arguments)
        return self.draw(call, output_type, callback_on_step_end)

    def image2image(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        *,
        strength: float = 0.8,
        fit: str | None = None,
        background: Any = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **arguments: Unpack[Shared],
    ) -> Output:
        """Draw pictures from text and a picture to start from. Other arguments as for a call.

        Args:
            image: a file, bytes, a PIL image, an array (H, W, 3), or a list of them, one for each prompt.
                Its size is drawn unless ``height`` and ``width`` are given. Or latents, array (B, C, h, w):
                with ``denoising_start`` those of a call with ``denoising_end`` (a base model's, to refine).
            strength: above 0 (keep all) to 1 (keep nothing); int(steps * strength) steps are walked.
            fit: ``resize``, ``crop`` or ``fill``, to draw another size than the picture's; else that is an
                error.
            background: colour behind transparent pixels, which are an error without it.
        """
        from edgediff.tasks import image2image

        _check_output(output_type, callback_on_step_end_tensor_inputs)
        asked = image2image.request(
            self.bundle, prompt, image, strength=strength, fit=fit, background=background, **arguments
        )
        return self.draw(asked, output_type, callback_on_step_end)

    def inpaint(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        mask_image: Any = None,
        *,
        strength: float = 1.0,
        mask_blur: float = 0.0,
        padding_mask_crop: int | None = None,
        keep_unmasked: bool = False,
        fit: str | None = None,
        background: Any = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **arguments: Unpack[Shared],
    ) -> Output:
        """Draw a part of a picture anew. Other arguments as for a call and for :meth:`image2image`.

        Args:
            mask_image: white (1) is drawn anew, black (0) is kept; the picture's size. What the network draws
                is cut at one half.
            mask_blur: radius, in pixels, of a Gaussian blur of the mask; softens the edge where the result is
                laid over the original.
            padding_mask_crop: draw only the region around the mask and this many pixels more, at the full
                size, and put it back: the result has the original's size.
            keep_unmasked: lay the result over the original, so that pixels where the mask is 0 stay as they
                are, byte for byte (always so with ``padding_mask_crop``).
        """
        from edgediff.tasks import inpaint

        _check_output(output_type, callback_on_step_end_tensor_inputs)
        asked = inpaint.request(
            self.bundle, prompt, image, mask_image, strength=strength, mask_blur=mask_blur,
            padding_mask_crop=padding_mask_crop, keep_unmasked=keep_unmasked, fit=fit, background=background,
            **arguments,
        )  # fmt: skip
        return self.draw(asked, output_type, callback_on_step_end)

    def instruct(
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        *,
        image_guidance_scale: float = 1.5,
        fit: str | None = None,
        background: Any = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **arguments: Unpack[Shared],
    ) -> Output:
        """Change a picture as a text says, with a model made for it (InstructPix2Pix). Other arguments as for
        a call and for :meth:`image2image`.

        Args:
            image: the picture to change, or a list with one for each prompt. Pictures drawn from one prompt
                stand next to each other, and all of them change that prompt's picture.
            image_guidance_scale: 0 to 100; how much the result keeps of the picture. Below 1 nothing is
                guided, by the text neither, as in diffusers.
        """
        from edgediff.tasks import instruct

        _check_output(output_type, callback_on_step_end_tensor_inputs)
        asked = instruct.request(
            self.bundle, prompt, image, image_guidance_scale=image_guidance_scale, fit=fit,
            background=background, **arguments,
        )  # fmt: skip
        return self.draw(asked, output_type, callback_on_step_end)

    def draw(
        self, asked: tasks.Request, output_type: str = "pil", callback: Callback | None = None
    ) -> Output:
        """Walk a checked request to its end; what the calls above are made of."""
        with self._alone():
            plan = tasks.plan(self._parts, asked)
            images: Any = plan.x
            for step in plan:
                if callback is not None:
                    _told(callback, self, plan, step)
                images = step.x
                self._parts.check_cancelled()
            if output_type != "latent":
                images = tasks.finished(asked, media.unit_range(plan.decode(images)))
                images = media.to_pil(images) if output_type == "pil" else images
        return Output(images, asked.seed, self.timings)

    def stream(self, prompt: str | Sequence[str] | None = None, **arguments: Any) -> Iterator[Step]:
        """Yield a :class:`~edgediff.sampler.Step` per denoising step; arguments as for a call.

        With ``image`` it is image to image (an instruction for models made for it), with ``mask_image``
        inpainting. ``pipe.decode(step.clean)`` is a preview and ``pipe.decode(step.x)`` after the last step
        is the result. The arguments are checked by the call itself, before the first step is asked for.
        Writing into ``step.x`` changes what comes next. The pipeline stays busy until the iterator ends or is
        closed.
        """
        return self.walk(tasks.checked(self.bundle, prompt, **arguments))

    def walk(self, asked: tasks.Request) -> Iterator[Step]:
        """Yield the steps of a request that was checked before; what :meth:`stream` is made of."""
        with self._alone():
            for step in tasks.plan(self._parts, asked):
                yield step
                self._parts.check_cancelled()

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        *,
        prompt_2: str | Sequence[str] | None = None,
        prompt_syntax: str = "plain",
        clip_skip: int | None = None,
    ) -> Any:
        """Return the embeddings (prompts, tokens, width) of texts, for ``prompt_embeds``.

        A model that reads pooled vectors as well (SDXL) gets a pair: those embeddings, and the vectors
        (prompts, width) for ``pooled_prompt_embeds``.
        """
        texts = texts_of.checked(
            self.bundle, prompt, 1.0, prompt_2=prompt_2, prompt_syntax=prompt_syntax, clip_skip=clip_skip
        )
        with self._alone():
            made = embeddings.encode(
                self._parts, texts.prompts, prompts_2=texts.prompts_2, syntax=texts.syntax,
                clip_skip=texts.clip_skip,
            )  # fmt: skip
        return made.hidden if made.pooled is None else (made.hidden, made.pooled)

    def decode(self, latents: Tensor, output_type: str = "pil") -> Any:
        """Decode latents of a step or of ``output_type="latent"`` to pictures."""
        pictures = media.unit_range(autoencoder.decode(self._parts, latents))
        return media.to_pil(pictures) if output_type == "pil" else pictures

    def cancel(self) -> None:
        """Stop the running call from another thread; it raises CancelledError and the pipeline can be used
        again."""
        self._parts.cancel()

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the latents (B, C, h, w) of pictures in [-1, 1], shape (B, 3, H, W): the posterior's
        mean."""
        return autoencoder.encode(self._parts, pictures)

    @property
    def timings(self) -> dict[str, float]:
        """Seconds by stage since the last call began."""
        return dict(self._parts.timings)

    def infos(self) -> dict[str, GraphInfo]:
        """Return what is loaded so far, by role, with provider and nodes per provider."""
        return self._parts.infos()

    def close(self) -> None:
        """Give all memory back."""
        self._parts.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise BusyError(
                "this pipeline is drawing already; make one per thread, or wait for the other call."
            )
        began = time.perf_counter()
        try:
            self._parts.start()
            yield
            self._parts.timings["total"] = time.perf_counter() - began
        finally:
            self._busy.release()


def load(bundle: str | Path | Bundle | None = None, **options: Any) -> Pipeline:
    """Open a bundle (the embedded model unless named) and return its :class:`Pipeline`; options as there.

    A text such as ``org/name`` or ``org/name@revision`` that is no path here names a bundle on the hub: it is
    taken from the hub's cache, or downloaded into it with a warning that says so.

    Raises:
        InputError, UnsupportedError, ResourceError: the hub has no such bundle, or cannot be reached.
    """
    if isinstance(bundle, str) and hub.is_hub_id(bundle):
        bundle = hub.fetch(bundle, say=lambda line: warnings.warn(line, stacklevel=5)).path
    return Pipeline(bundle, **options)


def _check_output(output_type: str, tensors: Sequence[str]) -> None:
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type: {output_type!r} is unknown; choose one of {', '.join(OUTPUT_TYPES)}.")
    if set(tensors) - {"latents"}:
        raise InputError(f"callback_on_step_end_tensor_inputs: {list(tensors)}; only latents are handed out.")


def _told(callback: Callback, pipe: Pipeline, plan: Plan, step: Step) -> None:
    """Call back after a step, and let what it returns take the place of the latents."""
    returned = callback(pipe, step.i, plan.schedule.hops[step.i][0].t, {"latents": step.x})
    latents = None if returned is None else returned.get("latents")
    if latents is not None and latents is not step.x:
        if np.shape(latents) != step.x.shape:
            raise InputError(
                f"callback_on_step_end: latents of shape {np.shape(latents)} cannot replace {step.x.shape}."
            )
        step.x[...] = latents
