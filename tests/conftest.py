"""Guards of every test run: nothing reaches the network, and ONNX Runtime's telemetry is off."""

from __future__ import annotations

import gc
import ipaddress
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What a run compiles or remembers is its own: nothing is read from, or left in, the user's caches.
_CACHE = tempfile.TemporaryDirectory(prefix="edgediff-cache-")
os.environ["EDGEDIFF_CACHE"] = _CACHE.name


def pytest_collection_finish() -> None:
    """Leave what PyTorch and coremltools made at import out of later collections: a fifth of the time."""
    gc.collect()
    gc.freeze()


def _stays_here(address: object) -> bool:
    if not isinstance(address, tuple):
        return True  # a UNIX socket's path
    host = str(address[0])
    try:
        return host == "localhost" or ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _guarded(original: Callable[..., Any]) -> Callable[..., Any]:
    def connect(self: socket.socket, address: object) -> Any:
        if not _stays_here(address):
            raise AssertionError(f"a test tried to connect to {address!r}; tests work offline")
        return original(self, address)

    return connect


@pytest.fixture(autouse=True, scope="session")
def offline() -> Iterator[None]:
    """Fail whatever connects to anything but this machine."""
    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for the null runtime: a whole manifest and tokenizer, graphs without content."""
    from tests import tiny

    return tiny.write_bundle(tmp_path_factory.mktemp("fake") / "bundle")


@pytest.fixture(scope="session")
def onnx_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with real graphs, which ONNX Runtime runs in a moment."""
    pytest.importorskip("onnx")
    from tests import graphs, tiny

    return tiny.write_bundle(tmp_path_factory.mktemp("real") / "bundle", graphs.text2image())


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what the tests measured."""
    from tests.facts import FACTS

    for fact in FACTS:
        terminalreporter.write_line(fact)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip parity tests where PyTorch is not installed, unless EDGEDIFF_PARITY=1 demands them."""
    from importlib.util import find_spec

    if os.environ.get("EDGEDIFF_PARITY") == "1" or find_spec("torch"):
        return
    skip = pytest.mark.skip(reason="PyTorch is not installed; set EDGEDIFF_PARITY=1 to demand it")
    for item in items:
        if item.get_closest_marker("parity"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources in which the README's first command was run: an environment and a picture."""
    from tests.snippets import README, commands, snippets
    from tests.wheel import copy_sources

    if os.name != "posix":
        pytest.skip("the README's commands are for POSIX shells")
    first = next(s for s in snippets(README.read_text(encoding="utf-8")) if s.language == "bash")
    command = commands(first.text)[0]
    assert "pip install ." in command
    assert "edgediff run" in command
    folder = tmp_path_factory.mktemp("installed")
    copy_sources(folder)
    # A process of its own, so the guard above lets pip reach the package index.
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "PYTHON"))}
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return folder
