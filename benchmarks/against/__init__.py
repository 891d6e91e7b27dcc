"""Other systems measured beside edgediff: what ``python -m benchmarks.peers`` is made of."""
