"""For PyInstaller, which asks installed packages for hooks through the entry point ``pyinstaller40``."""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    """Return the folder of hooks; it names what edgediff imports by name, and its data files."""
    return [str(Path(__file__).parent)]
