"""SA-Solver, stochastic Adams methods: Xue et al. (2023, arXiv:2309.05019), SA-Predictor and SA-Corrector."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from edgediff.denoise import threshold_of
from edgediff.errors import BundleError, InputError
from edgediff.noise import Noise
from edgediff.sampler import Array, Denoiser, Sampler, Step
from edgediff.samplers import unipc
from edgediff.samplers._flow_levels import shifted
from edgediff.samplers.unipc import Held, log_snr, points, quadrature, respaced_levels, split, stored_table
from edgediff.schedule import Config, Point, Request, Schedule, alphas_cumprod, chained, spaced

DEFAULTS = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "predictor_order": 2, "corrector_order": 2, "prediction_type": "epsilon",
    "tau_func": None, "thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
    "algorithm_type": "data_prediction", "lower_order_final": True, "use_karras_sigmas": False,
    "use_exponential_sigmas": False, "use_beta_sigmas": False, "use_flow_sigmas": False, "flow_shift": 1.0,
    "lambda_min_clipped": -math.inf, "variance_type": None, "timestep_spacing": "linspace", "steps_offset": 0,
    "tau": 1.0, "tau_start": 200, "tau_end": 800,
}  # fmt: skip
SUPPORTED = {
    "prediction_type": ("epsilon", "v_prediction", "sample", "flow_prediction"),
    "tau_func": (None,),  # a Python function in diffusers; tau, tau_start and tau_end say it here
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}
conversion = unipc.conversion


def schedule(config: Config, request: Request) -> Schedule:
    """Points are variance preserving, or on flow matching's straight paths with ``use_flow_sigmas``.

    Karras, exponential, beta and flow sigmas repeat the last one: the last hop goes nowhere, but its network
    call corrects the sample. diffusers noises pictures at the table's level of a timestep; these are the
    solver's own levels, which differ from that for all but the plain spacings.
    """
    if request.timesteps is not None or request.sigmas is not None:
        raise InputError("timesteps, sigmas: this sampler takes a number of steps only.")
    flow = bool(config["use_flow_sigmas"])
    total = config["num_train_timesteps"]
    table = stored_table(alphas_cumprod(config))
    levels = respaced_levels(config, table, request.steps)
    if levels is None and flow:
        even = 1 - np.linspace(1, 1 / total, request.steps + 1)
        sigmas = shifted(even, config["flow_shift"])[:0:-1]
        levels = np.floor(sigmas * total), sigmas
    if levels is None:
        usable = int(np.sum(-np.log(table) >= config["lambda_min_clipped"]))
        times = np.round(spaced(config, request.steps, last=usable, extra=1))
        levels = times, np.interp(times, np.arange(total), table)
        last = table[0]
    else:
        last = levels[1][-1]
    return Schedule(1.0, chained(points(levels[0], np.append(levels[1], last), flow)))


def sampler(config: Config) -> Sampler:
    """Return SA-Solver of the configuration's orders; it draws once per hop, also where tau is 0.

    ``tau`` is how stochastic it is (0: the ODE, 1: the SDE of DDPM) at timesteps from ``tau_start`` to
    ``tau_end``; elsewhere it is 0. The corrector uses the noise of the prediction that it corrects.
    """
    orders = config["predictor_order"], config["corrector_order"]
    if not all(order in (1, 2, 3, 4) for order in orders):
        raise BundleError(f"scheduler config: predictor_order, corrector_order are {orders}; use 1 to 4.")
    if config["algorithm_type"] not in ("data_prediction", "noise_prediction"):
        raise BundleError(
            f"scheduler config: algorithm_type {config['algorithm_type']!r} is unknown; use data_prediction "
            "or noise_prediction."
        )
    by_data = config["algorithm_type"] == "data_prediction"
    limit = threshold_of(config)

    def sa_solver(denoise: Denoiser, x: Array, schedule: Schedule, noise: Noise) -> Iterator[Step]:
        held: list[Held] = []  # newest first
        before = drawn = x
        for i, (here, there) in enumerate(schedule.hops):
            clean = denoise(x, here) if limit is None else limit(denoise(x, here))
            model, rest = split(x, clean, here, by_data)
            held = [(here, model), *held][:4]
            left = schedule.total - schedule.skipped - i
            predictor, corrector = (
                min(order, room) if config["lower_order_final"] else order
                for order, room in zip(orders, (left, left + 2), strict=True)
            )
            if i > 0:
                corrected = _moved(config, before, drawn, schedule.hops[i - 1], held, corrector)
                rest = rest + (corrected - x) / (here.sigma if by_data else here.alpha)
            before, drawn = rest, noise.draw(x.shape)
            x = _moved(config, rest, drawn, (here, there), held, predictor)
            yield Step(i, x, clean)

    return sa_solver


def _moved(
    config: Config, rest: Array, drawn: Array, hop: tuple[Point, Point], held: Sequence[Held], order: int
) -> Array:
    """Return the sample moved along ``hop`` with the newest ``order`` predictions.

    ``rest`` is what the sample at the hop's start holds beside the prediction there. With h the step in
    lambda = log(alpha / sigma), r = 1 + tau^2 for data and -1 for noise predictions, their weights are
    integrals of exp(r * u) times Lagrange's polynomials over u = -h .. 0, counted from the end.
    """
    here, there = hop
    by_data = config["algorithm_type"] == "data_prediction"
    tau = float(config["tau"]) if config["tau_start"] <= here.t <= config["tau_end"] else 0.0
    h = log_snr(there) - log_snr(here)
    rate = 1 + tau**2
    places = [log_snr(at) - log_snr(there) for at, _ in held[:order]]  # fewer at the start
    integrals = _integrals(places, h, rate if by_data else -1.0)
    if by_data:
        fade = math.exp(-(tau**2) * h)
        part, other_part = fade * there.sigma * here.alpha / here.sigma, fade * there.sigma
        spread = there.sigma * math.sqrt(-math.expm1(-2 * tau**2 * h))
        gain = rate * there.alpha
        if len(places) == 2:
            # The authors' modification for few steps, of the order of the error.
            extra = (h**2 / 2 - (h * rate + math.expm1(-rate * h)) / rate**2) / (places[0] - places[1])
            integrals = [integrals[0] + extra, integrals[1] - extra]
    else:
        part, other_part = there.alpha * here.sigma / here.alpha, there.alpha
        spread = tau * there.sigma * math.sqrt(math.expm1(2 * h))
        gain = -rate * there.sigma
    weights = [gain * integral for integral in integrals] + [0.0]
    weights[0 if held[0][0] == here else 1] += part  # a corrector's newest prediction is of the hop's end
    moved = other_part * rest + spread * drawn
    for weight, (_, model) in zip(weights, held, strict=False):
        moved = moved + weight * model
    return moved


def _integrals(places: Sequence[float], h: float, rate: float) -> list[float]:
    """Integrate exp(rate * u) times the Lagrange polynomial of each place over u = -h .. 0."""
    nodes, shares = quadrature()
    u = -h * nodes
    measure = h * shares * np.exp(rate * u)
    weights = []
    for i, place in enumerate(places):
        others = [p for j, p in enumerate(places) if j != i]
        polynomial = np.prod([(u - p) / (place - p) for p in others], axis=0)
        weights.append(float(np.sum(measure * polynomial)))
    return weights
