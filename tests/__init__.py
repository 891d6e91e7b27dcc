"""Tests. ``python -m tests`` runs all that the project promises; see CONTRIBUTING.md."""
