"""What ``edgediff show`` says of Core ML packages, in a bundle or alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from edgediff import neural_engine
from edgediff.bundle import COREML, GraphSpec, package_of
from edgediff.errors import EdgediffError
from edgediff.mil_program import Feature, Spec
from edgediff.mil_scan import scan
from edgediff.mil_summary import summary
from edgediff.mlpackage import Package, open_package

_CAVEAT = "published by others, nothing was run here"


def is_package(path: Path | str) -> bool:
    """Return whether ``path`` is meant as a Core ML package or a part or relative of one, not as a bundle."""
    path = Path(path)
    return path.suffix in (".mlpackage", ".mlmodelc", ".mlmodel")


def show(path: Path, as_json: bool) -> None:
    """Print what the package ``path`` holds.

    Raises:
        UnsupportedError: it is a compiled model, or of a version or kind that is not read.
        BundleError: it is damaged.
    """
    package = open_package(path)
    spec = scan(package)
    if as_json:
        click.echo(json.dumps({"path": str(path), **facts(package, spec)}))
        return
    click.echo(f"{path}")
    for arrow, features in (("<-", spec.inputs), ("->", spec.outputs)):
        for feature in features:
            click.echo(f"  {arrow} {_printable(feature.name)}: {feature.dtype} {_sizes(feature)}")
    for key, value in sorted(spec.metadata.items()):
        click.echo(f"  {_printable(key)}: {_printable(value)}")
    for line in lines(package, spec):
        click.echo(f"  {line}")


def of_graph(root: Path, graph: GraphSpec) -> Iterator[tuple[str, Package | str, Spec | None]]:
    """Yield the packages of a bundle's Core ML graph by name, the first and those of its later stages.

    One that cannot be read comes as the reason instead: the manifest says enough to show the others.
    """
    for file in (graph.file, *graph.stages):
        name = package_of(file) or file
        try:
            package = open_package(root / name, verified=True)
            yield name, package, scan(package)
        except EdgediffError as error:
            yield name, str(error), None


def graph_lines(root: Path, graph: GraphSpec) -> Iterator[str]:
    """Yield what is to say of a bundle's Core ML graph."""
    for name, package, spec in of_graph(root, graph):
        yield name
        if isinstance(package, str) or spec is None:
            yield f"  not read: {package}"
            continue
        for line in lines(package, spec):
            yield f"  {line}"


def graph_facts(root: Path, graph: GraphSpec) -> dict[str, Any]:
    """Return the same for machines: an entry ``packages``, and nothing for the graphs of other runtimes."""
    if graph.runtime != COREML:
        return {}
    return {
        "packages": [
            {"path": name, "error": package}
            if isinstance(package, str) or spec is None
            else {"path": name, **facts(package, spec)}
            for name, package, spec in of_graph(root, graph)
        ]
    }


def lines(package: Package, spec: Spec) -> Iterator[str]:
    """Yield what a package computes, how its weights are stored, and what may leave the Neural Engine."""
    found = facts(package, spec)
    counts = ", ".join(f"{count} {kind}" for kind, count in found["operations"].items())
    computes = ", ".join(f"{count} {dtype}" for dtype, count in found["computes"].items())
    total = sum(found["operations"].values())
    yield f"program    {found['opset']} (format {spec.version}), {total} operations"
    yield f"operations {counts}"
    yield f"computes   {computes}"
    for form, stored in found["weights"].items():
        yield f"weights    {form}: {stored['arrays']} arrays of {stored['elements']:,} numbers"
    yield f"stored     {found['weight_bytes']:,} bytes of weights"
    by_reason: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in found["neural_engine"]:
        by_reason.setdefault((one["reason"], one["source"]["url"]), []).append(one)
    for (reason, url), many in by_reason.items():
        counted = ", ".join(f"{one['count']} {one['operation']}" for one in many)
        source = many[0]["source"]
        yield f"may leave the Neural Engine: {counted}: {reason} ({source['title']}, {source['date']}: {url})"
    if not by_reason:
        yield f"may leave the Neural Engine: nothing that the table of sources names ({_CAVEAT})"


def facts(package: Package, spec: Spec) -> dict[str, Any]:
    """Return the same for machines."""
    held = summary(spec.main)
    size = 0 if package.weights is None else package.weights.stat().st_size
    listed = neural_engine.leaving(spec.main, spec.inputs)
    large = neural_engine.too_large(size, held.elements)
    return {
        "format_version": spec.version,
        "opset": spec.main.opset,
        "functions": list(spec.functions),
        "inputs": [_feature(feature) for feature in spec.inputs],
        "outputs": [_feature(feature) for feature in spec.outputs],
        "operations": dict(held.operations),
        "computes": dict(held.computes),
        "weights": {form: stored._asdict() for form, stored in held.weights.items()},
        "weight_bytes": size,
        "neural_engine": [
            {
                "count": one.count,
                "operation": one.operation,
                "reason": one.reason,
                "source": one.source._asdict(),
            }
            for one in (*listed, *((large,) if large is not None else ()))
        ],
    }


def _feature(feature: Feature) -> dict[str, Any]:
    found: dict[str, Any] = {"name": feature.name, "dtype": feature.dtype, "shape": list(feature.shape)}
    if feature.shapes:
        found["shapes"] = [list(shape) for shape in feature.shapes]
    if feature.ranges:
        found["ranges"] = [list(pair) for pair in feature.ranges]
    return found


def _sizes(feature: Feature) -> str:
    if feature.shapes:
        return " or ".join(str(list(shape)) for shape in feature.shapes)
    if feature.ranges:
        spans = (
            f"{low}" if low == high else f"{low}..{high if high >= 0 else ''}" for low, high in feature.ranges
        )
        return f"[{', '.join(spans)}]"
    return str(list(feature.shape))


def _printable(text: str) -> str:
    # Whoever made the package chose its names and metadata: no control characters, and not a page of them.
    return "".join(c if c.isprintable() else "?" for c in text[:200])
