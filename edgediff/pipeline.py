"""The facade for people who come from diffusers: ``edgediff.load(...)``, then call it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgediff import media
from edgediff.bundle import Bundle
from edgediff.errors import BusyError, InputError
from edgediff.parts import Parts
from edgediff.runtime import GraphInfo, Tensor
from edgediff.sampler import Step
from edgediff.tasks import text2image

if TYPE_CHECKING:
    from edgediff.tasks.request import Seeds

OUTPUT_TYPES = ("pil", "np", "latent")
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
            CPU.
        runtime: a runtime outright (``onnxruntime``, ``null``, ``recorded``).
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
        runtime: str = "onnxruntime",
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
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        latents: Tensor | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        output_type: str = "pil",
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
            latents: standard normal start, shape (B, C, h, w), instead of noise from the seed.
            sampler: ``ddim``, ``euler``, ``dpmpp_2m_karras``, ``lcm``, ...; the bundle's own unless given.
            eta: 0 to 1, DDIM's share of fresh noise.
            output_type: ``pil``, ``np`` or ``latent``.

        Raises:
            InputError: an argument is wrong; nothing was loaded.
            NumericError: NaN or Inf, with stage and step.
            CancelledError: :meth:`cancel` was called.
            BusyError: another thread is drawing with this pipeline.
        """
        if output_type not in OUTPUT_TYPES:
            raise InputError(
                f"output_type: {output_type!r} is unknown; choose one of {', '.join(OUTPUT_TYPES)}."
            )
        call = text2image.request(
            self.bundle, prompt, negative_prompt=negative_prompt, num_inference_steps=num_inference_steps,
            timesteps=timesteps, sigmas=sigmas, guidance_scale=guidance_scale, height=height, width=width,
            guidance_rescale=guidance_rescale, num_images_per_prompt=num_images_per_prompt, seed=seed,
            latents=latents, sampler=sampler, eta=eta,
        )  # fmt: skip
        with self._alone():
            plan = text2image.plan(self._parts, call)
            images: Any = plan.x
            for step in plan:
                images = step.x
                self._parts.check_cancelled()
            if output_type != "latent":
                images = media.unit_range(plan.decode(images))
                images = media.to_pil(images) if output_type == "pil" else images
        return Output(images, call.seed, self.timings)

    def stream(self, prompt: str | Sequence[str], **arguments: Any) -> Iterator[Step]:
        """Yield a :class:`~edgediff.sampler.Step` per denoising step; arguments as for a call.

        ``pipe.decode(step.clean)`` is a preview and ``pipe.decode(step.x)`` after the last step is the
        result. The arguments are checked by the call itself, before the first step is asked for. The pipeline
        stays busy until the iterator ends or is closed.
        """
        return self.walk(text2image.request(self.bundle, prompt, **arguments))

    def walk(self, call: text2image.Request) -> Iterator[Step]:
        """Yield the steps of a request that was checked before; what :meth:`stream` is made of."""
        with self._alone():
            for step in text2image.plan(self._parts, call):
                yield step
                self._parts.check_cancelled()

    def decode(self, latents: Tensor, output_type: str = "pil") -> Any:
        """Decode latents of a step or of ``output_type="latent"`` to pictures."""
        pictures = media.unit_range(text2image.decode(self._parts, latents))
        return media.to_pil(pictures) if output_type == "pil" else pictures

    def cancel(self) -> None:
        """Stop the running call from another thread; it raises CancelledError and the pipeline can be used
        again."""
        self._parts.cancel()

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the latents (B, C, h, w) of pictures in [-1, 1], shape (B, 3, H, W): the posterior's
        mean."""
        return text2image.encode_pictures(self._parts, pictures)

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
    """Open a bundle (the embedded model unless named) and return its :class:`Pipeline`; options as there."""
    return Pipeline(bundle, **options)
