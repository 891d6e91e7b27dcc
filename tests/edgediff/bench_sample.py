"""A record as `edgediff bench` makes it, put together by hand from round numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgediff.bench.record import (
    Asked,
    Cold,
    Component,
    Energy,
    Limit,
    Machine,
    Memory,
    Model,
    Moment,
    Ran,
    Record,
    Samples,
    Span,
    Work,
)

MB = 1_000_000


def sample(**changes: Any) -> Record:
    """Return the record, with some fields replaced."""
    return replace(
        Record(
            edgediff_version="0.7.0",
            made="2026-11-22T00:00:00+00:00",
            machine=_machine(),
            model=Model(
                name="shapes <b>&</b>", source="edgediff-shapes", digest="ab" * 32, format_version="1.3",
                scheme=None, bytes={"text_encoder": 2 * MB, "denoiser": 6 * MB, "decoder": 3 * MB},
                total_bytes=11 * MB,
            ),
            asked=_asked(),
            components=_components(),
            cold=(
                Cold("empty", _stages(1.5), Samples((90.0 * MB, 92.0 * MB))),
                Cold("full", _stages(1.0), Samples((80.0 * MB, 81.0 * MB, 82.0 * MB))),
            ),
            memory=Memory(
                base_bytes=40 * MB, peak_bytes=82 * MB,
                by_stage={"load": 60 * MB, "text_encoder": 62 * MB, "denoiser": 70 * MB, "decoder": 82 * MB},
                timeline=tuple(
                    Moment(0.02 * i, (40 + i) * MB, ("load", "denoiser", "decoder")[i // 14])
                    for i in range(42)
                ),
                interval=0.02,
            ),
            limits=(
                Limit("gemm", "fp32", "CPUExecutionProvider", 2.0e11, "FLOP/s", "8 products of 1024x2048"),
                Limit("conv", "fp32", "CPUExecutionProvider", 2.5e11, "FLOP/s", "4 of 320 channels at 64x64"),
                Limit("copy", "bytes", "numpy", 2.0e10, "B/s", "2 threads copy 256 MB"),
            ),
            energy=Energy(None, 5, 0.6, None, "/sys/class/powercap: there is no counter"),
            spans=_spans(),
            warnings=("the machine was busy: load 3.1 on 2 cores",),
        ),
        **changes,
    )  # fmt: skip


def _machine() -> Machine:
    return Machine(
        processor="A processor", features=("avx2", "avx512_vnni", "amx_int8"), cores=2, physical_cores=2,
        affinity=(0, 1), memory_bytes=25_000 * MB, system="Linux x86_64", python="3.12.3",
        packages={"onnxruntime": "1.31.1", "numpy": "2.4.0"}, governor=None, load_before=0.4, load_after=1.1,
    )  # fmt: skip


def _asked() -> Asked:
    return Asked(
        prompt="a red circle on a white background", height=64, width=64, steps=4, hops=4, guidance_scale=3.0,
        batch=1, sampler="lcm", seed=0, device="auto", runtime="auto", precision=None, threads=2, runs=5,
        warmup=1, cold=3,
    )  # fmt: skip


def _components() -> tuple[Component, ...]:
    def ran(role: str, size: int) -> Ran:
        return Ran(
            role, "onnxruntime", "cpu", "CPUExecutionProvider", "ort-cpu", "fp16",
            {"CPUExecutionProvider": 120}, size, 0.05,
        )  # fmt: skip

    work = Work(
        flops=1_200_000_000, by_class={"conv": 800_000_000, "linear": 300_000_000, "attention": 100_000_000},
        source="export", flops_per_second=1.2e11, limit_seconds=0.005, limit_percent=50.0,
        limit_by="fp32: conv 2.5e11, gemm 2e11 FLOP/s",
    )  # fmt: skip

    def times(*values: float) -> Samples:
        return Samples(values)

    return (
        Component("tokenize", "the prompt to numbers", times(0.0002, 0.0003, 0.0002), 1, 0.003, 61 * MB),
        Component(
            "text_encoder", "one text", times(0.004, 0.005, 0.004), 1, 0.05, 62 * MB, ran("text_encoder", MB)
        ),
        Component(
            "denoiser", "one step", times(0.010, 0.011, 0.009, 0.014, 0.010), 4, 0.5, 70 * MB,
            ran("denoiser", 6 * MB), work,
        ),
        Component("sampler", "a step's own arithmetic", times(0.0001, 0.0001, 0.0002), 4, 0.005),
        Component("decoder", "latents to pixels", times(0.02, 0.021, 0.025), 1, 0.3, 82 * MB,
                  ran("decoder", 3 * MB)),
        Component("post", "8 bits and a PNG file", times(0.003, 0.003, 0.004), 1, 0.05, 75 * MB),
        Component("picture", "prompt to PNG", times(0.07, 0.08, 0.075, 0.071, 0.09), 1, 1.0, 82 * MB),
    )  # fmt: skip


def _stages(times: float) -> dict[str, Samples]:
    stages = {
        "python": 0.02, "import": 0.1, "open": 0.005, "verify denoiser": 0.01, "load denoiser": 0.1 * times,
        "load decoder": 0.05 * times, "picture": 0.2 * times, "total": 0.3 + 0.1 * times,
    }  # fmt: skip
    return {name: Samples((value, value * 1.1, value * 0.95)) for name, value in stages.items()}


def _spans() -> tuple[Span, ...]:
    found = [Span("picture", "warm", "main", 0.4, 0.1), Span("load denoiser", "cold", "load", 0.1, 0.1)]
    found += [Span(f"step {i + 1}", "warm", "main", 0.41 + 0.015 * i, 0.012) for i in range(4)]
    found += [Span("denoiser", "warm", "main", 0.4105 + 0.015 * i, 0.010) for i in range(4)]
    return (*found, Span("decoder", "warm", "main", 0.475, 0.02))
