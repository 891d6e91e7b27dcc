"""The exporter's entry point: a model folder becomes a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, cast

from edgediff.errors import CancelledError, InputError, ResourceError, UnsupportedError
from edgediff.export import others
from edgediff.export.assemble import Asked, Assembled, Choices, assemble
from edgediff.export.bundle_folder import Content, fill, needed_space
from edgediff.export.emit.onnx_builder import Storage
from edgediff.export.families import stable_diffusion
from edgediff.export.families.parts import Model
from edgediff.export.forecast import forecast
from edgediff.export.forms import DEFAULT_PROFILES, forms_of, profiles_of
from edgediff.export.json_files import dump_json
from edgediff.export.quantize import driver
from edgediff.export.quantize.driver import Quantizing
from edgediff.export.quantize.plan import REDUCED
from edgediff.export.quantize.prompts import own_files
from edgediff.export.reduced import UNMEASURED, with_reduction
from edgediff.export.sources import FolderSource, Source
from edgediff.export.step_cache import with_shallow
from edgediff.export.text_apart import with_text_apart
from edgediff.export.write import MANIFEST, check_space, check_target, new_folder

_STORAGES: dict[str, Storage] = {"fp32": "fp32", "fp16": "fp16"}


class Options(Choices, Quantizing, total=False):
    """What :func:`export_onnx` takes besides: which parts, and how to quantize."""


def export_onnx(
    model: str,
    out: str,
    *,
    dtype: str = "fp32",
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
    verify: bool = True,
    dry_run: bool = False,
    profiles: Iterable[str] = DEFAULT_PROFILES,
    attention: str | None = None,
    split_text: bool = False,
    step_cache: bool = False,
    **options: Unpack[Options],
) -> dict[str, Any]:
    """Turn ``model`` (a folder, a single file, or a hub's id) into the bundle ``out``.

    ``dtype`` is the type in which weights are stored; graphs compute in float32 and weights widen when they
    are loaded. ``report`` receives a line per stage. ``verify`` checks and runs each graph once before the
    bundle appears. ``dry_run`` writes nothing and says what would be written and how much memory it takes.
    ``profiles`` are the forms of each graph: ``portable`` always, ``ort-cpu``, ``ort-cuda``, ``coreml-ep``,
    ``openvino``. ``attention`` reduces self-attention, as ``tiles:2@1`` (``edgediff.export.emit.reduce``).
    ``split_text`` gives keys and values of the text a graph of their own, which runs once per prompt.
    ``step_cache`` adds a shallow form of the denoiser, for steps between whole passes.
    ``options`` are the fields of ``edgediff.export.assemble.Asked`` (``parts``, ``loras``, ``recipe``, ...)
    and of ``edgediff.export.quantize.driver.Wanted`` (``quantize``, ``calibration``, ``min_psnr``, ...).

    The result: ``bundle`` (path), ``bytes``, ``files`` (count), ``precision``, ``ran`` (every graph did),
    ``notes``, and of a quantized or reduced bundle ``quality``, its receipt. Raises only errors of
    ``edgediff.errors``; nothing then stands at ``out``.
    """
    say = report if report is not None else _silent
    if dtype not in _STORAGES:
        raise InputError(f"dtype {dtype!r}: known are {' and '.join(_STORAGES)}.")
    target, chosen = Path(out), profiles_of(profiles)
    quantizing = {name: options.pop(name) for name in Quantizing.__annotations__ if name in options}  # type: ignore[misc]
    choices = cast(Choices, options)
    quantize = driver.wanted(cast(Quantizing, quantizing), attention)
    try:
        check_target(target, overwrite)
        passes = {"attention": attention, "split_text": split_text, "step_cache": step_cache}
        more = {each.name for each in chosen} - set(DEFAULT_PROFILES)
        asked = {**choices, **quantizing, **passes, "profiles": more}
        done = others.taken(model, target, dtype, overwrite, say, verify, dry_run, asked)
        if done is not None:
            return done
        found = assemble(Asked(model, **choices), say)
        if found.source.pipeline not in stable_diffusion.PIPELINES and isinstance(found.source, FolderSource):
            return others.traced(found.source, target, dtype, overwrite, say, dry_run, asked)
        whole = with_shallow(with_text_apart(build(found), split_text), step_cache)
        built = with_reduction(whole, attention)
        for note in built.notes:
            say(f"note: {note}")
        if dry_run:
            planned, precision = (None, dtype)
            if quantize is not None and quantize.quantize != REDUCED:
                planned, precision = driver.forecast_of(quantize, built)
            forms = forms_of(built, _STORAGES[dtype], chosen, planned)
            return forecast(found.source, built, forms, target, precision)
        content = Content(_STORAGES[dtype], chosen, dtype, verify)
        if quantize is not None and (quantize.receipt or quantize.quantize != REDUCED):
            return driver.write_quantized(
                found.source, built, target, quantize, content, overwrite, say, whole
            )
        if attention is not None:
            built = replace(built, notes=(*built.notes, UNMEASURED))
            say(f"note: {UNMEASURED}")
        return _write(found.source, built, target, content, overwrite, say)
    except KeyboardInterrupt:
        raise CancelledError(f"{out}: the export was stopped; nothing was written.") from None
    except OSError as error:
        raise ResourceError(f"{error.filename or model}: {error.strerror or error}.") from error
    except MemoryError:
        raise ResourceError(f"{model}: the machine has too little memory for its largest tensor.") from None


def build(found: Assembled) -> Model:
    """Record every network of what was assembled.

    Raises:
        UnsupportedError: the model is of a kind that is not covered. SourceError: it is damaged.
    """
    source = found.source
    if source.pipeline not in stable_diffusion.PIPELINES:
        covered = ", ".join(stable_diffusion.PIPELINES)
        raise UnsupportedError(
            f"{source.where}: is a {source.pipeline or 'nameless model'}; covered are {covered}."
        )
    model = stable_diffusion.build(source, found.recipe)
    source.finish()
    files = {**model.files, **own_files(source)}
    return replace(model, files=files, notes=(*found.notes, *model.notes))


def _write(
    source: Source, model: Model, out: Path, content: Content, overwrite: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    check_space(out, needed_space(model, forms_of(model, content.storage, content.profiles)))
    with new_folder(out, overwrite) as folder:
        filled = fill(folder, source, model, content, say)
        manifest = {**filled.manifest, "files": dict(sorted(folder.files.items()))}
        folder.write(MANIFEST, dump_json(manifest))
    total = sum(int(facts["bytes"]) for facts in folder.files.values())
    return {
        "bundle": str(out),
        "bytes": total,
        "files": len(folder.files),
        "precision": content.precision,
        "ran": filled.ran,
        "notes": [*model.notes, *filled.notes],
    }


def _silent(line: str) -> None:
    """Report nothing."""
