"""One file per network: plain functions written against ``edgediff.export.emit.ops.Ops``."""
