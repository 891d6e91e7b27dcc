"""A quantized bundle's receipt on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from edgediff.quality import MOST


def say(line: str) -> None:
    """Show what is being done, where somebody watches."""
    if sys.stderr is not None and sys.stderr.isatty():
        click.echo(f"\r\033[K{line}", nl=False, err=True)


def table(found: Mapping[str, Any], at_export: Mapping[str, Any], floors: Mapping[str, Any]) -> Iterator[str]:
    """What was measured here, beside what was measured at export and the floors, a line per figure."""
    yield f"{'':<24} {'form':<12} {'here':>10} {'at export':>10} {'floor':>10}"
    before = at_export.get("components") or {}
    for role, component in found["components"].items():
        earlier = before.get(role, {}).get("snr_db")
        floor = (floors.get("snr_db") or {}).get(role)
        yield _line(f"{role} SNR", component["form"], component["snr_db"], earlier, floor)
    for kind in ("PSNR", "SNR"):
        key = f"latents_{kind.lower()}_db"
        yield _line(f"final latents {kind}", "", found[key], at_export.get(key), floors.get(key))
    if found["pictures"] is not None:
        shown, earlier = found["pictures"], at_export.get("pictures") or {}
        ratios = (shown["psnr_db"], earlier.get("psnr_db"), floors.get("pictures_psnr_db"))
        yield _line("pictures PSNR", "", *ratios)
        if shown["ssim"] is not None:
            numbers = (shown["ssim"], earlier.get("ssim"), floors.get("pictures_ssim"))
            said = " ".join(f"{'-' if n is None else format(n, '.4f'):>10}" for n in numbers)
            yield f"{'pictures SSIM':<24} {'':<12} {said}"


def _line(name: str, form: str, *ratios: float | None) -> str:
    return f"{name:<24} {form:<12} " + " ".join(f"{decibel(ratio):>10}" for ratio in ratios)


def decibel(ratio: float | None) -> str:
    """A ratio as people read it."""
    if ratio is None:
        return "-"
    if abs(ratio) >= MOST:
        return "equal" if ratio > 0 else "not finite"
    return f"{ratio:.1f} dB"


def lines(quality: Mapping[str, Any]) -> Iterator[str]:
    """What ``edgediff show`` says of the receipt in a manifest; whatever of it is missing is left out."""
    yield f"  quality    {_plain(quality.get('scheme') or 'measured')}, against the float32 parent:"
    for role, component in (quality.get("components") or {}).items():
        for i, said in enumerate(_said(component)):
            yield f"    {'' if i else _plain(role):<18} {said}"
    whole = []
    if quality.get("latents_psnr_db") is not None:
        whole.append(f"final latents PSNR {decibel(quality['latents_psnr_db'])}")
    pictures = quality.get("pictures") or {}
    if pictures.get("psnr_db") is not None:
        whole.append(f"pictures PSNR {decibel(pictures['psnr_db'])}")
    if pictures.get("ssim") is not None:
        whole.append(f"SSIM {pictures['ssim']:.4f}")
    if whole:
        yield f"    at equal seeds     {', '.join(whole)}"
    taken, machine = _numbers(quality.get("taken")), quality.get("machine")
    if "seconds" in taken and "parent_seconds" in taken:
        yield f"    a result           {taken['seconds']:.4g} s instead of {taken['parent_seconds']:.4g} s"
    if isinstance(machine, dict) and isinstance(machine.get("processor"), str):
        yield f"    measured on        {_plain(machine['processor'])}, {_plain(machine.get('cores'))} cores"


def _said(component: Mapping[str, Any]) -> Iterator[str]:
    worst = component.get("worst_layer")
    figures = [] if component.get("snr_db") is None else [f"SNR {decibel(component['snr_db'])}"]
    if isinstance(worst, dict) and isinstance(worst.get("snr_db"), (int, float)):
        figures.append(f"worst layer {_plain(worst.get('name'))} {decibel(worst['snr_db'])}")
    yield ", ".join(figures)
    own = _numbers(component)
    for what, mine, parents, unit, scale in (
        ("weights", "weights_bytes", "parent_weights_bytes", "MB", 1e-6),
        ("peak memory", "taken.peak_rss_bytes", "parent_taken.peak_rss_bytes", "MB", 1e-6),
        ("load", "taken.load_s", "parent_taken.load_s", "s", 1.0),
        ("pass", "taken.pass_s.median", "parent_taken.pass_s.median", "s", 1.0),
    ):
        if mine in own and parents in own:
            yield f"{what} {own[mine] * scale:.4g} {unit}, the parent's {own[parents] * scale:.4g} {unit}"


def _plain(value: object) -> str:
    """A text of a manifest, which does not write on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(value))[:100]


def _numbers(value: Any) -> dict[str, float]:
    """The numbers of an object that may hold anything, those of inner objects by dotted names."""
    found: dict[str, float] = {}
    for key, inner in value.items() if isinstance(value, dict) else ():
        if isinstance(inner, (int, float)) and not isinstance(inner, bool):
            found[key] = inner
        elif isinstance(inner, dict):
            found |= {f"{key}.{name}": number for name, number in _numbers(inner).items()}
    return found
