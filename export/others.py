"""Models that the exporter does not write itself: graphs that exist already, and what PyTorch traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgediff.errors import InputError
from edgediff.export.optimum.folder import add_manifest, is_optimum_folder
from edgediff.export.optimum.tracing import trace
from edgediff.export.sources import Source


def taken(
    model: str,
    out: Path,
    dtype: str,
    overwrite: bool,
    report: Callable[[str], None],
    verify: bool,
    dry_run: bool,
    choices: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Make a bundle of a folder of graphs; None where ``model`` is no such folder.

    Raises:
        InputError: something was asked for that would change a graph.
    """
    if not is_optimum_folder(model):
        return None
    if dtype != "fp32":
        raise InputError(
            f"dtype {dtype!r}: {model} holds graphs already, which are taken as they are; leave it out."
        )
    _refuse_choices(model, dry_run, {key: value for key, value in choices.items() if key != "recipe"})
    recipe = choices.get("recipe")
    return add_manifest(model, out, overwrite=overwrite, report=report, verify=verify, recipe=recipe)


def traced(
    source: Source,
    out: Path,
    dtype: str,
    overwrite: bool,
    report: Callable[[str], None],
    dry_run: bool,
    choices: Mapping[str, Any],
) -> dict[str, Any]:
    """Make a bundle of a folder of weights by tracing.

    Raises:
        InputError: something was asked for that tracing does not do.
    """
    _refuse_choices(str(source.where), dry_run, choices)
    return trace(source, out, dtype=dtype, overwrite=overwrite, report=report)


_ALLOWED = ("variant", "revision", "token")


def _refuse_choices(where: str, dry_run: bool, choices: Mapping[str, Any]) -> None:
    given = [name for name, value in choices.items() if value and name not in _ALLOWED]
    given += ["dry_run"] if dry_run else []
    if given:
        raise InputError(
            f"{where}: {', '.join(given)}: only for models that edgediff writes itself; leave it out."
        )
