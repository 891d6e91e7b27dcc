"""DPM-Solver, its singlestep form and DEIS against diffusers; ``test_samplers_edm`` has their closed forms.

Two gates. In float32, each side with its own noise levels: 1e-5, by ``compare``. In float64, diffusers' own
code at our levels: 1e-8, by ``gap64``, which leaves nothing but the mathematics of the steps; it is the gate
where float32 itself is off by more, and the tests say where and whose.
"""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import numpy as np
import pytest

from edgediff import sampler as samplers
from edgediff.errors import BundleError, EdgediffError, InputError
from edgediff.noise import TorchNoise
from edgediff.samplers import dpmpp_singlestep
from edgediff.schedule import Request, Schedule
from tests.sampler_parity import BASE, SHAPE, Wide, compare, network, walk, worst

MULTISTEP = "DPMSolverMultistepScheduler"
SINGLESTEP = "DPMSolverSinglestepScheduler"
DEIS = "DEISMultistepScheduler"
ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SHAPES = ("use_karras_sigmas", "use_lu_lambdas", "use_exponential_sigmas", "use_beta_sigmas")
STEPS = (1, 2, 3, 4, 7, 10, 14, 15, 20, 30)
TYPES = ("midpoint", "heun")
ENDS = ("zero", "sigma_min")


class Wider:
    """torch, in which float32 is float64: a scheduler that casts to the former computes in the latter."""

    def __getattr__(self, name: str) -> Any:
        import torch

        return torch.float64 if name == "float32" else getattr(torch, name)


def scheduler_of(class_name: str, config: dict[str, Any]) -> Any:
    import diffusers

    return getattr(diffusers, class_name)(**config)


def gap(
    class_name: str, config: dict[str, Any], steps: int, begin: int = 0, wide: bool = True, nudge: float = 0.0
) -> float:
    """Our end against diffusers', ``wide`` in float64 at our levels, else in float32 with its own.

    ``begin`` starts there, from noised zeros and ones. ``nudge`` lowers diffusers' last sigma by a part.
    """
    import torch

    scheduler = scheduler_of(class_name, config)
    solver = samplers.find({**scheduler.config, "_class_name": class_name})
    whole = solver.schedule(Request(steps))
    scheduler.set_timesteps(steps)
    same_levels(scheduler, whole)
    normal = TorchNoise(3).draw(SHAPE)
    picture = np.where(normal > 0.5, np.float32(1), np.float32(0))
    here = whole.hops[begin][0]
    x = here.alpha * picture + here.sigma * normal if begin else whole.start * normal
    cut = whole.cut(begin)._replace(start=1.0)
    width: type = np.float64 if wide else np.float32
    got = walk(solver, cut, x.astype(width), Wide(7) if wide else TorchNoise(7))
    by_table = walk(solver, cut, x.astype(np.float64), Wide(7), by_table=True)
    assert not wide or worst(by_table, got) < 1e-9

    scheduler.set_begin_index(begin)
    start = torch.from_numpy(x.astype(width))
    if begin:
        parts = torch.from_numpy(picture), torch.from_numpy(normal)
        noised = scheduler.add_noise(*parts, scheduler.timesteps[begin : begin + 1])
        assert worst(x, noised.numpy()) < 2e-6
    if wide:
        scheduler.sigmas = torch.tensor(levels(scheduler, whole), dtype=torch.float64)
        scheduler.sigmas[-1] *= 1 - nudge
    stream = Wide(7) if wide else TorchNoise(7)
    with pytest.MonkeyPatch.context() as patch:
        module: Any = importlib.import_module(type(scheduler).__module__)
        if hasattr(module, "randn_tensor"):
            drawn = lambda shape, **_: torch.from_numpy(stream.draw(tuple(shape)))  # noqa: E731
            patch.setattr(module, "randn_tensor", drawn)
        if wide:
            patch.setattr(module, "torch", Wider())
        for t in scheduler.timesteps[begin:]:
            out = network(scheduler.scale_model_input(start, t), t.to(start.dtype), torch)
            start = scheduler.step(out, t, start, return_dict=False)[0]
    return worst(got, start.numpy())


def levels(scheduler: Any, schedule: Schedule) -> list[float]:
    flow = scheduler.config.get("use_flow_sigmas")
    points = [schedule.hops[0][0], *(there for _, there in schedule.hops)]
    return [at.sigma if flow else at.sigma / at.alpha for at in points]


def same_levels(scheduler: Any, schedule: Schedule) -> None:
    """Timesteps agree to the last digit where they are whole; sigmas as float32 does."""
    times = [here.t for here, _ in schedule.hops]
    assert np.allclose(times, scheduler.timesteps.numpy(), rtol=0, atol=2e-6)
    # 1e-5: with zero terminal SNR, torch.linspace's own last bit (it depends on the processor) moves them so.
    assert np.allclose(levels(scheduler, schedule), scheduler.sigmas.numpy(), rtol=1e-5, atol=0)


# In diffusers a term of the third-order SDE step has the wrong sign, which leaves float32 errors to grow.
def amplifies(config: dict[str, Any]) -> bool:
    return config.get("solver_order") == 3 and str(config.get("algorithm_type")).startswith("sde")


SOLVERS = [
    (order, algorithm, kind, end)
    for order, algorithm, kind, end in itertools.product((1, 2, 3), ALGORITHMS, TYPES, ENDS)
    if (algorithm.endswith("++") or end == "sigma_min") and (order, algorithm) != (3, "sde-dpmsolver")
]


@pytest.mark.parity
@pytest.mark.parametrize(("order", "algorithm", "kind", "end"), SOLVERS)
def test_multistep_solvers(order: int, algorithm: str, kind: str, end: str) -> None:
    config = {**BASE, "solver_order": order, "algorithm_type": algorithm, "solver_type": kind,
              "final_sigmas_type": end}  # fmt: skip
    for prediction, steps in itertools.product(PREDICTIONS, STEPS):
        full = {**config, "prediction_type": prediction}
        # From the first level to the last in one step, DPM-Solver multiplies x by 15 and takes most away
        # again: diffusers is 1.3e-5 from float64, ours 4e-7.
        if not amplifies(config) and not (algorithm == "dpmsolver" and steps == 1):
            assert compare(MULTISTEP, full, steps) < 1e-5, (prediction, steps)
        assert gap(MULTISTEP, full, steps) < 1e-8, (prediction, steps)


@pytest.mark.parity
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("betas", ["scaled_linear", "linear", "squaredcos_cap_v2"])
def test_multistep_shapes(shape: str, betas: str) -> None:
    kinds = [(1, "midpoint"), (2, "midpoint"), (2, "heun"), (3, "midpoint")]
    for (order, kind), end, steps in itertools.product(kinds, ENDS, STEPS):
        config = {**BASE, shape: True, "beta_schedule": betas, "solver_order": order, "solver_type": kind,
                  "final_sigmas_type": end}  # fmt: skip
        # Equal last sigmas are 0/0 in diffusers; the limit is meant, and 1e-12 apart it is near enough.
        flat = end == "sigma_min"
        assert gap(MULTISTEP, config, steps, nudge=1e-12 if flat else 0.0) < 1e-7, (config, steps)
        # Third order over the huge hops of these sigmas: both are some 1e-5 from float64.
        if not flat and (order, betas) != (3, "squaredcos_cap_v2"):
            assert gap(MULTISTEP, config, steps, wide=False) < 1e-5, (config, steps)


@pytest.mark.parity
@pytest.mark.parametrize("class_name", [MULTISTEP, SINGLESTEP])
def test_custom_betas_and_zero_snr_with_shapes(class_name: str) -> None:
    for shape, steps in itertools.product(SHAPES, (4, 10, 20)):
        if class_name == SINGLESTEP and shape == "use_lu_lambdas":
            continue
        betas = [0.0005 * (i + 1) for i in range(100)]
        config = {shape: True, "trained_betas": betas, "num_train_timesteps": 100}
        assert gap(class_name, config, steps) < 1e-8, (shape, steps)
        if class_name == MULTISTEP:
            zero = {**BASE, shape: True, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
            assert gap(class_name, zero, steps) < 1e-8, (shape, steps)
            assert gap(class_name, zero, steps, wide=False) < 1e-5, (shape, steps)


@pytest.mark.parity
@pytest.mark.parametrize("class_name", [MULTISTEP, SINGLESTEP, DEIS])
@pytest.mark.parametrize("prediction", [*PREDICTIONS, "flow_prediction"])
def test_flow_sigmas(class_name: str, prediction: str) -> None:
    algorithms = {MULTISTEP: ALGORITHMS, SINGLESTEP: ALGORITHMS[:3], DEIS: ("deis",)}[class_name]
    for order, algorithm, shift in itertools.product((1, 2, 3), algorithms, (1.0, 3.0, 8.0)):
        config = {"use_flow_sigmas": True, "prediction_type": prediction, "flow_shift": shift,
                  "solver_order": order, "algorithm_type": algorithm}  # fmt: skip
        plus = algorithm.endswith("++")
        if class_name != DEIS:
            config["final_sigmas_type"] = "zero" if plus else "sigma_min"
        if (prediction in ("v_prediction", "flow_prediction") and not plus and class_name != DEIS) or (
            (order, algorithm) == (3, "sde-dpmsolver")
        ):
            continue  # diffusers refuses these, or has no meaning for them
        if class_name == DEIS and prediction in ("v_prediction", "flow_prediction"):
            continue  # test_deis_flow
        for steps in (1, 2, 4, 7, 15, 20, 30):
            assert gap(class_name, config, steps) < 1e-8, (config, steps)
            # In float32 the noise at sigma near 1 says next to nothing about the clean sample.
            if plus and not amplifies(config):
                assert compare(class_name, config, steps) < 1e-5, (config, steps)


@pytest.mark.parity
def test_mu_shifts_flow_sigmas() -> None:
    import torch

    for class_name in (MULTISTEP, SINGLESTEP, DEIS):
        config = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 5.0,
                  "use_dynamic_shifting": True}  # fmt: skip
        scheduler = scheduler_of(class_name, config)
        solver = samplers.find({**scheduler.config, "_class_name": class_name})
        for mu in (None, 0.3, 1.15):
            schedule = solver.schedule(Request(8, mu=mu, tokens=1024))
            scheduler.set_timesteps(8, mu=mu)
            same_levels(scheduler, schedule)
    assert isinstance(scheduler.sigmas, torch.Tensor)


MULTISTEP_OPTIONS: list[dict[str, Any]] = [
    {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    {"rescale_betas_zero_snr": True, "prediction_type": "sample"},
    {"lambda_min_clipped": -3.0},
    {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    {"thresholding": True, "sample_max_value": 1.7},
    {"thresholding": True, "sample_max_value": 1.7, "solver_order": 3},
    {"lower_order_final": False},
    {"lower_order_final": False, "final_sigmas_type": "sigma_min", "solver_order": 3},
    {"euler_at_final": True, "final_sigmas_type": "sigma_min", "solver_order": 3},
    {"euler_at_final": True, "final_sigmas_type": "sigma_min", "algorithm_type": "sde-dpmsolver++"},
    {"thresholding": True, "sample_max_value": 1.7, "algorithm_type": "dpmsolver", "final_sigmas_type":
     "sigma_min"},
    {"steps_offset": 1},
    {"prediction_type": "flow_prediction"},
    {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
]  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("extra", MULTISTEP_OPTIONS, ids=str)
def test_multistep_options(extra: dict[str, Any], spacing: str) -> None:
    config = {**BASE, **extra, "timestep_spacing": spacing}
    for steps in STEPS:
        assert gap(MULTISTEP, config, steps) < 1e-8, steps
        assert compare(MULTISTEP, config, steps) < 1e-5, steps


@pytest.mark.parity
@pytest.mark.parametrize("class_name", [MULTISTEP, SINGLESTEP])
@pytest.mark.parametrize("extra", [{}, {"solver_order": 3}, {"algorithm_type": "sde-dpmsolver++"}], ids=str)
def test_custom_timesteps(class_name: str, extra: dict[str, Any]) -> None:
    for timesteps in ([999, 640, 320, 12], [801], [999, 700, 3], list(range(960, 0, -60))):
        options = {"timesteps": timesteps}
        assert compare(class_name, {**BASE, **extra}, len(timesteps), **options) < 1e-5, timesteps


@pytest.mark.parity
@pytest.mark.parametrize(("order", "kind", "end"), itertools.product((1, 2, 3), TYPES, ENDS))
@pytest.mark.parametrize("algorithm", ["dpmsolver++", "dpmsolver", "sde-dpmsolver++"])
def test_singlestep_solvers(order: int, algorithm: str, kind: str, end: str) -> None:
    if not algorithm.endswith("++") and end == "zero":
        return
    config = {**BASE, "solver_order": order, "algorithm_type": algorithm, "solver_type": kind,
              "final_sigmas_type": end}  # fmt: skip
    for prediction, lower, steps in itertools.product(PREDICTIONS, (False, True), STEPS):
        full = {**config, "prediction_type": prediction, "lower_order_final": lower}
        # A group of three hops multiplies the rounding of what went before by up to 10^4.
        limit = 1e-6 if amplifies(config) else 1e-8
        assert gap(SINGLESTEP, full, steps) < limit, (prediction, lower, steps)
        # DPM-Solver's own cancellation over large groups (as above): diffusers is the one that is off. The
        # curvature of three raw predictions in a group: both are 1e-5 from float64.
        raw = (order, kind, prediction) == (3, "heun", "sample")
        if not amplifies(config) and algorithm != "dpmsolver" and not raw:
            assert compare(SINGLESTEP, full, steps) < 1e-5, (prediction, lower, steps)


SINGLESTEP_OPTIONS: list[dict[str, Any]] = [
    {"lambda_min_clipped": -3.0},
    {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    {"thresholding": True, "sample_max_value": 1.7},
    {"prediction_type": "flow_prediction"},
    {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    *({shape: True} for shape in SHAPES if shape != "use_lu_lambdas"),
    {"use_karras_sigmas": True, "beta_schedule": "squaredcos_cap_v2"},
]


@pytest.mark.parity
@pytest.mark.parametrize("extra", SINGLESTEP_OPTIONS, ids=str)
def test_singlestep_options(extra: dict[str, Any]) -> None:
    for order, steps in itertools.product((2, 3), STEPS):
        config = {**BASE, **extra, "solver_order": order}
        assert gap(SINGLESTEP, config, steps) < 1e-8, (order, steps)
        assert gap(SINGLESTEP, config, steps, wide=False) < 1e-5, (order, steps)


@pytest.mark.parity
def test_singlestep_orders() -> None:
    for order, lower, end in itertools.product((1, 2, 3), (False, True), ENDS):
        config = {"solver_order": order, "lower_order_final": lower, "final_sigmas_type": end}
        for steps in range(1, 40):
            scheduler = scheduler_of(SINGLESTEP, config)
            scheduler.set_timesteps(steps)
            assert dpmpp_singlestep.orders(config, steps) == scheduler.order_list


@pytest.mark.parity
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(order: int, prediction: str) -> None:
    for spacing, lower, steps in itertools.product(("linspace", "leading", "trailing"), (False, True), STEPS):
        config = {**BASE, "solver_order": order, "prediction_type": prediction, "timestep_spacing": spacing,
                  "lower_order_final": lower}  # fmt: skip
        assert gap(DEIS, config, steps) < 1e-8, (spacing, lower, steps)
        # diffusers takes the difference of integrals in float32: from the second order on it is up to 1e-3
        # from float64, ours 5e-6.
        if order == 1 and prediction == "epsilon":
            assert compare(DEIS, config, steps) < 1e-5, (spacing, lower, steps)


@pytest.mark.parity
@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "use_lu_lambdas"])
def test_deis_shapes(shape: str) -> None:
    for betas, order, steps in itertools.product(("scaled_linear", "squaredcos_cap_v2"), (1, 2, 3), STEPS):
        config = {**BASE, shape: True, "beta_schedule": betas, "solver_order": order}
        assert gap(DEIS, config, steps) < 1e-7, (betas, order, steps)
    thresholded = {**BASE, shape: True, "thresholding": True, "sample_max_value": 1.7}
    assert gap(DEIS, thresholded, 10) < 1e-8


CUTS: list[tuple[str, dict[str, Any]]] = [
    (MULTISTEP, {}),
    (MULTISTEP, {"solver_order": 3, "final_sigmas_type": "sigma_min"}),
    (MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    (MULTISTEP, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    (MULTISTEP, {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
    (SINGLESTEP, {"solver_order": 2}),
    (SINGLESTEP, {"solver_order": 3, "final_sigmas_type": "sigma_min"}),
    (SINGLESTEP, {"solver_order": 3, "lower_order_final": True, "solver_type": "heun"}),
    (SINGLESTEP, {"algorithm_type": "sde-dpmsolver++"}),
    (DEIS, {"solver_order": 3}),
]


@pytest.mark.parity
@pytest.mark.parametrize(("class_name", "extra"), CUTS, ids=str)
def test_cut_schedules(class_name: str, extra: dict[str, Any]) -> None:
    for steps in (3, 4, 9, 10, 14, 15, 16):
        for begin in {1, 2, steps - 1}:
            config = {**BASE, **extra}
            assert gap(class_name, config, steps, begin) < 1e-8, (steps, begin)
            if class_name != DEIS:
                assert gap(class_name, config, steps, begin, wide=False) < 1e-5, (steps, begin)


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (MULTISTEP, {"algorithm_type": "dpmsolver"}, {}, "sigma_min"),
    (MULTISTEP, {"algorithm_type": "unknown"}, {}, "algorithm_type"),
    (MULTISTEP, {"solver_type": "unknown"}, {}, "solver_type"),
    (MULTISTEP, {"solver_order": 4}, {}, "solver_order"),
    (MULTISTEP, {"algorithm_type": "sde-dpmsolver", "solver_order": 3, "final_sigmas_type": "sigma_min"}, {},
     "third order"),
    (MULTISTEP, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "use_flow_sigmas": True,
                 "prediction_type": "flow_prediction"}, {}, "flow"),
    (MULTISTEP, {"use_flow_sigmas": True, "use_karras_sigmas": True}, {}, "use_flow_sigmas"),
    (MULTISTEP, {"use_beta_sigmas": True, "use_karras_sigmas": True}, {}, "exclude"),
    (MULTISTEP, {"variance_type": "learned_range"}, {}, "variance_type"),
    (MULTISTEP, {"final_sigmas_type": "unknown"}, {}, "final_sigmas_type"),
    (MULTISTEP, {"timestep_spacing": "unknown"}, {}, "timestep_spacing"),
    (MULTISTEP, {"use_lu_lambdas": True}, {"timesteps": (999.0, 1.0)}, "use_lu_lambdas"),
    (MULTISTEP, {"use_flow_sigmas": True}, {"timesteps": (999.0, 1.0)}, "use_flow_sigmas"),
    (MULTISTEP, {}, {"sigmas": (1.0, 0.5)}, "sigmas"),
    (MULTISTEP, {}, {"mu": 1.0}, "mu"),
    (MULTISTEP, {"use_dynamic_shifting": True, "time_shift_type": "linear"}, {"mu": 1.0}, "time_shift_type"),
    (MULTISTEP, {}, {"steps": 1000}, "steps"),
    (SINGLESTEP, {"algorithm_type": "sde-dpmsolver"}, {}, "algorithm_type"),
    (SINGLESTEP, {"use_karras_sigmas": True}, {"timesteps": (999.0, 1.0)}, "use_karras_sigmas"),
    (DEIS, {}, {"timesteps": (999.0, 1.0)}, "timesteps"),
    (DEIS, {"solver_order": 4}, {}, "solver_order"),
    (DEIS, {"prediction_type": "flow_prediction"}, {}, "use_flow_sigmas"),
]  # fmt: skip


@pytest.mark.parametrize(("class_name", "config", "asked", "named"), REFUSED, ids=str)
def test_refusals(class_name: str, config: dict[str, Any], asked: dict[str, Any], named: str) -> None:
    with pytest.raises(EdgediffError, match=named) as caught:
        samplers.find({"_class_name": class_name, **config}).schedule(Request(**{"steps": 4, **asked}))
    assert isinstance(caught.value, InputError if asked and "linear" not in str(config) else EdgediffError)


def test_other_solvers_names_stand_for_dpmpp() -> None:
    config = {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh2", "use_flow_sigmas": True,
              "prediction_type": "flow_prediction"}  # fmt: skip
    assert samplers.find(config, "dpmpp_2m").config["use_flow_sigmas"]
    with pytest.raises(BundleError):
        samplers.find({"_class_name": DEIS, "algorithm_type": "sde-dpmsolver"}, "dpmpp_2m")
