"""Saves a Core ML model as a package ``NAME.mlpackage`` whose bytes depend on the model alone.

coremltools' own ``save`` names a package's items with random identifiers and stamps the date. The layout, as
it writes it: ``Manifest.json``, and under ``Data/com.apple.CoreML`` the program ``model.mlmodel`` and its
weights ``weights/weight.bin``.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgediff.errors import CheckFailed
from edgediff.export.json_files import dump_json
from edgediff.export.write import Folder

_DATA = "com.apple.CoreML"
_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://pypi.org/project/edgediff/mlpackage")
_DATE = "com.github.apple.coremltools.conversion_date"
_PIECE = 1 << 22


@dataclass(frozen=True, slots=True)
class About:
    """What a package says of itself: Xcode shows it. ``features`` describes inputs and outputs by name."""

    description: str
    version: str
    license: str | None = None
    features: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Saved:
    """Paths of a package's files in its folder; ``weights`` is None for a program without large constants."""

    model: str
    manifest: str
    weights: str | None

    @property
    def files(self) -> tuple[str, ...]:
        """All of them."""
        return (self.model, self.manifest, *(() if self.weights is None else (self.weights,)))


def write(folder: Folder, name: str, model: Any, about: About) -> Saved:
    """Save ``model`` (a ``coremltools.models.MLModel``) as ``name.mlpackage`` in a folder being written.

    The weights are copied from where coremltools left them, a piece at a time; that copy of its own is then
    removed, and the model cannot be used any more. Equal models give equal bytes.

    Raises:
        CheckFailed: the model has no package.
    """
    place = f"{name}.mlpackage"
    root = Path(model.package_path or "")
    if model.package_path is None or not root.is_dir():
        raise CheckFailed(f"{place}: coremltools made no package of this program.")
    spec = model.get_spec()
    _describe(spec.description, about)
    program = spec.SerializeToString(deterministic=True)
    del spec
    saved = Saved(f"{place}/Data/{_DATA}/model.mlmodel", f"{place}/Manifest.json", None)
    folder.write(saved.model, program)
    weights = root / "Data" / _DATA / "weights" / "weight.bin"
    items = [("model.mlmodel", "CoreML Model Specification", "model.mlmodel")]
    if weights.is_file():
        saved = Saved(saved.model, saved.manifest, f"{place}/Data/{_DATA}/weights/weight.bin")
        items.append(("weights", "CoreML Model Weights", "weights"))
        with weights.open("rb") as read, folder.create(str(saved.weights)) as file:
            while piece := read.read(_PIECE):
                file.write(piece)
    content = "".join(str(folder.files[each]["sha256"]) for each in saved.files if each in folder.files)
    entries = {_identifier(name, content, item): _item(*item) for item in items}
    folder.write(
        saved.manifest,
        dump_json(
            {
                "fileFormatVersion": "1.0.0",
                "itemInfoEntries": dict(sorted(entries.items())),
                "rootModelIdentifier": _identifier(name, content, items[0]),
            }
        ),
    )
    discard(model)
    return saved


def discard(model: Any) -> None:
    """Remove the temporary package that coremltools keeps of a model until the process ends."""
    if model.is_temp_package and model.package_path is not None:
        shutil.rmtree(model.package_path, ignore_errors=True)


def _item(name: str, description: str, path: str) -> dict[str, str]:
    return {"author": _DATA, "description": description, "name": name, "path": f"{_DATA}/{path}"}


def _identifier(name: str, content: str, item: tuple[str, str, str]) -> str:
    return str(uuid.uuid5(_SPACE, f"{name}/{item[2]}/{content}")).upper()


def _describe(description: Any, about: About) -> None:
    """Fill in the model's description; what is not the same in every export is taken out."""
    metadata = description.metadata
    metadata.shortDescription = about.description
    metadata.author = "edgediff"
    metadata.versionString = about.version
    if about.license is not None:
        metadata.license = about.license
    if _DATE in metadata.userDefined:
        del metadata.userDefined[_DATE]
    for key, value in about.more.items():
        metadata.userDefined[key] = value
    for feature in (*description.input, *description.output):
        feature.shortDescription = about.features.get(feature.name, "")
