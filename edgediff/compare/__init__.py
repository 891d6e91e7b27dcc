"""Bundles side by side: pictures, differences, latency, size."""
