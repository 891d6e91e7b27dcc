"""A bundle: graphs by role, the model's facts and defaults, as the manifest ``edgediff.json`` states them.

The folder layout is that of diffusers and Optimum with the manifest beside ``model_index.json``; a folder
without a manifest is read by :mod:`edgediff.optimum_folder`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgediff import links, manifest
from edgediff.errors import BundleError
from edgediff.links import Receipt
from edgediff.work import Term

Dim = str | int
COREML = "coreml"
PACKAGES = (".mlpackage", ".mlmodelc")  # as Core ML reads them, and as it compiles them
# What the tokenizer reads if it lies there.
TOKENIZER_FILES = frozenset(
    ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph's input or output: a symbolic dim is a name, a fixed one a number."""

    name: str
    dtype: str
    dims: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """One file that some runtime loads. ``inputs`` is empty where only the file itself says (no manifest).

    A network in several pieces has the first one as ``file`` and the later ones as ``stages``, each of which
    is fed the call's inputs and what the pieces before it gave. ``extents`` are the only values that named
    dims may have together, the default ones first; any values where there are none.
    """

    runtime: str
    profile: str
    file: str
    precision: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    weights: tuple[str, ...] = ()
    numerics: str | None = None  # "proven" or "unproven", for graphs stored in half precision
    requires: tuple[str, ...] = ()  # of the processor, as ``edgediff.cpu.features`` names it
    stages: tuple[str, ...] = ()
    extents: tuple[Mapping[str, int], ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All files that a runtime opens for it."""
        return (self.file, *self.stages, *self.weights)


def package_of(name: str) -> str | None:
    """Return the folder of the Core ML package that a file of a bundle is in, None if it is in none."""
    parts = name.split("/")
    for i, part in enumerate(parts[:-1]):
        if part.lower().endswith(PACKAGES):
            return "/".join(parts[: i + 1])
    return None


def suits(spec: GraphSpec) -> bool:
    """Whether this machine's processor has what a form was made for."""
    if not spec.requires:
        return True
    from edgediff import cpu

    return cpu.features().issuperset(spec.requires)


@dataclass(frozen=True, slots=True)
class Latents:
    """Shape and scale of what the denoiser works on. ``downscale`` maps an axis to result units per latent
    unit."""

    channels: int
    axes: tuple[str, ...]
    downscale: Mapping[str, int]
    scaling_factor: float
    shift_factor: float = 0.0


@dataclass(frozen=True, slots=True)
class Scale:
    """What a decoder of its own reads: the denoiser's latents divided by ``scaling_factor``, plus
    ``shift_factor``."""

    scaling_factor: float
    shift_factor: float = 0.0


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """One of the text encoders whose states are joined along their channels, in the order of the list.

    ``hidden`` names the output that the denoiser reads: ``last_hidden_state``, or ``hidden_states.N`` (the
    states before layer N, without the final norm). ``pooled`` names the output that goes to the denoiser's
    ``text_embeds``, where this encoder has one.
    """

    role: str
    length: int
    tokenizer: str
    hidden: str = "last_hidden_state"
    pooled: str | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """Length of the text encoder's input and the tokenizer file, those of the first of ``encoders``.

    ``zero_negative``: without a negative prompt, guidance steers away from zeros, not from the empty text.
    ``projections``: the role of a graph that makes of the states, once per prompt, what the denoiser reads in
    their place; None where it reads the states themselves.
    """

    length: int
    tokenizer: str
    encoders: tuple[TextEncoder, ...] = ()
    zero_negative: bool = False
    projections: str | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """A network whose residuals steer the denoiser (ControlNet): its role, and its picture's channels."""

    role: str
    channels: int


@dataclass(frozen=True, slots=True)
class Limit:
    """The range of a setting that a model was made for; outside it a call warns or is refused."""

    low: float
    high: float
    outside: str  # "warn" or "refuse"


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a call uses unless it says otherwise. ``limits`` is by argument: ``guidance_scale``, ..."""

    sampler: str | None
    num_inference_steps: int
    guidance_scale: float
    size: Mapping[str, int]
    timesteps: tuple[float, ...] | None = None
    limits: Mapping[str, Limit] = field(default_factory=dict)
    recipe: str | None = None


@dataclass(frozen=True, slots=True)
class Reduced:
    """Self-attention that was made cheaper at export: how, by which size, at which levels (1: the finest)."""

    way: str
    size: int
    levels: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.way}:{self.size}@{','.join(map(str, self.levels))}"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file of the bundle must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle; nothing is loaded yet. ``components`` maps a role to its graphs.

    ``size_ids`` names the numbers that the denoiser reads as ``time_ids``, in order; ``profiles`` the forms
    of graphs that a device takes, the preferred one first; ``quality`` how far a quantized bundle is from its
    float parent; ``work`` what a role computes (:func:`edgediff.work.flops`). ``attention`` lists what
    of the denoiser's self-attention is not computed as the checkpoint would have it. ``tiny_decoder`` is the
    scale of the second, smaller decoder where there is one.
    """

    path: Path
    family: str
    tasks: tuple[str, ...]
    scheduler: Mapping[str, Any]
    latents: Latents
    defaults: Defaults
    components: Mapping[str, tuple[GraphSpec, ...]]
    text: Text | None = None
    guidance_embedding: int | None = None
    size_ids: tuple[str, ...] = ()
    controls: tuple[Control, ...] = ()
    tiny_decoder: Scale | None = None
    attention: tuple[Reduced, ...] = ()
    profiles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    format_version: str | None = None
    quality: Mapping[str, Any] = field(default_factory=dict)
    work: Mapping[str, tuple[Term, ...]] = field(default_factory=dict)

    @staticmethod
    def open(path: str | Path) -> Bundle:
        """Read the manifest in the folder ``path``, or what Optimum's files say where there is none.

        Raises:
            BundleError: the folder is no bundle, or its manifest is not what the format says.
            UnsupportedError: the manifest is of another major version.
        """
        folder = Path(path)  # never resolved: ONNX Runtime refuses external data behind a resolved cache link
        try:
            found = folder.is_dir()
        except OSError as error:  # such as a name longer than the system allows
            raise BundleError(f"{str(folder)[:100]}: cannot be opened ({error.strerror}).") from error
        if not found:
            raise BundleError(
                f"{folder}: there is no such folder; a bundle is a folder with {manifest.MANIFEST}."
            )
        if (folder / manifest.MANIFEST).exists():
            from edgediff.bundle_reader import parse

            return parse(folder, manifest.read_json(folder / manifest.MANIFEST))
        if (folder / "model_index.json").exists():
            from edgediff.optimum_folder import open_folder

            return open_folder(folder)
        raise BundleError(
            f"{folder}: neither {manifest.MANIFEST} nor model_index.json is in it; this is no bundle."
        )

    def graph(self, role: str, runtime: str | None = None, device: str = "auto") -> GraphSpec:
        """Return the graph of ``role`` (for ``runtime``) in the form that ``device`` takes best.

        A device takes the forms that ``profiles`` lists for it, then the portable one; ``auto`` is the CPU,
        for which forms that need more of the processor than it has are passed over.
        A manifest without that table means that each runtime has one form: the first. So do packages of Core
        ML, whatever the table says of other graphs.

        Raises:
            BundleError: the bundle has none.
        """
        specs = [s for s in self.components.get(role, ()) if runtime in (None, s.runtime)]
        if specs and not self.profiles:
            return specs[0]
        for profile in (*self.profiles.get("cpu" if device == "auto" else device, ()), "portable"):
            for spec in specs:
                if spec.profile == profile and (device not in ("auto", "cpu") or suits(spec)):
                    return spec
        if specs and all(spec.runtime == COREML for spec in specs):
            return specs[0]
        have = ", ".join(
            f"{r} ({', '.join(f'{s.runtime}/{s.profile}' for s in g)})" for r, g in self.components.items()
        )
        wanted = role if runtime is None else f"{role} for {runtime}"
        place = "" if device == "auto" else f" on {device}"
        raise BundleError(f"{self.path}: there is no graph for {wanted}{place}; the bundle has {have}.")

    def digest(self, spec: GraphSpec) -> str | None:
        """Return one sha256 for all that a graph's files hold, None where the manifest does not say."""
        if not all(name in self.files for name in spec.files):
            return None
        text = "\n".join(f"{name} {self.files[name].sha256}" for name in spec.files)
        return hashlib.sha256(text.encode()).hexdigest()

    def verify(
        self, names: tuple[str, ...] | None = None, remembered: Path | None = None
    ) -> dict[Path, Receipt]:
        """Compare size and sha256 of all files (or of ``names``) with the manifest; return their receipts.

        All files means: nothing else may lie in the folders of the listed ones, nor anywhere in a package of
        Core ML, hidden files excepted. Large files whose digest is known in the folder ``remembered``, and
        which did not change since (:mod:`edgediff.digests`), are not read again.

        Raises:
            IntegrityError: a file is missing or its bytes differ; the message names it.
            BundleError: a file lies there that the manifest does not list.
        """
        if names is None:
            folders = {name.rpartition("/")[0] for name in self.files} - {""}
            self._refuse_unlisted(folders.union(*(self._inside(package) for package in self.packages)))
        found = {}
        for name in self.files if names is None else names:
            record = self.files[name]
            found[self.path / name] = links.verified(
                self.path / name, record.bytes, record.sha256, remembered
            )
        return found

    def admit(
        self, spec: GraphSpec, verify: bool = True, remembered: Path | None = None
    ) -> dict[Path, Receipt]:
        """Return what a graph's files are before a runtime opens them, compared with the manifest.

        Without ``verify`` only links are compared, since they may lead anywhere. Without a manifest there is
        nothing to compare with, and each file beside the graph may be its weights. ``remembered`` is as for
        :meth:`verify`.

        Raises:
            IntegrityError: a file is missing or its bytes differ.
        """
        if not self.files:
            beside = (self.path / spec.file).parent.glob("*")
            return links.receipts([file for file in beside if file.suffix != ".json" and file.is_file()])
        names = spec.files
        chosen = names if verify else tuple(n for n in names if links.is_link(self.path / n, n))
        return {**links.receipts([self.path / name for name in names]), **self.verify(chosen, remembered)}

    @property
    def packages(self) -> tuple[str, ...]:
        """Folders that Core ML takes as one model, from the bundle's own."""
        found = (package_of(name) for name in self.files)
        return tuple(dict.fromkeys(name for name in found if name is not None))

    def _inside(self, package: str) -> set[str]:
        """A package's folder and those in it, by their names in the bundle."""
        folders = (path for path in (self.path / package).rglob("*") if path.is_dir())
        return {package, *(path.relative_to(self.path).as_posix() for path in folders)}

    @property
    def text_roles(self) -> tuple[str, ...]:
        """Roles of the text encoders, in the order in which their states are joined."""
        return () if self.text is None else tuple(encoder.role for encoder in self.text.encoders)

    @property
    def prompt_roles(self) -> tuple[str, ...]:
        """Roles of the graphs that run once per prompt: text encoders, then what projects their states."""
        projections = None if self.text is None else self.text.projections
        return self.text_roles if projections is None else (*self.text_roles, projections)

    def admit_tokenizer(self, verify: bool = True, tokenizer: str | None = None) -> dict[Path, Receipt]:
        """Do for the files beside a tokenizer (the first one) what :meth:`admit` does for those of a graph.

        Raises:
            IntegrityError: a file is missing or its bytes differ.
            BundleError: a file that the tokenizer would read is not listed.
        """
        if self.text is None or not self.files:
            return {}
        folder = (self.text.tokenizer if tokenizer is None else tokenizer).rpartition("/")[0]
        self._refuse_unlisted({folder}, TOKENIZER_FILES)
        names = [name for name in self.files if name.rpartition("/")[0] == folder]
        return self.verify(tuple(n for n in names if verify or links.is_link(self.path / n, n)))

    def _refuse_unlisted(self, folders: set[str], only: frozenset[str] | None = None) -> None:
        listed = {name.lower() for name in self.files}  # one file, however a system spells it
        for folder in sorted(folders):
            for file in sorted((self.path / folder).glob("*")):
                name = file.name.lower()
                told = name in only if only is not None else not name.startswith(".")
                place = f"{folder.lower()}/{name}" if folder else name
                if told and place not in listed and not file.is_dir():
                    raise BundleError(
                        f"{file}: the manifest does not list it; remove it or export the bundle again."
                    )
