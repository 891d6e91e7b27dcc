"""UniPC: Zhao et al. (2023, arXiv:2302.04867), theorem 3.1 (the corrector UniC) and corollary 3.2 (the
predictor UniP)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgediff import denoise as outputs
from edgediff.denoise import Conversion, Form, threshold_of
from edgediff.errors import BundleError, InputError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers._flow_levels import falling, shifted, shifted_by_size, stretched
from edgediff.schedule import Config, Floats, Point, Request, Schedule, alphas_cumprod, chained, spaced
from edgediff.sigmas import ZERO_SNR_LAST, last_sigma, respaced

DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "solver_order": 2, "prediction_type": "epsilon", "thresholding": False,
    "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0, "predict_x0": True, "solver_type": "bh2",
    "lower_order_final": True, "disable_corrector": [], "solver_p": None, "use_karras_sigmas": False,
    "use_exponential_sigmas": False, "use_beta_sigmas": False, "use_flow_sigmas": False, "flow_shift": 1.0,
    "timestep_spacing": "linspace", "steps_offset": 0, "final_sigmas_type": "zero", "rescale_betas_zero_snr":
    False, "use_dynamic_shifting": False, "time_shift_type": "exponential", "sigma_min": None, "sigma_max":
    None, "shift_terminal": None,
}  # fmt: skip
SUPPORTED = {
    "prediction_type": ("epsilon", "v_prediction", "sample", "flow_prediction"),
    "solver_p": (None,),
}
Held = tuple[Point, Array]
"""A point and what the network predicted there, as the clean sample or as the noise."""


def schedule(config: Config, request: Request) -> Schedule:
    """Points are variance preserving, or on flow matching's straight paths with ``use_flow_sigmas``.

    Karras, exponential and beta sigmas span the whole training table and end where they are told to end:
    ``sigma_min`` then means the last of them once more, so that the last hop goes nowhere (as in diffusers).
    """
    flow = bool(config["use_flow_sigmas"])
    if request.timesteps is not None:
        raise InputError("timesteps: this sampler takes a number of steps, or sigmas with use_flow_sigmas.")
    if config["shift_terminal"] and not flow:
        raise BundleError("scheduler config: shift_terminal needs use_flow_sigmas; add it or drop the shift.")
    products = alphas_cumprod(config)
    if config["rescale_betas_zero_snr"]:
        products[-1] = ZERO_SNR_LAST
    end = last_sigma(config, products)
    table = stored_table(products)
    levels = respaced_levels(config, table, request.steps)
    if request.sigmas is not None and (levels is not None or not flow):
        raise InputError("sigmas: they need use_flow_sigmas without Karras, exponential or beta sigmas.")
    if levels is None and flow:
        levels = _flow_levels(config, request)
    elif levels is not None and flow and config["use_karras_sigmas"]:
        sigmas = levels[1] / (levels[1] + 1)
        levels = np.floor(sigmas * config["num_train_timesteps"]), sigmas
    if levels is None:
        times = np.round(spaced(config, request.steps, extra=1))
        sigmas = np.interp(times, np.arange(len(table)), table)
    else:
        times, sigmas = levels
        end = 0.0 if end == 0 else float(sigmas[-1])
    return Schedule(1.0, chained(points(times, np.append(sigmas, end), flow)))


def _flow_levels(config: Config, request: Request) -> tuple[Floats, Floats]:
    total = config["num_train_timesteps"]
    if request.sigmas is not None:
        sigmas = falling("sigmas", request.sigmas, 1.0)
    else:
        sigmas = np.linspace(1, 1 / total, request.steps + 1)[:-1]
    if not config["use_dynamic_shifting"]:
        sigmas = shifted(sigmas, config["flow_shift"])
    elif request.mu is None:
        raise InputError("mu: use_dynamic_shifting is on, so the shift depends on the size; give mu.")
    else:
        sigmas = shifted_by_size(config, sigmas, request.mu)
    if config["shift_terminal"]:
        sigmas = stretched(sigmas, config["shift_terminal"])
    if abs(sigmas[0] - 1) < 1e-6:  # at 1 the signal is 0 and its logarithm infinite
        sigmas = np.append(sigmas[0] - 1e-6, sigmas[1:])
    return np.floor(sigmas * total), sigmas


def stored_table(products: Floats) -> Floats:
    """Return ``sigma / alpha`` per training timestep in the float32 values that diffusers computes."""
    rounded = products.astype(np.float32)
    table: Floats = np.sqrt((np.float32(1) - rounded) / rounded).astype(np.float64)
    return table


def respaced_levels(config: Config, table: Floats, steps: int) -> tuple[Floats, Floats] | None:
    """Return whole timesteps and sigmas, spaced after Karras, exponentially or by beta, or None.

    Timesteps come from log sigma in float32, because those that are cut to whole numbers (all but Karras's,
    which are rounded) depend on its last bit: the noisiest is told as 998 or 999.
    """
    sigmas = respaced(config, table[::-1], steps)
    if sigmas is None:
        return None
    logs = np.log(table).astype(np.float32).astype(np.float64)
    times = np.interp(np.log(np.maximum(sigmas, 1e-10)), logs, np.arange(len(table), dtype=np.float64))
    if not config["use_karras_sigmas"]:
        return np.floor(times), sigmas
    return np.round(times), sigmas


def points(times: Floats, sigmas: Floats, flow: bool) -> list[Point]:
    """Return the points of relative sigmas, or of flow sigmas, and of a last sigma that has no timestep."""
    if not np.all(np.diff(sigmas[:-1]) < 0):
        raise InputError(f"steps: {len(times)} are too many, neighbours fall on one level; ask for fewer.")
    if flow and not sigmas[0] < 1:
        raise BundleError(
            f"scheduler config: flow sigmas must be below 1, the first is {sigmas[0]:g}; set sigma_max, or "
            "drop use_exponential_sigmas or use_beta_sigmas."
        )
    made = []
    # Rounded as diffusers stores them: near a flow sigma of 1 its last bits are the first ones of alpha.
    for t, s in zip([*times, 0.0], sigmas.astype(np.float32).tolist(), strict=True):
        if flow:
            made.append(Point(float(t), 1 - s, s))
        else:
            alpha = 1 / math.sqrt(1 + s**2)
            made.append(Point(float(t), alpha, s * alpha))
    return made


def conversion(config: Config) -> Conversion:
    """With flow sigmas the network sees the sample as it is, whatever it predicts."""
    kind = config["prediction_type"]
    flow = bool(config["use_flow_sigmas"])
    if kind == "flow_prediction" and not flow:
        raise BundleError("scheduler config: flow_prediction needs use_flow_sigmas; set it.")
    forms: dict[str, Conversion] = {
        "epsilon": lambda at: Form(1.0, 1 / at.alpha, -at.sigma / at.alpha),
        "v_prediction": lambda at: Form(1.0, at.alpha, -at.sigma),
        "sample": lambda at: Form(1.0, 0.0, 1.0),
    }
    return forms[kind] if flow and kind in forms else outputs.conversion(kind)


def sampler(config: Config) -> Sampler:
    """Return UniPC of the configuration's order; it draws no noise.

    The network is asked at the predicted sample; its answer then corrects that sample, and the next
    prediction starts from the corrected one.
    """
    order = config["solver_order"]
    if order not in (1, 2, 3):
        raise BundleError(f"scheduler config: solver_order is {order!r}; use 1, 2 or 3.")
    if config["solver_type"] not in ("bh1", "bh2", "midpoint", "heun", "logrho"):  # diffusers reads bh2
        raise BundleError(
            f"scheduler config: solver_type {config['solver_type']!r} is unknown; use bh1 or bh2."
        )
    by_data = bool(config["predict_x0"])
    limit = threshold_of(config) if by_data else None

    def unipc(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        held: list[Held] = []  # newest first
        before = x
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here) if limit is None else limit(denoise(x, here))
            model, rest = split(x, clean, here, by_data)
            place = schedule.skipped + i
            if held and place - 1 not in config["disable_corrector"]:
                corrected = _moved(config, before, [*held, (here, model)], here)
                rest = rest + (corrected - x) / (here.sigma if by_data else here.alpha)
            left = schedule.total - place if config["lower_order_final"] else order
            held = [(here, model), *held][: min(order, left)]
            before = rest
            x = _moved(config, rest, held, there)
            yield Step(i, x, clean)

    return unipc


def _moved(config: Config, rest: Array, held: Sequence[Held], there: Point) -> Array:
    """Return the sample moved from the first held point to ``there``, of as high an order as points are held.

    ``rest`` is what the sample there holds beside the prediction. With a prediction at ``there`` among the
    held ones this is UniC, else UniP. For noise predictions the step changes its sign. A hop that ends at the
    clean sample is of order 1, the only one with a limit for an infinite step; diffusers' arithmetic gives
    NaN there for bh1, for noise predictions and for higher orders.
    """
    (here, model), *others = held
    by_data = config["predict_x0"]
    share, other_share = (there.alpha, there.sigma) if by_data else (there.sigma, there.alpha)
    moved = share * model + other_share * rest
    if not others or there.sigma == 0 or there.sigma == here.sigma:
        return moved
    step = log_snr(there) - log_snr(here)
    places = [(log_snr(p) - log_snr(here)) / step for p, _ in others]
    weights = _weights(places, -step if by_data else step, config["solver_type"])
    for place, weight, (_, other) in zip(places, weights, others, strict=True):
        moved = moved - (share * weight / place) * (other - model)
    return moved


def _weights(places: Sequence[float], h: float, kind: str) -> list[float]:
    """Return what B(h) times the solution of theorem 3.1's linear system is.

    B(h) cancels in it, so it matters only for one difference alone, whose solution is replaced by 1/2. The
    right-hand side, k! * h * phi_{k+1}(h), is the integral of h * exp((1 - s) * h) * s^k over [0, 1].
    """
    if len(places) == 1:
        return [0.5 * (h if kind == "bh1" else math.expm1(h))]
    nodes, shares = quadrature()
    powers = np.arange(1, len(places) + 1)[:, None]
    moments = (h * shares * np.exp((1 - nodes) * h) * nodes**powers).sum(axis=1)
    weights = np.linalg.solve(np.vander(places, increasing=True).T, moments)
    return [float(w) for w in weights]


@functools.cache
def quadrature() -> tuple[Floats, Floats]:
    """Return nodes and weights on [0, 1] (Gauss and Legendre), exact for polynomials of degree 63.

    Closed forms of the integrals below cancel where hops are short.
    """
    nodes, weights = np.polynomial.legendre.leggauss(32)
    return (nodes + 1) / 2, weights / 2


def split(x: Array, clean: Array, at: Point, by_data: bool) -> tuple[Array, Array]:
    """Return the two parts of x = alpha * clean + sigma * noise, the one that a solver integrates first.

    Steps are written with these parts, not with x: they are small sums even where alpha or sigma is tiny.
    """
    noise = x / at.sigma - (at.alpha / at.sigma) * clean
    return (clean, noise) if by_data else (noise, clean)


def log_snr(at: Point) -> float:
    """Return lambda = log(alpha / sigma)."""
    return math.log(at.alpha) - math.log(at.sigma)
