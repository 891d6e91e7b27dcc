"""A bundle: graphs by role, the model's facts and defaults, as the manifest ``edgediff.json`` states them.

The folder layout is that of diffusers and Optimum with the manifest beside ``model_index.json``; a folder
without a manifest is read by :mod:`edgediff.optimum_folder`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgediff import links, manifest
from edgediff.errors import BundleError
from edgediff.links import Receipt
from edgediff.manifest import Fields

Dim = str | int
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
    """One file that some runtime loads. ``inputs`` is empty where only the file itself says (no manifest)."""

    runtime: str
    profile: str
    file: str
    precision: str
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    weights: tuple[str, ...] = ()


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
class Text:
    """Length of the text encoder's input and the tokenizer file."""

    length: int
    tokenizer: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a call uses unless it says otherwise."""

    sampler: str | None
    num_inference_steps: int
    guidance_scale: float
    size: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file of the bundle must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle; nothing is loaded yet. ``components`` maps a role to its graphs."""

    path: Path
    family: str
    tasks: tuple[str, ...]
    scheduler: Mapping[str, Any]
    latents: Latents
    defaults: Defaults
    components: Mapping[str, tuple[GraphSpec, ...]]
    text: Text | None = None
    guidance_embedding: int | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    format_version: str | None = None

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
            return _parse(folder, manifest.read_json(folder / manifest.MANIFEST))
        if (folder / "model_index.json").exists():
            from edgediff.optimum_folder import open_folder

            return open_folder(folder)
        raise BundleError(
            f"{folder}: neither {manifest.MANIFEST} nor model_index.json is in it; this is no bundle."
        )

    def graph(self, role: str, runtime: str | None = None) -> GraphSpec:
        """Return the first graph of ``role`` (for ``runtime``).

        Raises:
            BundleError: the bundle has none.
        """
        for spec in self.components.get(role, ()):
            if runtime in (None, spec.runtime):
                return spec
        have = ", ".join(f"{r} ({'/'.join(s.runtime for s in g)})" for r, g in self.components.items())
        wanted = role if runtime is None else f"{role} for {runtime}"
        raise BundleError(f"{self.path}: there is no graph for {wanted}; the bundle has {have}.")

    def verify(self, names: tuple[str, ...] | None = None) -> dict[Path, Receipt]:
        """Compare size and sha256 of all files (or of ``names``) with the manifest; return their receipts.

        All files means: nothing else may lie in the folders of the listed ones, hidden files excepted.

        Raises:
            IntegrityError: a file is missing or its bytes differ; the message names it.
            BundleError: a file lies there that the manifest does not list.
        """
        if names is None:
            self._refuse_unlisted({name.rpartition("/")[0] for name in self.files} - {""})
        found = {}
        for name in self.files if names is None else names:
            record = self.files[name]
            found[self.path / name] = links.verified(self.path / name, record.bytes, record.sha256)
        return found

    def admit(self, spec: GraphSpec, verify: bool = True) -> dict[Path, Receipt]:
        """Return what a graph's files are before a runtime opens them, compared with the manifest.

        Without ``verify`` only links are compared, since they may lead anywhere. Without a manifest there is
        nothing to compare with, and each file beside the graph may be its weights.

        Raises:
            IntegrityError: a file is missing or its bytes differ.
        """
        if not self.files:
            beside = (self.path / spec.file).parent.glob("*")
            return links.receipts([file for file in beside if file.suffix != ".json" and file.is_file()])
        names = (spec.file, *spec.weights)
        chosen = names if verify else tuple(n for n in names if links.is_link(self.path / n, n))
        return {**links.receipts([self.path / name for name in names]), **self.verify(chosen)}

    def admit_tokenizer(self, verify: bool = True) -> dict[Path, Receipt]:
        """Do for the files beside the tokenizer what :meth:`admit` does for those of a graph.

        Raises:
            IntegrityError: a file is missing or its bytes differ.
            BundleError: a file that the tokenizer would read is not listed.
        """
        if self.text is None or not self.files:
            return {}
        folder = self.text.tokenizer.rpartition("/")[0]
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


# Objects that may hold anything.
OPEN_ENDED = ("origin", "model.scheduler", "measured", "quality")


def _parse(folder: Path, value: Any) -> Bundle:
    from edgediff import agreement

    root = Fields(value, str(folder / manifest.MANIFEST))
    manifest.check_version(root.text("format_version", 16), root.where)
    root.text("edgediff_version", 64)
    origin = root.at("origin")
    origin.text("source", 1024)
    for key in ("revision", "license"):
        if key in origin:
            origin.text(key)
    for key in ("measured", "quality"):
        root.maybe(key)
    model = root.at("model")
    parts = root.items("components")
    components = {role: _graphs(part) for role, part in parts}
    if not components:
        raise BundleError(f"{root.where}.components: it is empty; a bundle has at least one graph.")
    files = _files(root)
    _check_listed(components, files, root.where)
    _check_tables(root, files)
    for role, part in parts:
        if "parameters" in part and part.path("parameters") not in files:
            raise BundleError(f"{root.where}: the parameters of {role} are not among the listed files.")
    guidance = model.maybe("guidance_embedding")
    bundle = Bundle(
        path=folder,
        family=model.text("family", 64),
        tasks=model.texts("tasks", 32) if "tasks" in model else (),
        scheduler=model.at("scheduler").value,
        latents=_latents(model.at("latents")),
        defaults=_defaults(root.at("defaults")),
        components=components,
        text=_text(model.maybe("text"), files, root.where),
        guidance_embedding=None if guidance is None else guidance.whole("dims", 2),
        origin=origin.value,
        files=files,
        format_version=root.text("format_version", 16),
    )
    agreement.check(bundle)
    _warn_of_unknown(root)
    return bundle


def _check_tables(root: Fields, files: Mapping[str, FileRecord]) -> None:
    """Sampler tables are for programs without samplers; what the manifest says of them must hold."""
    for table in root.objects("tables") if "tables" in root else ():
        table.text("sampler", 64)
        table.whole("num_inference_steps", 1, 1000)
        if table.path("file") not in files:
            raise BundleError(f"{table.where}: {table.path('file')} is not among the listed files.")


def _warn_of_unknown(root: Fields) -> None:
    unknown = (place.removeprefix(f"{root.where}.") for place in root.unknown(OPEN_ENDED))
    found = [ascii(place)[1:-1][:60] for place in unknown]
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        warnings.warn(
            f"{root.where}: {', '.join(found[:5])}{more}: unknown to this edgediff and ignored; upgrade it "
            "if they matter.",
            manifest.UnknownField,
            stacklevel=4,  # whoever opened the bundle
        )


def _graphs(part: Fields) -> tuple[GraphSpec, ...]:
    specs = tuple(
        GraphSpec(
            runtime=g.text("runtime", 64),
            profile=g.text("profile", 64),
            file=g.path("file"),
            precision=g.text("precision", 64),
            inputs=_tensors(g, "inputs"),
            outputs=_tensors(g, "outputs"),
            weights=tuple(
                manifest.safe_name(w, f"{g.where}.weights")
                for w in (g.texts("weights", 16) if "weights" in g else ())
            ),
        )
        for g in part.objects("graphs")
    )
    if not 1 <= len(specs) <= 32:
        raise BundleError(f"{part.where}.graphs: expected 1 to 32 graphs, found {len(specs)}.")
    return specs


def _tensors(graph: Fields, key: str) -> tuple[TensorSpec, ...]:
    found = []
    for tensor in graph.objects(key):
        dtype = tensor.text("dtype")
        if dtype not in manifest.DTYPES:
            raise BundleError(f"{tensor.where}.dtype: {dtype!r} is not one of {', '.join(manifest.DTYPES)}.")
        dims = tensor.anything("dims")
        if not isinstance(dims, list) or len(dims) > 8 or not all(_is_dim(d) for d in dims):
            raise BundleError(f"{tensor.where}.dims: expected up to 8 names or sizes, found {dims!r:.60}.")
        found.append(TensorSpec(tensor.text("name"), dtype, tuple(dims)))
    if not 1 <= len(found) <= 256:
        raise BundleError(f"{graph.where}.{key}: expected 1 to 256 tensors, found {len(found)}.")
    return tuple(found)


def _is_dim(dim: object) -> bool:
    if isinstance(dim, str):
        return 1 <= len(dim) <= 64
    return isinstance(dim, int) and not isinstance(dim, bool) and 1 <= dim <= 1 << 40


def _latents(f: Fields) -> Latents:
    axes, downscale = f.texts("axes", 8), f.wholes("downscale")
    if axes[:2] != ("batch", "channels") or len(set(axes)) != len(axes):
        raise BundleError(
            f"{f.where}.axes: expected 2 to 8 different names, batch and channels first; found {list(axes)}."
        )
    if set(downscale) != set(axes[2:]):
        raise BundleError(
            f"{f.where}.downscale: expected a factor for each of {list(axes[2:])}, found {list(downscale)}."
        )
    scale = f.number("scaling_factor")
    if scale <= 0:
        raise BundleError(f"{f.where}.scaling_factor: {scale} is not above 0.")
    return Latents(f.whole("channels"), axes, downscale, scale, f.number("shift_factor"))


def _defaults(f: Fields) -> Defaults:
    return Defaults(
        sampler=f.text("sampler", 64),
        num_inference_steps=f.whole("num_inference_steps", 1, 1000),
        guidance_scale=f.number("guidance_scale", 0, 100),
        size=f.wholes("size") if "size" in f else {},
    )


def _text(f: Fields | None, files: Mapping[str, FileRecord], where: str) -> Text | None:
    if f is None:
        return None
    tokenizer = f.path("tokenizer")
    if tokenizer not in files:
        raise BundleError(f"{where}: the tokenizer {tokenizer} is not among the listed files.")
    return Text(f.whole("length", 3), tokenizer)


def _files(root: Fields) -> dict[str, FileRecord]:
    files = {}
    for name, record in root.items("files"):
        digest = record.text("sha256", 64)
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise BundleError(f"{record.where}.sha256: expected 64 lower-case hex digits, found {digest!r}.")
        files[manifest.safe_name(name, f"{root.where}.files")] = FileRecord(
            record.whole("bytes", 0, 1 << 40), digest
        )
    manifest.check_distinct(list(files), f"{root.where}.files")
    return files


def _check_listed(
    components: Mapping[str, tuple[GraphSpec, ...]], files: Mapping[str, FileRecord], where: str
) -> None:
    for role, specs in components.items():
        for spec in specs:
            for name in (spec.file, *spec.weights):
                if name not in files:
                    raise BundleError(f"{where}: {role} needs {name}, which is not among the listed files.")
