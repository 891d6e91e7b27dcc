"""Comparisons and sweeps; nothing imports them. Each script prints its figures with the machine and the
spread."""
