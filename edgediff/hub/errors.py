"""What the hub's client says, in edgediff's words and errors. Nothing here imports the client."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from edgediff.errors import (
    CancelledError,
    EdgediffError,
    InputError,
    IntegrityError,
    ResourceError,
    UnsupportedError,
)

_AGAIN = "files that are whole stay in the cache, so `edgediff pull {repo}` fetches the rest"
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}


@contextmanager
def translated(repo: str, revision: str | None, token: str | None = None) -> Iterator[None]:
    """Turn what goes wrong in a block that talks to the hub into errors of ours; the token is never shown.

    Raises:
        InputError: there is no such repository or revision, or it is closed to this user.
        UnsupportedError: the hub cannot be reached, or must not be.
        ResourceError: the disk is full or cannot be written.
        IntegrityError: a file did not arrive as the hub described it.
        CancelledError: the user interrupted.
    """
    try:
        yield
    except EdgediffError:
        raise
    except KeyboardInterrupt:
        raise CancelledError(f"{repo}: the download was interrupted; {_AGAIN.format(repo=repo)}.") from None
    except Exception as error:
        # Without the original: its request carries the token, and loggers show such things.
        raise _told(error, repo, revision, token) from None


def _told(error: Exception, repo: str, revision: str | None, token: str | None) -> EdgediffError:
    names = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    page = f"https://huggingface.co/{repo}"
    login = "log in with `hf auth login`, or set HF_TOKEN"
    if "GatedRepoError" in names:
        return InputError(
            f"{repo}: its authors ask everybody to accept their terms first; do so on {page}, then {login}."
        )
    if "RevisionNotFoundError" in names:
        return InputError(f"{repo}: has no revision {revision!r}; name a branch, a tag or a commit of it.")
    if "RepositoryNotFoundError" in names:
        return InputError(
            f"{repo}: neither a folder here nor a model on the hub that may be read; check the spelling, or, "
            f"if it is private, {login}."
        )
    if "HFValidationError" in names:
        return InputError(f"{repo}: the hub takes no such name or revision ({_line(error, token)}).")
    if names & {"OfflineModeIsEnabled"}:
        return offline(repo, revision)
    if "DisabledRepoError" in names:
        return InputError(f"{repo}: the hub has closed this repository; take another one.")
    if status in (401, 403):
        return InputError(f"{repo}: the hub refused access (status {status}); {login}.")
    if status == 429:
        return UnsupportedError(f"{repo}: the hub takes no more requests for now (429); wait, or {login}.")
    if isinstance(error, OSError) and error.errno in _FULL:
        room = "make room (`edgediff list`, `edgediff rm`), then pull again"
        return ResourceError(f"{repo}: the disk is full; {room}: {_AGAIN.format(repo=repo)}.")
    if isinstance(error, PermissionError) or getattr(error, "errno", None) == errno.EROFS:
        where = getattr(error, "filename", None) or "the hub's cache"
        return ResourceError(f"{repo}: {where} cannot be written; set HF_HOME to a folder that can.")
    text = _line(error, token)
    if "onsistency check" in text:
        return IntegrityError(f"{repo}: a file arrived incomplete ({text}); {_AGAIN.format(repo=repo)}.")
    if "EntryNotFoundError" in names and "LocalEntryNotFoundError" not in names:
        return InputError(f"{repo}: a file that it lists is not there ({text}); ask its authors.")
    return UnsupportedError(
        f"{repo}: the hub could not be reached, or the download broke off ({text}). Check the connection (and"
        " HF_ENDPOINT and HTTPS_PROXY, where set; HF_HUB_DISABLE_XET=1 helps where downloads stall); "
        f"{_AGAIN.format(repo=repo)}."
    )


def offline(repo: str, revision: str | None) -> UnsupportedError:
    """Return what to say of something that is not (wholly) cached while the network is switched off."""
    at = f" at revision {revision}" if revision else ""
    return UnsupportedError(
        f"{repo}: no folder here, and not (or not wholly) in the hub's cache{at}; HF_HUB_OFFLINE or "
        f"TRANSFORMERS_OFFLINE forbids to download. Set them to 0 and run `edgediff pull {repo}` once."
    )


def _line(error: Exception, token: str | None) -> str:
    """The first words of a foreign message, in one line and without secrets."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if token:
        text = text.replace(token, "***")
    text = re.sub(r"\bhf_\w{8,}", "***", text)
    text = re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", text)  # signed addresses
    return text if len(text) <= 240 else text[:240] + "..."
