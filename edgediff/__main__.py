"""``python -m edgediff`` is the command line."""

from edgediff.cli import main

main()
