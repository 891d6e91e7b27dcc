"""Measuring a bundle on the machine at hand: what `edgediff bench` runs."""
