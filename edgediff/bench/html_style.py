"""How the page looks, by day and by night, and what a browser may do with it: show it, nothing else."""

from __future__ import annotations

import base64
import hashlib

SHEET = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1b; --soft: #595959; --faint: #dcdcdc;
  --panel: #f5f5f3; --warn: #8a3b00; --warn-panel: #fff3e6;
  --c0: #2a6fb0; --c1: #d97a1e; --c2: #7d5bbe; --c3: #2f8f5b; --c4: #bd4861; --c5: #87838c; --c6: #c3b04a;
  --band-a: #eef2f7; --band-b: #f8f3ea; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --ink: #e9e8e6; --soft: #a8a7a4; --faint: #3a3d42; --panel: #1f2226;
    --warn: #ffc48a; --warn-panel: #33271a;
    --c0: #6aaae4; --c1: #f0a35a; --c2: #b69cf0; --c3: #6cc795; --c4: #ee8fa4; --c5: #a9a6ad; --c6: #d8c86e;
    --band-a: #1e2530; --band-b: #2a2620; } }
html { background: var(--paper); color: var(--ink); }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; max-width: 840px;
  margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 44px 0 6px; }
p { margin: 6px 0; max-width: 76ch; overflow-wrap: anywhere; }
.soft, small, figcaption { color: var(--soft); }
.warn { background: var(--warn-panel); color: var(--warn); padding: 10px 14px; border-radius: 6px; }
.warn li { margin: 4px 0; } .warn ul { margin: 4px 0; padding-left: 18px; }
.heads { display: grid; grid-template-columns: repeat(auto-fit, minmax(118px, 1fr)); gap: 10px;
  margin: 20px 0; }
.heads div { background: var(--panel); border-radius: 8px; padding: 10px 12px; }
.heads b { display: block; font-size: 21px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.heads span { display: block; color: var(--soft); font-size: 13px; line-height: 1.35; }
figure { margin: 12px 0; } figcaption { font-size: 13px; max-width: 76ch; margin-top: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 5px 14px 5px 0; text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; white-space: nowrap; }
.numbers td, .numbers th + th { text-align: right; }
thead th { font-weight: 600; border-bottom: 1.5px solid var(--ink); vertical-align: bottom; }
tbody th { font-weight: 400; } tbody tr { border-bottom: 1px solid var(--faint); }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--soft); }
dl { display: grid; grid-template-columns: 8.5em minmax(0, 1fr); gap: 2px 14px; margin: 6px 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
svg { max-width: 100%; height: auto; display: block; font-family: inherit; }
svg text { fill: var(--ink); } svg text.soft { fill: var(--soft); } svg text.small { font-size: 11.5px; }
svg text.on { fill: var(--paper); font-weight: 600; }
.grid { stroke: var(--faint); } .axis { stroke: var(--ink); stroke-width: 1.2; }
.reach { stroke: var(--ink); stroke-width: 1.4; } .mark { stroke: var(--ink); stroke-width: 2; }
.trend { stroke: var(--soft); stroke-width: 1.3; stroke-dasharray: 5 4; }
.track { fill: var(--panel); } .dust { opacity: .6; }
.middle { fill: var(--paper); stroke: var(--ink); stroke-width: 1.6; }
.f0 { fill: var(--c0); } .f1 { fill: var(--c1); } .f2 { fill: var(--c2); } .f3 { fill: var(--c3); }
.f4 { fill: var(--c4); } .f5 { fill: var(--c5); } .f6 { fill: var(--c6); }
.s0 { stroke: var(--c0); stroke-width: 1.8; } .pale { opacity: .22; }
.beaten { fill: var(--paper); stroke: var(--soft); stroke-width: 1.6; }
.best { fill: var(--c0); stroke: var(--c0); stroke-width: 1.6; }
.band-a { fill: var(--band-a); } .band-b { fill: var(--band-b); }
.slim { display: none; }
@media (max-width: 820px) { body { padding: 18px 16px 40px; } .broad { display: none; }
  .slim { display: block; } .slim svg { width: 100%; max-width: 520px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; } h2 { margin-top: 34px; } }
@media print { .broad { display: block; } .slim { display: none; } }
"""


def policy() -> str:
    """Return the page's Content-Security-Policy: this style sheet, and nothing that is loaded or run."""
    digest = base64.b64encode(hashlib.sha256(SHEET.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
