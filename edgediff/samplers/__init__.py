"""Sampler families, one file each; :func:`edgediff.sampler.find` chooses among them."""
