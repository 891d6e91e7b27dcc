"""The work of each role's runs: from the manifest where it says, else from a pass that is profiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgediff import work
from edgediff.bench import children
from edgediff.bundle import Bundle
from edgediff.errors import EdgediffError

Pass = Sequence[Any]
"""A role, the extents of its inputs by name, when, and how long; see :class:`.watching.Watching`."""


def counted(bundle: Bundle, passes: Sequence[Pass]) -> dict[str, tuple[dict[str, int], str]]:
    """Return the work of all passes together, by role and class, and what counted it.

    A role is left out where neither way knows it.
    """
    known: dict[tuple[str, str], tuple[dict[str, int], str]] = {}
    asked: dict[tuple[str, str], list[Any]] = {}
    for role, shapes, *_ in passes:
        key = (role, _key(shapes))
        if key not in known and key not in asked:
            found = _told(bundle, role, shapes)
            if found is None:
                asked[key] = [role, shapes]
            else:
                known[key] = found, "export"
    known |= _profiled(bundle, asked)
    totals: dict[str, tuple[dict[str, int], str]] = {}
    lacking = {role for role, shapes, *_ in passes if (role, _key(shapes)) not in known}
    for role, shapes, *_ in passes:
        if role not in lacking:
            each, source = known[role, _key(shapes)]
            before = totals.get(role, (dict.fromkeys(work.CLASSES, 0), source))[0]
            totals[role] = {kind: before[kind] + each[kind] for kind in work.CLASSES}, source
    return totals


def _key(shapes: Mapping[str, Sequence[int]]) -> str:
    return repr(sorted((name, list(shape)) for name, shape in shapes.items()))


def _told(bundle: Bundle, role: str, shapes: Mapping[str, Sequence[int]]) -> dict[str, int] | None:
    specs = bundle.components[role][0].inputs
    return work.flops(bundle.work.get(role, ()), specs, shapes)


def _profiled(
    bundle: Bundle, asked: Mapping[tuple[str, str], list[Any]]
) -> dict[tuple[str, str], tuple[dict[str, int], str]]:
    """Count by running; what cannot be run, such as packages of Core ML, is left out."""
    if not asked:
        return {}
    try:
        answer = children.do("profile_work", {"bundle": str(bundle.path), "asked": list(asked.values())})
    except EdgediffError:  # memory may not suffice for a pass on the CPU; figures are complete without it
        return {}
    pairs = zip(asked, answer["counts"], strict=True)
    return {key: (counts, "profile") for key, counts in pairs if counts is not None}
