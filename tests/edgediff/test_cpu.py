"""Which form of a graph a processor gets."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from edgediff import cpu
from edgediff.bundle import Bundle
from edgediff.bundle_reader import parse

EXAMPLE = Path(__file__).parent.parent / "bundles" / "valid" / "forms-by-processor.json"


def opened() -> Bundle:
    return parse(Path("bundle"), json.loads(EXAMPLE.read_text(encoding="utf-8")))


def pretend(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(cpu, "features", lambda: frozenset(names))


@pytest.mark.parametrize(
    ("names", "profile"),
    [
        (("x86-64", "avx2", "vnni"), "ort-cpu"),
        (("x86-64", "avx2"), "ort-cpu-avx2"),
        (("arm64", "asimddp"), "portable"),
        ((), "portable"),
    ],
)
def test_a_form_is_passed_over_where_the_processor_lacks_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], profile: str
) -> None:
    pretend(monkeypatch, *names)
    for device in ("auto", "cpu"):
        assert opened().graph("denoiser", "onnxruntime", device).profile == profile


def test_other_devices_do_not_ask_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    assert opened().graph("denoiser", "onnxruntime", "openvino").profile == "portable"


def test_linux_flags_are_read_and_vnni_is_one_name_for_all_kinds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def told(text: str) -> set[str]:
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(cpu, "Path", lambda _: tmp_path / "cpuinfo")
        return set(cpu.features.__wrapped__())

    assert {"avx2", "avx_vnni", "vnni"} <= told("processor : 0\nflags\t\t: fpu avx2 avx_vnni\n")
    assert "vnni" not in told("flags : fpu avx2\n")
    assert {"asimddp", "i8mm"} <= told("Features\t: fp asimd asimddp i8mm\n")


def test_without_cpuinfo_numpy_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cpu, "Path", lambda _: tmp_path / "missing")
    found = cpu.features.__wrapped__()
    assert platform.machine().lower() not in ("x86_64", "amd64") or "x86-64" in found
