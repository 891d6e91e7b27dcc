"""A budget for the memory of a whole run: what is loaded when, whole or in stretches, and what is let go."""
