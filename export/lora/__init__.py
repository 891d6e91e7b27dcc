"""Adapters (LoRA and its kin), read and added to a checkpoint while it is exported."""
