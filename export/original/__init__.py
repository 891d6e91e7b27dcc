"""Checkpoints in the layout of LDM and SGM: one file, other names, and what its tensors tell."""
