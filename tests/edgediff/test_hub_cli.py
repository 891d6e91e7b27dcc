"""``pull``, ``list``, ``rm``, and names on the hub where a bundle is asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgediff import cli
from tests.hub_server import Hub, folder_files, hub

pytestmark = pytest.mark.slow

pytest.importorskip("huggingface_hub")
__all__ = ["hub"]  # the fixture

EDGEDIFF = [sys.executable, "-m", "edgediff"]
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and terminals alone")


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("warnings.showwarning", None)  # the command sets its own; put the old one back

    def call(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(a) for a in arguments])
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def published(hub: Hub, fake_bundle: Path) -> str:
    """Publish the fake bundle and one more file as ``org/bundle``; its commit."""
    return hub.model("org/bundle", {**folder_files(fake_bundle), "README.md": b"# A card"})


def test_pull(run: Run, published: str) -> None:
    done = run("pull", "org/bundle")
    assert done.status == 0
    (path,) = done.out.splitlines()
    assert Path(path).name == published
    assert done.err.startswith("downloading org/bundle (bundle, ")
    assert len(done.err.splitlines()) == 1  # no progress: this is no terminal
    again = run("pull", "org/bundle", "-q")
    assert again == (0, done.out, "")
    facts = json.loads(run("pull", f"org/bundle@{published}", "--json").out)
    assert facts["downloaded"] == 0
    assert facts == {
        "path": path, "id": "org/bundle", "revision": published, "kind": "bundle", "bytes": facts["bytes"],
        "downloaded": 0,
    }  # fmt: skip
    assert run("show", path).status == 0


def test_pull_dry_run(run: Run, published: str, fake_bundle: Path, tmp_path: Path) -> None:
    done = run("pull", "org/bundle", "--dry-run")
    assert (done.status, done.err) == (0, "")
    listed = folder_files(fake_bundle)
    assert len(done.out.splitlines()) == len(listed) + 2
    assert "README.md" not in done.out
    facts = json.loads(run("pull", "org/bundle", "--dry-run", "--json").out)
    assert facts["files"] == {name: {"bytes": len(data), "cached": False} for name, data in listed.items()}
    assert facts["bytes"] == facts["to_download"] == sum(map(len, listed.values()))
    assert not list((tmp_path / "home").rglob("*.onnx"))
    run("pull", "org/bundle")
    assert json.loads(run("pull", "org/bundle", "--dry-run", "--json").out)["to_download"] == 0
    assert "(cached)" in run("pull", "org/bundle", "--dry-run").out


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["org/nowhere"], 2, "neither a folder here nor a model on the hub"),
        (["org/bundle@v9"], 2, "no revision 'v9'"),
        (["org/bundle@a", "--revision", "b"], 2, "two revisions"),
        (["bundle"], 2, "no name on the hub"),
        (["./org/bundle"], 2, "no name on the hub"),
        ([], 2, "Missing argument"),
    ],
)
def test_pull_refuses(run: Run, published: str, arguments: list[str], status: int, says: str) -> None:
    done = run("pull", *arguments)
    assert (done.status, done.out) == (status, "")
    assert says in done.err
    assert len(done.err.splitlines()) == 1
    answer = json.loads(run("pull", *arguments, "--json").out)
    assert says in answer["error"]["message"]


def test_names_where_bundles_are_asked_for(run: Run, hub: Hub, published: str) -> None:
    done = run("run", "a", "-m", "org/bundle", "--runtime", "null", "-s", "0")
    assert done.status == 0, done.err
    assert "downloading org/bundle" in done.err
    asked = len(hub.asked)
    done = run("run", "a", "-m", f"org/bundle@{published}", "--runtime", "null", "-o", "b.png", "-q")
    assert (done.status, done.out) == (0, "b.png\n")
    assert "downloading" not in done.err
    shown = run("show", "org/bundle", "--json")
    assert Path(json.loads(shown.out)["path"]).name == published
    assert "downloading" not in shown.err
    assert run("verify", "org/bundle").status != 2  # its graphs have no content
    assert len(hub.asked) == asked


def test_a_model_is_no_bundle(run: Run, hub: Hub) -> None:
    hub.model("org/file", {"a.safetensors": bytes(3000)})
    done = run("run", "a", "-m", "org/file")
    assert done.status == 2
    assert "edgediff export onnx -m org/file OUT" in done.err


def test_list_and_rm(run: Run, hub: Hub, published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = run("list")
    assert (empty.status, empty.out) == (0, "")
    assert "edgediff pull" in empty.err
    assert json.loads(run("list", "--json").out) == {"models": []}
    assert run("rm", "org/bundle", "--yes").status == 2
    path = run("pull", "org/bundle", "-q").out.strip()
    hub.model("org/file", {"a.safetensors": bytes(3000)})
    run("pull", "org/file")
    assert [line.split("  ")[0] for line in run("list").out.splitlines()] == ["org/bundle", "org/file"]
    first, second = json.loads(run("list", "--json").out)["models"]
    assert first.pop("bytes") > 20000
    assert first == {
        "id": "org/bundle",
        "revision": published,
        "refs": ["main"],
        "kind": "bundle",
        "path": path,
    }
    assert (second["kind"], second["bytes"]) == ("single file", 3000)
    asked = run("rm", "org/file")
    assert asked.status == 2
    assert "0.0 MB would be deleted; add --yes" in asked.err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda question, err: False)
    kept = run("rm", "org/file")
    assert (kept.status, kept.out) == (130, "")
    assert "nothing was deleted" in kept.err
    facts = json.loads(run("rm", "org/file", "--yes", "--json").out)
    assert facts == {"id": "org/file", "revisions": [second["revision"]], "freed": 3000}
    monkeypatch.setattr(
        "click.confirm", lambda question, err: question.startswith("Delete org/bundle: 1 rev")
    )
    done = run("rm", "org/bundle@main")
    assert (done.status, done.out[:20]) == (0, "deleted org/bundle: ")
    assert not Path(path).exists()
    assert run("list").out == ""


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """Return the variables of a process whose client talks to this hub."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    return {**kept, **hub.settings(home), **more}


def started(arguments: list[str], settings: dict[str, str], folder: Path) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*EDGEDIFF, *arguments], env=settings, cwd=folder, **pipes)


@POSIX
def test_an_interrupt_ends_a_download_at_once(hub: Hub, fake_bundle: Path, tmp_path: Path) -> None:
    """And what was whole is not fetched again."""
    files = folder_files(fake_bundle)
    hub.model("org/bundle", files)
    slow = "tokenizer/vocab.json"
    hub.slow[slow] = 5.0
    settings = environment(hub, tmp_path / "other")
    process = started(["pull", "org/bundle"], settings, tmp_path)
    deadline = time.monotonic() + 60
    while not any(method == "GET" and path.endswith(slow) for method, path, _ in hub.asked):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 5  # the file would have taken longer
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].startswith(
        "edgediff: org/bundle: the download was interrupted; files that are"
    )
    offline = {**settings, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*EDGEDIFF, "show", "org/bundle"], env=offline, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 5
    assert "HF_HUB_OFFLINE" in done.stderr
    hub.slow.clear()
    asked = len(hub.asked)
    process = started(["pull", "org/bundle"], settings, tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    fetched = {"/".join(path.split("/")[5:]) for method, path, _ in hub.asked[asked:] if method == "GET"}
    assert slow in fetched
    assert "scheduler/scheduler_config.json" not in fetched
    done = subprocess.run(
        [*EDGEDIFF, "show", "org/bundle"], env=offline, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@POSIX
def test_progress_bars_are_for_terminals(hub: Hub, fake_bundle: Path, tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    hub.model("org/bundle", folder_files(fake_bundle))
    for i, (extra, expected) in enumerate((([], True), (["-q"], False), (["--json"], False))):
        controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        settings = environment(hub, tmp_path / str(i), TERM="xterm")
        command = [*EDGEDIFF, "pull", "org/bundle", *extra]
        done = subprocess.run(command, env=settings, stderr=terminal, stdout=subprocess.PIPE, cwd=tmp_path)
        assert done.returncode == 0
        os.write(terminal, b"END\n")
        shown = b""
        while not shown.endswith(b"END\r\n"):
            shown += os.read(controller, 4096)
        os.close(terminal)
        os.close(controller)
        assert (b"vocab.json" in shown) == expected, shown
        assert shown == b"END\r\n" or expected


def test_tokens_in_variables_and_arguments(hub: Hub, fake_bundle: Path, tmp_path: Path) -> None:
    token = "hf_" + "t" * 34
    hub.model("org/bundle", folder_files(fake_bundle), token=token)
    settings = environment(hub, tmp_path / "home", HF_TOKEN=token)
    done = subprocess.run(
        [*EDGEDIFF, "pull", "org/bundle"], env=settings, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    wrong = subprocess.run(
        [*EDGEDIFF, "pull", "org/nowhere", "--token", token], env={**settings, "EDGEDIFF_DEBUG": "1"},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "Traceback" in wrong.stderr  # it was asked for
    for text in (done.stdout, done.stderr, wrong.stdout, wrong.stderr):
        assert token not in text


def test_helps_and_local_paths_leave_the_client_alone(fake_bundle: Path, tmp_path: Path) -> None:
    """Importing it takes longer than a small picture."""
    script = "import sys, edgediff.cli\ntry: edgediff.cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
    script += "print('huggingface_hub' in sys.modules)"
    local = ["run", "a", "-m", str(fake_bundle), "--runtime", "null", "-o", "a.png"]
    for arguments in (
        local,
        ["show", str(fake_bundle)],
        *([verb, "--help"] for verb in ("pull", "list", "rm")),
    ):
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False", arguments
