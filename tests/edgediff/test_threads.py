"""Threads come from what the process may use, not from what the machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgediff import threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to be allowed on eight cores."""
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000", 8),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("150000 100000", 2),
        ("400000 100000", 4),
        ("6400000 100000", 8),
        ("0 100000", 8),
        ("100000 0", 8),
        ("", 8),
        ("nonsense", 8),
        ("-1 100000", 8),
    ],
)
def test_version_2(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert threads.available_threads(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("200000", 2), ("50000", 1), ("x", 8)])
def test_version_1(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert threads.available_threads(tmp_path) == expected


def test_no_control_group(tmp_path: Path) -> None:
    assert threads.available_threads(tmp_path / "nothing") == 8


def test_systems_without_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(threads.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(threads.os, "cpu_count", lambda: None)
    assert threads.available_threads(tmp_path) == 1
