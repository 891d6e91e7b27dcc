"""A small hub on this machine: the few endpoints that ``huggingface_hub`` asks for a model's files."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

LARGE = 2048  # bytes from which a file lies in large-file storage and is named by its sha256


@dataclass
class Repository:
    """Files by revision: ``main`` leads to the newest of ``commits``."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    token: str | None = None  # who sends another one finds nothing

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Add a commit and let ``ref`` lead to it; its hash."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[digest] = files
        self.refs[ref] = digest
        return digest


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder by name."""
    return {
        f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()
    }


def etag(data: bytes) -> str:
    """Return the name that the hub gives a file's content: its sha256, or git's hash of a small one."""
    if len(data) >= LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub:
    """The server; ``asked`` lists method, path and token of each request."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.cut: dict[str, int] = {}  # by file: how many bytes are sent before the connection ends
        self.slow: dict[str, float] = {}  # by file: seconds between pieces of 1024 bytes
        self.wrong: set[str] = set()  # files that are sent a byte short, under a correct length
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                """Stay silent."""

            def do_GET(self) -> None:
                hub.answer(self, True)

            def do_HEAD(self) -> None:
                hub.answer(self, False)

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Stay silent about clients that went away."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def settings(self, home: Path) -> dict[str, str]:
        """Return the variables that send a client here, with its cache below ``home``."""
        here = {"HF_ENDPOINT": self.address, "NO_PROXY": "127.0.0.1"}
        return {**here, "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": "0"}

    def close(self) -> None:
        """Stop listening, also on connections that are kept."""
        self.repositories.clear()
        self.server.shutdown()
        self.server.server_close()

    def model(self, name: str, files: dict[str, bytes], **options: Any) -> str:
        """Publish files as a new commit of a model's main branch; its hash."""
        repository = self.repositories.setdefault(name, Repository())
        for key, value in options.items():
            setattr(repository, key, value)
        return repository.commit(files)

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        """Serve one request."""
        path = unquote(urlsplit(request.path).path)
        sent = request.headers.get("Authorization")
        self.asked.append((request.command, path, sent))
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        if api:
            parts = parts[2:]
        repository = self.repositories.get("/".join(parts[:2]))
        if repository is None or (repository.token and sent != f"Bearer {repository.token}"):
            self._refuse(request, 404 if sent else 401, "RepoNotFound")
            return
        what, rest = (parts[2] if len(parts) > 2 else "revision"), parts[3:]
        revision = rest[0] if rest else "main"
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self._refuse(request, 404, "RevisionNotFound")
        elif api and what == "revision":
            self._send(request, body, self._info("/".join(parts[:2]), repository, commit))
        elif api and what == "tree":
            self._send(request, body, self._tree(repository.commits[commit]))
        elif repository.gated:
            self._refuse(request, 403 if sent else 401, "GatedRepo")
        elif not api and what == "resolve" and "/".join(rest[1:]) in repository.commits[commit]:
            self._file(request, body, "/".join(rest[1:]), repository.commits[commit], commit)
        else:
            self._refuse(request, 404, "EntryNotFound", commit)

    def _info(self, name: str, repository: Repository, commit: str) -> bytes:
        siblings = []
        for file, data in repository.commits[commit].items():
            entry: dict[str, Any] = {"rfilename": file, "size": len(data), "blobId": etag(data)}
            if len(data) >= LARGE:
                entry["blobId"] = hashlib.sha1(data).hexdigest()  # of the pointer file, in truth
                entry["lfs"] = {"sha256": etag(data), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        gated = "auto" if repository.gated else False
        facts = {"id": name, "modelId": name, "sha": commit, "private": False, "gated": gated}
        return json.dumps({**facts, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings}).encode()

    def _tree(self, files: dict[str, bytes]) -> bytes:
        entries = []
        for file, data in files.items():
            entry: dict[str, Any] = {"type": "file", "path": file, "size": len(data), "oid": etag(data)}
            if len(data) >= LARGE:
                entry["lfs"] = {"oid": etag(data), "size": len(data), "pointerSize": 130}
            entries.append(entry)
        return json.dumps(entries).encode()

    def _file(
        self, request: BaseHTTPRequestHandler, body: bool, name: str, files: dict[str, bytes], commit: str
    ) -> None:
        data = files[name]
        first = 0
        asked = request.headers.get("Range")
        if asked:
            first = int(asked.removeprefix("bytes=").partition("-")[0])
        request.send_response(206 if asked else 200)
        request.send_header("ETag", f'"{etag(data)}"')
        request.send_header("X-Repo-Commit", commit)
        request.send_header("Content-Length", str(len(data) - first))
        if asked:
            request.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        if not body:
            return
        end = len(data) - 1 if name in self.wrong else min(len(data), self.cut.get(name, len(data)))
        for start in range(first, end, 1024):
            request.wfile.write(data[start : min(start + 1024, end)])
            request.wfile.flush()
            time.sleep(self.slow.get(name, 0))
        if end < len(data):
            request.close_connection = True

    def _send(self, request: BaseHTTPRequestHandler, body: bool, data: bytes) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if body:
            request.wfile.write(data)

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str, commit: str = "") -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("X-Error-Message", f"{code} for this request")
        if commit:
            request.send_header("X-Repo-Commit", commit)
        request.send_header("Content-Length", "0")
        request.end_headers()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that the client in this process talks to, with an empty cache below ``tmp_path``."""
    constants = pytest.importorskip("huggingface_hub.constants")
    from huggingface_hub import file_download
    from huggingface_hub.utils import _cache_manager

    served = Hub()
    home = tmp_path / "home"
    for name, value in served.settings(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    cache = str(home / "hub")
    values = {
        "ENDPOINT": served.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": served.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": cache,
        "HUGGINGFACE_HUB_CACHE": cache,
        "HF_HOME": str(home),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
    }
    for name, value in values.items():  # the client reads its variables when it is imported
        monkeypatch.setattr(constants, name, value)
    for module in (_cache_manager, file_download):  # where releases before 1.0 keep copies
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(module, name, values[name], raising=False)
    switch_off(monkeypatch, False)
    yield served
    served.close()


def switch_off(monkeypatch: pytest.MonkeyPatch, off: bool) -> None:
    """Forbid the client in this process to use the network, or allow it."""
    from huggingface_hub.utils import _http

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", off)
    if hasattr(_http, "reset_sessions"):  # before 1.0 a session remembers it
        _http.reset_sessions()
