"""From the fields of ``edgediff.json`` to a :class:`~edgediff.bundle.Bundle`, every one of them checked."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgediff import agreement, manifest
from edgediff.bundle import (
    Bundle,
    Control,
    Defaults,
    FileRecord,
    GraphSpec,
    Latents,
    Limit,
    Reduced,
    Scale,
    TensorSpec,
    Text,
    TextEncoder,
)
from edgediff.errors import BundleError
from edgediff.manifest import Fields
from edgediff.work import CLASSES, Term

# Objects that may hold anything.
OPEN_ENDED = ("origin", "model.scheduler", "measured", "quality")


def parse(folder: Path, value: Any) -> Bundle:
    """Return the bundle that a manifest describes.

    Raises:
        BundleError: a field is missing or is not what the format says.
        UnsupportedError: the manifest is of another major version.
    """
    root = Fields(value, str(folder / manifest.MANIFEST))
    manifest.check_version(root.text("format_version", 16), root.where)
    root.text("edgediff_version", 64)
    origin = root.at("origin")
    origin.text("source", 1024)
    for key in ("revision", "license"):
        if key in origin:
            origin.text(key)
    root.maybe("measured")
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
        text=_text(model.maybe("text"), files, components),
        guidance_embedding=None if guidance is None else guidance.whole("dims", 2),
        size_ids=_size_ids(model),
        controls=_controls(model, components),
        attention=_attention(model),
        tiny_decoder=_tiny_decoder(model.maybe("tiny_decoder"), components),
        profiles=_profiles(root),
        origin=origin.value,
        files=files,
        format_version=root.text("format_version", 16),
        quality=_quality(root.maybe("quality")),
        work={role: _work(part) for role, part in parts if "work" in part},
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
                for w in (g.texts("weights", 32) if "weights" in g else ())
            ),
            numerics=g.one_of("numerics", ("proven", "unproven")) if "numerics" in g else None,
            requires=g.texts("requires", 16) if "requires" in g else (),
            stages=tuple(
                manifest.safe_name(s, f"{g.where}.stages")
                for s in (g.texts("stages", 8) if "stages" in g else ())
            ),
            extents=_extents(g),
        )
        for g in part.objects("graphs")
    )
    if not 1 <= len(specs) <= 32:
        raise BundleError(f"{part.where}.graphs: expected 1 to 32 graphs, found {len(specs)}.")
    return specs


def _work(part: Fields) -> tuple[Term, ...]:
    found = part.objects("work")
    if len(found) > 512:
        raise BundleError(f"{part.where}.work: expected at most 512 terms, found {len(found)}.")
    return tuple(
        Term(
            each.one_of("class", CLASSES),
            each.whole("flops", 0, 1 << 53),
            tuple((p.text("dim", 64), p.whole("over", 1, 1 << 16)) for p in each.objects("per")),
        )
        for each in found
    )


def _extents(graph: Fields) -> tuple[Mapping[str, int], ...]:
    found = graph.objects("extents") if "extents" in graph else []
    if len(found) > 32:
        raise BundleError(f"{graph.where}.extents: expected at most 32 objects, found {len(found)}.")
    return tuple({name: each.whole(name, 1, 1 << 40) for name in each.value} for each in found)


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
        timesteps=f.numbers("timesteps", 1000) if "timesteps" in f else None,
        limits={name: _limit(inner) for name, inner in f.items("limits")} if "limits" in f else {},
        recipe=f.text("recipe", 64) if "recipe" in f else None,
    )


LIMITED = ("guidance_scale", "num_inference_steps")


def _limit(f: Fields) -> Limit:
    if f.where.rpartition(".")[2] not in LIMITED:
        raise BundleError(f"{f.where}: limits are known for {' and '.join(LIMITED)}.")
    low, high = f.number("low", 0, 1000), f.number("high", 0, 1000)
    if low > high:
        raise BundleError(f"{f.where}: low {low:g} is above high {high:g}.")
    return Limit(low, high, f.one_of("outside", ("warn", "refuse")))


def _text(f: Fields | None, files: Mapping[str, FileRecord], roles: Iterable[str]) -> Text | None:
    if f is None:
        return None
    length, tokenizer = f.whole("length", 3), _tokenizer(f, files)
    listed = f.objects("encoders") if "encoders" in f else []
    encoders = tuple(_encoder(each, files, roles) for each in listed)
    if "encoders" not in f:
        encoders = (TextEncoder("text_encoder", length, tokenizer),)
    elif not 1 <= len(encoders) <= 8 or (encoders[0].length, encoders[0].tokenizer) != (length, tokenizer):
        raise BundleError(f"{f.where}.encoders: expected 1 to 8, the first one as above.")
    elif len({each.length for each in encoders}) > 1 or len({each.role for each in encoders}) < len(encoders):
        raise BundleError(f"{f.where}.encoders: expected different roles and one length.")
    projections = _role(f, roles, "projections") if "projections" in f else None
    zeros = f.flag("zero_negative") if "zero_negative" in f else False
    return Text(length, tokenizer, encoders, zeros, projections)


def _encoder(f: Fields, files: Mapping[str, FileRecord], roles: Iterable[str]) -> TextEncoder:
    hidden = f.text("hidden", 64)
    if re.fullmatch(r"last_hidden_state|hidden_states\.(0|[1-9][0-9]{0,2})", hidden) is None:
        raise BundleError(f"{f.where}.hidden: {hidden!r} is neither last_hidden_state nor hidden_states.N.")
    return TextEncoder(
        role=_role(f, roles),
        length=f.whole("length", 3),
        tokenizer=_tokenizer(f, files),
        hidden=hidden,
        pooled=f.text("pooled", 64) if "pooled" in f else None,
    )


def _role(f: Fields, roles: Iterable[str], key: str = "role") -> str:
    role = f.text(key, 64)
    if role not in roles:
        raise BundleError(f"{f.where}.{key}: the bundle has no component {role!r}.")
    return role


def _tokenizer(f: Fields, files: Mapping[str, FileRecord]) -> str:
    tokenizer = f.path("tokenizer")
    if tokenizer not in files:
        raise BundleError(f"{f.where}: the tokenizer {tokenizer} is not among the listed files.")
    return tokenizer


SIZE_IDS = (
    "original_height", "original_width", "crop_top", "crop_left", "target_height", "target_width",
    "aesthetic_score",
)  # fmt: skip


def _size_ids(model: Fields) -> tuple[str, ...]:
    found = model.texts("size_ids", 16) if "size_ids" in model else ()
    for name in found:
        if name not in SIZE_IDS:
            raise BundleError(f"{model.where}.size_ids: {name!r} is not one of {', '.join(SIZE_IDS)}.")
    return found


def _attention(model: Fields) -> tuple[Reduced, ...]:
    """What was reduced; ways that are yet to be invented are told on."""
    found = model.objects("attention") if "attention" in model else []
    if len(found) > 16:
        raise BundleError(f"{model.where}.attention: expected at most 16 objects, found {len(found)}.")
    return tuple(Reduced(f.text("way", 32), f.whole("size", 2, 64), _levels(f)) for f in found)


def _levels(f: Fields) -> tuple[int, ...]:
    found = f.anything("levels")
    good = isinstance(found, list) and 1 <= len(found) <= 16
    if not good or not all(type(level) is int and 1 <= level <= 16 for level in found):
        raise BundleError(
            f"{f.where}.levels: expected 1 to 16 whole numbers of 1 to 16, found {found!r:.60}."
        )
    return tuple(found)


def _controls(model: Fields, roles: Iterable[str]) -> tuple[Control, ...]:
    if "controls" not in model:
        return ()
    return tuple(Control(_role(f, roles), f.whole("channels", 1, 64)) for f in model.objects("controls"))


def _tiny_decoder(f: Fields | None, roles: Iterable[str]) -> Scale | None:
    if f is None:
        return None
    if "tiny_decoder" not in roles:
        raise BundleError(f"{f.where}: the bundle has no component 'tiny_decoder'.")
    scale = f.number("scaling_factor")
    if scale <= 0:
        raise BundleError(f"{f.where}.scaling_factor: {scale} is not above 0.")
    return Scale(scale, f.number("shift_factor"))


def _profiles(root: Fields) -> dict[str, tuple[str, ...]]:
    listed = root.maybe("profiles")
    return {} if listed is None else {device: listed.texts(device, 16) for device in listed.value}


def _quality(f: Fields | None) -> Mapping[str, Any]:
    """What was found when the bundle was quantized. Floors and ratios are checked; the rest is for people."""
    if f is None:
        return {}
    if "scheme" in f:
        f.text("scheme", 64)
    floors, pictures = f.maybe("floors"), f.maybe("pictures")
    if floors is not None and "snr_db" in floors:
        for role in floors.at("snr_db").value:
            floors.at("snr_db").number(role, -200, 200)
    for role, component in f.items("components") if "components" in f else ():
        if not 1 <= len(role) <= 64:
            raise BundleError(f"{f.where}.components: {role!r:.60} is no role.")
        _ratios(component, ("snr_db", "psnr_db"))
    _ratios(f, ("latents_psnr_db", "latents_snr_db"))
    _ratios(floors, ("latents_psnr_db", "latents_snr_db", "pictures_psnr_db"))
    _ratios(floors, ("pictures_ssim",), 1.0)
    _ratios(pictures, ("psnr_db",))
    _ratios(pictures, ("ssim", "lowest_ssim"), 1.0)
    return f.value


def _ratios(f: Fields | None, keys: tuple[str, ...], most: float = 200.0) -> None:
    for key in keys:
        if f is not None and key in f:
            f.number(key, -most, most)


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
            for name in spec.files:
                if name not in files:
                    raise BundleError(f"{where}: {role} needs {name}, which is not among the listed files.")
