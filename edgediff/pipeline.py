"""The facade for people who come from diffusers: ``edgediff.load(...)``, then call it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

from edgediff import embeddings, hub, media, tasks
from edgediff import latents as autoencoder
from edgediff.bundle import Bundle
from edgediff.opened import EMBEDDED as EMBEDDED
from edgediff.opened import Opened
from edgediff.output import Output, check_output, replace
from edgediff.runtime import Tensor
from edgediff.sampler import Step
from edgediff.tasks import text2image
from edgediff.tasks import texts as texts_of
from edgediff.tasks.call import Shared

Callback = Callable[["Pipeline", int, float, dict[str, Any]], dict[str, Any] | None]
"""``callback(pipe, i, t, {"latents": ...})``; what it returns as ``latents`` goes on."""


class Pipeline(Opened):
    """A bundle ready to draw. One call at a time; :meth:`cancel` may come from any thread.

    Args:
        bundle: folder of the bundle, or an opened one; the embedded model unless given.
        device: ``auto``, ``cpu``, ``cuda``, ``coreml``, ``openvino``, ``webgpu``, or by part
            (``denoiser=cuda,decoder=cpu``). A device that is named is used or is an error; ``auto`` is what a
            short measurement found fastest (:mod:`edgediff.probe`; always the CPU for small models), or what
            packages of Core ML were made for; they take ``coreml-ne``, ``-gpu``, ``-cpu``.
        runtime: a runtime outright (``onnxruntime``, ``coreml``, ``mil``, ``null``, ``recorded``).
        threads: threads inside a graph; the cores this process may use unless given.
        verify: compare each file's sha256 with the manifest before its first use. With a cache, a large file
            that did not change since it was compared is not read again (:mod:`edgediff.digests`).
        precision: what graphs of float32 are computed in, ``fp32`` or ``bf16``, or by part
            (``denoiser=bf16,decoder=fp32``). A device that cannot is an error. fp32 unless given, except that
            the device ``auto`` may choose bf16, with a warning.
        cache: folder for compiled graphs, digests of files and choices of a device; False keeps nothing, and
            unless given it is the user's own (:mod:`edgediff.cache_folder`).
        memory: the most that this process may take (``1.5GB``, ``800MB``, or bytes), what it took before
            and mapped files included; a call that needs more is refused before it begins. On the CPU alone;
            the device ``auto`` is then the CPU. See :mod:`edgediff.memory`.

    Raises:
        BundleError, UnsupportedError: the bundle cannot be read.
        InputError: an argument is wrong.
    """

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
            guidance_interval: shares of the steps, such as (0.2, 0.8), in which guidance is applied
                (Kynkaanniemi et al., 2024); the other steps make one pass in the place of two.
            step_cache: 2 to 10; the whole network runs at every N-th step, its outermost layers at the
                others (DeepCache, Ma et al., 2024): for 12 steps or more, and bundles exported for it.
            decoder: ``full``, or ``tiny`` (AutoencoderTiny) where the bundle has one beside it.
            tile_decode: ``auto`` (the whole picture, unless memory is budgeted), ``off``, or the side in
                pixels of the tiles that are decoded one at a time.
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
        check_output(output_type, callback_on_step_end_tensor_inputs)
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

        check_output(output_type, callback_on_step_end_tensor_inputs)
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

        check_output(output_type, callback_on_step_end_tensor_inputs)
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

        check_output(output_type, callback_on_step_end_tensor_inputs)
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
            self._expect(asked)
            plan = tasks.plan(self._parts, asked)
            images: Any = plan.x
            for step in plan:
                if callback is not None:
                    _told(callback, self, plan.schedule.hops[step.i][0].t, step)
                images = step.x
                self._parts.check_cancelled()
            if output_type != "latent":
                images = tasks.finished(asked, media.unit_range(plan.decode(images)))
                images = media.to_pil(images) if output_type == "pil" else images
        self.check_memory()
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
            self._expect(asked)
            for step in tasks.plan(self._parts, asked):
                yield step
                self._parts.check_cancelled()

    def _expect(self, asked: tasks.Request) -> None:
        call = asked.call
        self._parts.expect(call.size, call.texts.syntax == "plain")
        self._parts.plan_memory(asked)

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

    def decode(
        self,
        latents: Tensor,
        output_type: str = "pil",
        *,
        decoder: str = "full",
        tile_decode: str | int | None = "auto",
        progress: Callable[[int, int], None] | None = None,
    ) -> Any:
        """Decode latents of a step or of ``output_type="latent"`` to pictures.

        ``decoder`` and ``tile_decode`` as for a call (None is ``off``); ``progress`` is told tiles done and
        tiles in all.
        """
        tile = None if tile_decode == "off" else tile_decode
        pictures = media.unit_range(autoencoder.decode(self._parts, latents, decoder, tile, progress))
        return media.to_pil(pictures) if output_type == "pil" else pictures

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the latents (B, C, h, w) of pictures in [-1, 1], shape (B, 3, H, W): the posterior's
        mean."""
        return autoencoder.encode(self._parts, pictures)


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


def _told(callback: Callback, pipe: Pipeline, t: float, step: Step) -> None:
    """Call back after a step, and let what it returns take the place of the latents."""
    returned = callback(pipe, step.i, t, {"latents": step.x})
    replace(step.x, None if returned is None else returned.get("latents"))
