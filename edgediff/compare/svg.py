"""A drawing as SVG that stands inside an HTML page: shapes and text, no styles, no links, no scripts."""

from __future__ import annotations

from html import escape

from edgediff.compare.scene import Dot, Label, Path, Scene, Shape


def to_svg(scene: Scene) -> str:
    """Return the element; every text in it is escaped."""
    size = f'viewBox="0 0 {scene.width} {scene.height}" width="{scene.width}" height="{scene.height}"'
    shapes = "\n".join(_element(shape) for shape in scene.shapes)
    said = escape(scene.said)
    return f'<svg {size} role="img" aria-label="{said}" font-family="sans-serif">\n{shapes}\n</svg>'


def _element(shape: Shape) -> str:
    if isinstance(shape, Dot):
        return (
            f'<circle cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{shape.radius:.1f}" '
            f'fill="{shape.fill or "none"}" stroke="{shape.stroke}" stroke-width="{shape.width:g}"/>'
        )
    if isinstance(shape, Path):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        dashes = ' stroke-dasharray="5 4"' if shape.dashed else ""
        return (
            f'<polyline points="{points}" fill="none" stroke="{shape.stroke}" '
            f'stroke-width="{shape.width:g}"{dashes}/>'
        )
    return _text(shape)


def _text(label: Label) -> str:
    return (
        f'<text x="{label.x:.1f}" y="{label.y:.1f}" font-size="{label.size}" fill="{label.fill}" '
        f'text-anchor="{label.anchor}" dominant-baseline="central">{escape(label.text)}</text>'
    )
