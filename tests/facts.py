"""Numbers that a test run reports: printed after the results by conftest.py."""

FACTS: list[str] = []
