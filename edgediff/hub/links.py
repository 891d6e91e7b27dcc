"""Links as the hub's client makes them: from a snapshot's file to the blob that is named by its content.

::

    models--org--name/snapshots/COMMIT/unet/model.onnx -> ../../../blobs/SHA256
    models--org--name/blobs/SHA256    (a file, or a link to ../../blobs/AB/HASH, which models share)

A blob's name is the sha256 of a large file, or git's hash of a small one, so a link of this form says what it
must lead to, and both are compared here. As in a manifest, that shows damage and not who made the files.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from edgediff.errors import IntegrityError
from edgediff.links import open_regular


def verified(file: Path, name: str) -> bool:
    """Return whether ``file``, which is ``name`` in its folder, is such a link and leads to the right bytes.

    False means that it is no link of the hub's client.

    Raises:
        IntegrityError: it is one, and the blob holds other bytes than its name says.
        BundleError: the blob is missing or no regular file.
    """
    blob = _blob(file, name)
    if blob is None:
        return False
    stream, receipt = open_regular(file)
    with stream:
        if len(blob.name) == 64:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        else:
            digest = hashlib.sha1(b"blob %d\0" % receipt.bytes, usedforsecurity=False)
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
            found = digest.hexdigest()
    if found != blob.name:
        raise IntegrityError(
            f"{file}: it leads to {blob}, whose content is {found}; remove it from the cache with "
            "`edgediff rm` and pull it again."
        )
    return True


def _blob(file: Path, name: str) -> Path | None:
    """The blob that a link of the hub's client leads to; None for any other link or file."""
    if not file.is_symlink():
        return None
    absolute = Path(os.path.normpath(file.absolute()))  # not resolved: each link on the way is looked at
    above = absolute.parents[: len(Path(name).parts)]  # the folders inside the snapshot, and the snapshot
    snapshots = above[-1].parent
    repository, blobs = snapshots.parent, snapshots.parent / "blobs"
    if snapshots.name != "snapshots" or not repository.name.startswith("models--"):
        return None
    blob = _target(absolute)
    if blob.parent != blobs or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return None
    plain = [*above, snapshots, blobs]
    if blob.is_symlink():  # newer clients share blobs between models
        shared, store = _target(blob), repository.parent / "blobs"
        if not re.fullmatch(r"[0-9a-f]{64}", shared.name) or shared.parent != store / shared.name[:2]:
            return None
        plain += [shared, shared.parent, store]
    return None if any(path.is_symlink() for path in plain) else blob


def _target(link: Path) -> Path:
    """Where a link leads, by its text alone."""
    return Path(os.path.normpath(link.parent / link.readlink()))
