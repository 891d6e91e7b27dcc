"""How the page looks, and what a browser that shows it may do: nothing but that."""

from __future__ import annotations

import base64
import hashlib

SHEET = """
html { color-scheme: light; background: #fff; color: #1a1a1a; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; margin: 0 auto;
  padding: 28px 32px 60px; width: fit-content; min-width: min(860px, 100% - 64px); max-width: 100%;
  box-sizing: border-box; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 40px 0 8px; }
p { margin: 6px 0; max-width: 80ch; }
.soft, small { color: #5c5c5c; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: 6px 14px 6px 0; text-align: left; vertical-align: top; }
thead th { font-weight: 600; border-bottom: 1.5px solid #1a1a1a; vertical-align: bottom; }
tbody tr { border-bottom: 1px solid #e2e2e2; }
.figures td { font-variant-numeric: tabular-nums; white-space: nowrap; }
.figures small, .pictures thead small { display: block; font-weight: 400; }
.pictures tbody th { width: 200px; min-width: 160px; font-weight: 400; overflow-wrap: anywhere; }
.pictures th div { max-height: 210px; overflow-y: auto; }
.pictures td { padding-right: 24px; white-space: nowrap; }
.pictures td, .pictures tbody th { padding-top: 12px; padding-bottom: 10px; }
.pictures img { outline: 1px solid #d8d8d8; }
.pictures img + img { margin-left: 6px; }
.pictures span { display: block; text-align: center; font-variant-numeric: tabular-nums; }
.name { max-width: 260px; white-space: normal; overflow-wrap: anywhere; }
img { vertical-align: top; }
.sharp { image-rendering: pixelated; }
svg { max-width: 100%; height: auto; }
dl { display: grid; grid-template-columns: max-content minmax(0, 80ch); gap: 2px 18px; margin: 6px 0; }
dt { color: #5c5c5c; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: #f5f5f5; padding: 12px; overflow: auto; font-size: 13px; max-width: 110ch;
  max-height: 60vh; }
summary { cursor: pointer; }
"""


def policy() -> str:
    """Return the page's Content-Security-Policy: this style and pictures inside the page, nothing else."""
    digest = base64.b64encode(hashlib.sha256(SHEET.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
