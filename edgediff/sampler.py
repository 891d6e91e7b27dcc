"""Samplers: what they are, and how one is found by name or by a diffusers ``scheduler_config.json``.

A sampler is a generator function that walks a schedule and yields a :class:`Step` per hop. It sees only clean
predictions (see :mod:`edgediff.denoise`); its state is local variables; progress, previews and cancelling are
the caller's ``for``. Each family is one file in :mod:`edgediff.samplers` with ``DEFAULTS`` (the diffusers
class's own), ``schedule(config, request)`` and ``sampler(config)``.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edgediff.errors import BundleError, EdgediffError, InputError, UnsupportedError
from edgediff.noise import Noise
from edgediff.schedule import Config, Point, Request, Schedule

Array = NDArray[np.float32]
Denoiser = Callable[[Array, Point], Array]
"""A noisy sample at a point -> the clean sample that the network predicts, same shape."""


class Step(NamedTuple):
    """One hop done: its index, the sample after it and the clean prediction it used."""

    i: int
    x: Array
    clean: Array


class Sampler(Protocol):
    """A generator function over hops; it draws from ``noise`` only what its mathematics needs, in order."""

    def __call__(self, denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]: ...


class Solver(NamedTuple):
    """A sampler family bound to one configuration; ``conversion`` says what the network's output means."""

    name: str
    config: Config
    schedule: Callable[[Request], Schedule]
    sampler: Sampler
    conversion: Callable[[Point], Any]


_KARRAS = {"use_karras_sigmas": True}
_SDE = {"algorithm_type": "sde-dpmsolver++"}
_MULTISTEP = ("dpmpp", "DPMSolverMultistepScheduler")
_FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "consistency": ("consistency", "CMStochasticIterativeScheduler", {}),
    "cosine_dpmpp": ("cosine_dpmpp", "CosineDPMSolverMultistepScheduler", {}),
    "ddim": ("ddim", "DDIMScheduler", {}),
    "ddpm": ("ddpm", "DDPMScheduler", {}),
    "deis": ("deis", "DEISMultistepScheduler", {}),
    "dpmpp_2m": (*_MULTISTEP, {}),
    "dpmpp_2m_karras": (*_MULTISTEP, _KARRAS),
    "dpmpp_2m_sde": (*_MULTISTEP, _SDE),
    "dpmpp_2m_sde_karras": (*_MULTISTEP, {**_SDE, **_KARRAS}),
    "dpmpp_3m": (*_MULTISTEP, {"solver_order": 3}),
    "dpmpp_3m_sde": (*_MULTISTEP, {"solver_order": 3, **_SDE}),
    "dpmpp_2s": ("dpmpp_singlestep", "DPMSolverSinglestepScheduler", {}),
    "edm_dpmpp": ("edm_dpmpp", "EDMDPMSolverMultistepScheduler", {}),
    "edm_euler": ("edm_euler", "EDMEulerScheduler", {}),
    "euler": ("euler", "EulerDiscreteScheduler", {}),
    "euler_karras": ("euler", "EulerDiscreteScheduler", _KARRAS),
    "euler_ancestral": ("euler_ancestral", "EulerAncestralDiscreteScheduler", {}),
    "flow_euler": ("flow_euler", "FlowMatchEulerDiscreteScheduler", {}),
    "flow_heun": ("flow_heun", "FlowMatchHeunDiscreteScheduler", {}),
    "flow_lcm": ("flow_lcm", "FlowMatchLCMScheduler", {}),
    "heun": ("heun", "HeunDiscreteScheduler", {}),
    "heun_karras": ("heun", "HeunDiscreteScheduler", _KARRAS),
    "ipndm": ("ipndm", "IPNDMScheduler", {}),
    "kdpm2": ("kdpm2", "KDPM2DiscreteScheduler", {}),
    "kdpm2_ancestral": ("kdpm2_ancestral", "KDPM2AncestralDiscreteScheduler", {}),
    "lcm": ("lcm", "LCMScheduler", {}),
    "lms": ("lms", "LMSDiscreteScheduler", {}),
    "lms_karras": ("lms", "LMSDiscreteScheduler", _KARRAS),
    "pndm": ("pndm", "PNDMScheduler", {}),
    "sa_solver": ("sa_solver", "SASolverScheduler", {}),
    "scm": ("scm", "SCMScheduler", {}),
    "tcd": ("tcd", "TCDScheduler", {}),
    "unipc": ("unipc", "UniPCMultistepScheduler", {}),
}
"""Name -> (module, diffusers class, options that the name itself sets)."""


def names() -> tuple[str, ...]:
    """Return the names that :func:`find` takes."""
    return tuple(sorted(_FAMILIES))


def scheduler_class(name: str) -> str:
    """Return the diffusers class whose configuration the sampler ``name`` reads."""
    return _FAMILIES[name][1]


def module_of(name: str) -> str:
    """Return the module that holds the sampler ``name``."""
    return f"edgediff.samplers.{_FAMILIES[name][0]}"


def name_of(scheduler_class: str) -> str:
    """Return the sampler that a diffusers scheduler class names.

    Raises:
        UnsupportedError: no family reads that class.
    """
    for name, (_, class_name, _) in _FAMILIES.items():
        if class_name == scheduler_class:
            return name
    known = ", ".join(sorted({row[1] for row in _FAMILIES.values()}))
    raise UnsupportedError(
        f"scheduler {scheduler_class!r} has no sampler here; edgediff reads {known}. "
        f"Name another sampler with --sampler: {', '.join(names())}."
    )


def defaults_of(scheduler_class: str) -> dict[str, Any]:
    """Return the constructor's defaults of a diffusers scheduler class; empty where no family reads it."""
    for name, (_, class_name, _) in _FAMILIES.items():
        if class_name == scheduler_class:
            return dict(importlib.import_module(module_of(name)).DEFAULTS)
    return {}


def find(config: Mapping[str, Any], name: str | None = None, **options: Any) -> Solver:
    """Return the sampler ``name`` for a diffusers scheduler configuration.

    Without ``name`` the configuration's own ``_class_name`` decides. As diffusers' ``from_config`` does,
    values that the file marks as mere defaults of another class (``_use_default_values``) are not carried
    over, and keys of other families are ignored. ``options`` overrides single keys (``eta=0.5``).

    Raises:
        InputError: the name or an option is unknown.
        BundleError: the configuration has no class name, or a value that no family reads.
    """
    own_class = config.get("_class_name")
    if name is None:
        if not isinstance(own_class, str):
            raise BundleError(
                "scheduler config: _class_name is missing, so no sampler can be chosen; name one."
            )
        name = name_of(own_class)
    if name not in _FAMILIES:
        raise InputError(f"sampler {name!r} is unknown; choose one of {', '.join(names())}.")
    _, class_name, preset = _FAMILIES[name]
    family = importlib.import_module(module_of(name))
    defaults: dict[str, Any] = dict(family.DEFAULTS)
    stale = set(config.get("_use_default_values") or ()) if own_class != class_name else set()
    carried = {k: v for k, v in config.items() if k in defaults and k not in stale}
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise InputError(
            f"sampler {name}: {', '.join(unknown)} is no option of it; it takes {', '.join(defaults)}."
        )
    merged = {**defaults, **carried, **preset, **options}
    _check_kinds(name, merged, defaults)
    for key, supported in family.SUPPORTED.items():
        if merged[key] not in supported:
            raise UnsupportedError(
                f"sampler {name}: {key}={merged[key]!r} is not implemented; it takes "
                f"{', '.join(map(str, supported))}."
            )
    from edgediff import denoise  # which needs this module's types

    if hasattr(family, "conversion"):  # families whose networks mean something of their own
        conversion = family.conversion(merged)
    else:
        conversion = denoise.conversion(merged["prediction_type"])

    def schedule(request: Request) -> Schedule:
        with _sound(name):
            found: Schedule = family.schedule(merged, request)
        if not all(math.isfinite(v) for hop in found.hops for point in hop for v in point):
            raise BundleError(
                f"sampler {name}: {len(found.hops)} steps of this configuration are not finite."
            )
        return found

    with _sound(name):
        walk: Sampler = family.sampler(merged)
    return Solver(name, merged, schedule, walk, conversion)


def _check_kinds(name: str, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse values of another kind than the option has: words for numbers, numbers for yes and no."""
    for key, default in defaults.items():
        value, kinds = config[key], None
        if isinstance(default, bool):
            kinds = "true or false", isinstance(value, (bool, int)) and value in (0, 1)
        elif isinstance(default, (int, float)):
            kinds = "a number", isinstance(value, (int, float)) and not isinstance(value, bool)
        elif isinstance(default, str):
            kinds = "a word", isinstance(value, str)
        if kinds is not None and value is not None and not kinds[1]:
            raise BundleError(f"sampler {name}: {key} is {value!r:.40}; it must be {kinds[0]}.")
    total = config.get("num_train_timesteps", 1)
    if not isinstance(total, int) or not 1 <= total <= 1_000_000:
        raise BundleError(f"sampler {name}: num_train_timesteps is {total!r:.40}; it must be 1 to 10^6.")


@contextlib.contextmanager
def _sound(name: str) -> Iterator[None]:
    """Whatever arithmetic a configuration breaks, say that it is the configuration's fault."""
    try:
        with np.errstate(all="ignore"):
            yield
    except EdgediffError:
        raise
    except (ArithmeticError, ValueError, TypeError, IndexError, MemoryError, np.linalg.LinAlgError) as error:
        raise BundleError(
            f"sampler {name}: its configuration makes no schedule ({type(error).__name__}: {error})."
        ) from error
