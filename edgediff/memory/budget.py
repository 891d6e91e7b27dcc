"""The budget of a pipeline: planned for each call, applied to its parts, measured at its end."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgediff import runtime as runtimes
from edgediff.bundle import Bundle
from edgediff.errors import ResourceError, UnsupportedError
from edgediff.machine import peak_rss
from edgediff.memory import heap, needs
from edgediff.memory.amount import parse, shown
from edgediff.memory.needs import Network
from edgediff.memory.plan import Loading, Plan, Stage, TooLittle, decoding, staged
from edgediff.roles import parse_devices, parse_precision

if TYPE_CHECKING:
    from edgediff import tasks

_IMPORTS = 60_000_000  # what a run still imports once it is planned, and Python's own garbage
_PER_PIXEL = 64  # bytes of a finished picture in its several forms
_SPARE = 1.04  # by which an estimate may be low


class MemoryExceeded(UserWarning):
    """A run took more memory than its budget."""


class Budget:
    """Bytes for the whole process, and the plan that a call made of them.

    Args:
        most: the budget in bytes.
        bundle: what is run.
    """

    runtime = "sequence"

    def __init__(self, most: int, bundle: Bundle) -> None:
        self.most = most
        self.plan: Plan | None = None
        self._bundle = bundle
        self._files: dict[Path, Any] = {}
        self._base: int | None = None
        heap.hold()

    @staticmethod
    def asked(amount: str | int, bundle: Bundle, runtime: str, device: str, precision: str | None) -> Budget:
        """Return the budget that a pipeline was asked to keep.

        Raises:
            InputError: the amount is none.
            UnsupportedError: no budget can be planned for that runtime, device or precision.
        """
        most = parse(amount)
        supported(runtimes.chosen(runtime, bundle), parse_devices(device), parse_precision(precision))
        return Budget(most, bundle)

    def prepare(self, asked: tasks.Request) -> Plan:
        """Plan a checked call, before anything is loaded for it.

        Raises:
            ResourceError: the budget is too little; the message has the least, and what would lower it.
        """
        heap.trim()
        taken = peak_rss()
        if taken is None:
            raise ResourceError(
                "memory: this system does not say what a process takes, so none can be held; leave it out."
            )
        if taken > self.most:
            raise ResourceError(
                f"memory: {shown(self.most)} were allowed, and this process took {shown(taken)} already; "
                "allow more, or draw in a process of its own."
            )
        call = asked.call
        pixels = call.size["height"] * call.size["width"] * call.batch
        if self._base is None:
            self._base = heap.resident(taken) + _IMPORTS
        base = self._base + _PER_PIXEL * pixels
        room = int(self.most / _SPARE)
        loading: dict[str, Loading] = {}
        peaks: dict[str, int] = {}
        least: list[TooLittle] = []
        stages = self._stages(asked)
        for stage in stages:
            try:
                chosen, peaks[stage.name] = staged(stage, base, room)
                loading |= chosen
            except TooLittle as error:
                least.append(error)
        tile = None
        try:
            chosen, peaks["decoding"], tile = self._decoding(asked, base, room)
            loading |= chosen
        except TooLittle as error:
            least.append(error)
        if least:
            raise self._refused(max(least, key=lambda each: each.least), asked)
        self.plan = Plan(self.most, base, loading, peaks, tile=tile)
        every = [network for stage in stages for network in stage.networks]
        kept = self._kept([*every, self._decoder(asked, tile)], base, room)
        if kept is not None:
            self.plan = Plan(self.most, base, kept[0], {"everything": kept[1]}, keep=True, tile=tile)
        return self.plan

    def _kept(
        self, networks: Sequence[Network], base: int, room: int
    ) -> tuple[dict[str, Loading], int] | None:
        """How all networks are loaded to stay, and the peak; None where they do not fit beside each other."""
        try:
            loading, peak = staged(Stage("everything", tuple(networks)), base, room)
        except TooLittle:
            return None
        return (loading, peak) if all(each.resident is None for each in loading.values()) else None

    def _refused(self, worst: TooLittle, asked: tasks.Request) -> ResourceError:
        call = asked.call
        less = [f"a smaller size than {call.size['width']}x{call.size['height']}"]
        if call.batch > 1:
            less.append("fewer pictures at once")
        if worst.stage == "decoding":
            less.append("--decoder tiny, where the bundle has one")
        precisions = {s.precision for specs in self._bundle.components.values() for s in specs}
        if not any(p.startswith(("int8", "mixed", "int4")) for p in precisions):
            less.append("a bundle exported with --quantize int8")
        return ResourceError(
            f"memory: {shown(self.most)} were allowed, and {worst.stage} needs {shown(worst.least * _SPARE)} "
            f"at the least; allow that much, or ask for {' or '.join(less)}."
        )

    def _network(self, role: str, rows: int, extents: Mapping[str, int]) -> Network:
        spec = self._bundle.graph(role, "onnxruntime", "cpu")
        file = self._bundle.path / spec.file
        if file not in self._files:
            self._files[file] = needs.reader(file)
        cut = self._files[file]
        tokens = 77 if self._bundle.text is None else self._bundle.text.length
        return Network(role, needs.values(role, cut(0), rows, extents, tokens), cut)

    def _stages(self, asked: tasks.Request) -> list[Stage]:
        call = asked.call
        size = dict(call.size)
        factors = self._bundle.latents.downscale
        latents = {axis: -(-size[axis] // factors[axis]) for axis in factors}
        branches = 3 if hasattr(asked, "image_guidance_scale") else 2 if call.guided else 1
        rows = call.batch * branches
        found = [
            Stage(role, (self._network(role, call.count * (2 if call.guided else 1), size),))
            for role in self._bundle.text_roles
        ]
        if "encoder" in self._bundle.components and hasattr(asked, "pictures"):
            found.append(Stage("encoding", (self._network("encoder", call.batch, size),)))
        networks = tuple(self._network(role, rows, latents) for role in call.denoisers)
        return [*found, Stage("denoising", networks)]

    def _decoding(
        self, asked: tasks.Request, base: int, room: int
    ) -> tuple[dict[str, Loading], int, int | None]:
        call = asked.call
        factors = self._bundle.latents.downscale

        def decoder(height: int, width: int) -> Network:
            return self._decoder(asked, None, (height, width))

        return decoding(decoder, call.size, factors, base, room, call.savings.tile)

    def _decoder(
        self, asked: tasks.Request, tile: int | None, window: tuple[int, int] | None = None
    ) -> Network:
        """The decoder for a window, or tiles of a side; these are decoded one picture at a time."""
        call = asked.call
        whole = call.size["height"], call.size["width"]
        role = "tiny_decoder" if call.savings.decoder == "tiny" else "decoder"
        if window is None:
            window = whole if tile is None else (min(whole[0], tile), min(whole[1], tile))
        rows = call.batch if window == whole else 1
        return self._network(role, rows, {"height": window[0], "width": window[1]})

    def options(self, role: str) -> dict[str, Any]:
        """Return how a role is loaded, as options of the runtime ``sequence``."""
        loading = Loading() if self.plan is None else self.plan.loading.get(role, Loading(needs.STRETCHES[0]))
        return {"stretch": loading.stretch, "resident": loading.resident}

    def leaving(self, role: str, loaded: Sequence[str]) -> list[str]:
        """Return which of the loaded roles are let go before ``role`` is loaded."""
        if self.plan is not None and self.plan.keep:
            return []
        return [each for each in loaded if not (_steps(each) and _steps(role))]

    def told(self) -> dict[str, Any]:
        """Return budget, what was expected and what the process took at most, in bytes."""
        plan = self.plan
        return {
            "budget": self.most,
            "expected": None if plan is None else plan.peak,
            "peak": peak_rss(),
            "tile": None if plan is None else plan.tile,
            "stretches_loaded_each_step": None
            if plan is None
            else _streamed(plan, self._files, self._bundle),
        }

    def check(self) -> None:
        """Warn, with MemoryExceeded, if the process took more than the budget."""
        taken = peak_rss()
        if taken is not None and taken > self.most:
            warnings.warn(
                f"memory: {shown(self.most)} were allowed, and {shown(taken)} taken; the result is whole.",
                MemoryExceeded,
                stacklevel=2,
            )


def supported(runtime: str, devices: Mapping[str, str], precisions: Mapping[str, str]) -> None:
    """Refuse what no budget can be planned for.

    Raises:
        UnsupportedError: another runtime than ONNX Runtime's CPU provider was asked for.
    """
    named = sorted({each for each in devices.values() if each not in ("auto", "cpu")})
    named += sorted({each for each in precisions.values() if each != "fp32"})
    if runtime != "onnxruntime" or named:
        raise UnsupportedError(
            f"memory: a budget is planned for ONNX Runtime on the cpu, not for {', '.join(named) or runtime}"
            "; leave that out, or the budget."
        )


def _steps(role: str) -> bool:
    """Whether a role runs in each step."""
    return role.startswith("control") or role == "denoiser"


def _streamed(plan: Plan, files: Mapping[Path, Any], bundle: Bundle) -> dict[str, int]:
    found = {}
    for role, loading in plan.loading.items():
        file = bundle.path / bundle.graph(role, "onnxruntime", "cpu").file
        if loading.resident is not None and file in files:
            found[role] = len(files[file](loading.stretch).stretches) - loading.resident
    return found
