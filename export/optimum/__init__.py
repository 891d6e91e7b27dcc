"""Graphs that others export: folders of Optimum, and what PyTorch traces in the extra ``optimum``."""
