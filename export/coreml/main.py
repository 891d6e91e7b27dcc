"""The entry point of the export to Core ML: a model becomes packages, in a bundle or for Apple's own code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Unpack, cast

from edgediff import golden, reference
from edgediff.errors import CancelledError, CheckFailed, ResourceError
from edgediff.export.assemble import Asked, Choices, assemble
from edgediff.export.coreml import apple, layouts
from edgediff.export.coreml.check import check
from edgediff.export.coreml.compression import Compression, decide, possible
from edgediff.export.coreml.content import Planned, overflowing
from edgediff.export.coreml.extents import sizes_of
from edgediff.export.coreml.folders import describe, write_beside
from edgediff.export.coreml.forecast import forecast, needed_space
from edgediff.export.coreml.options import Packing, Wanted, wanted
from edgediff.export.coreml.packages import write_packages
from edgediff.export.coreml.parent import write_parent
from edgediff.export.coreml.plan_file import to_json
from edgediff.export.coreml.receipt import Written, measured_with, prove
from edgediff.export.coreml.xcrun import compile_all
from edgediff.export.emit.mil_model import coremltools
from edgediff.export.families.parts import Model
from edgediff.export.json_files import dump_json
from edgediff.export.main import build
from edgediff.export.quantize.plan_file import FILE as PLAN
from edgediff.export.quantize.prompts import EVALUATION, own_prompts
from edgediff.export.reduced import UNMEASURED, doubt, row_spread, with_reduction
from edgediff.export.sources import TINY, Source
from edgediff.export.write import Folder, check_space, check_target, new_folder, scratch_folder

Say = Callable[[str], None]


class Options(Choices, Packing, total=False):
    """What :func:`export_coreml` takes besides: which parts, and how they are written."""


def export_coreml(
    model: str,
    out: str,
    *,
    dry_run: bool = False,
    overwrite: bool = False,
    report: Callable[[str], None] | None = None,
    **options: Unpack[Options],
) -> dict[str, Any]:
    """Turn ``model`` (a folder, a single file, a bundle of ours, a hub's id) into packages in ``out``.

    ``dry_run`` writes nothing and says what would be written. ``report`` receives a line per stage.
    ``options`` are the fields of ``edgediff.export.assemble.Asked`` (``parts``, ``loras``, ``recipe``, ...)
    and of ``edgediff.export.coreml.options.Wanted`` (``layout``, ``attention``, ``sizes``, ``quantize``,
    ...). In the layout ``edgediff`` the result is a bundle; in ``apple`` the folder that Apple's Swift
    package ``StableDiffusion`` takes as its resources, once packages are compiled.

    The result: ``bundle`` (path), ``layout``, ``bytes``, ``files`` (count), ``precision``, ``packages``
    (paths), ``ran`` (the roles that the interpreter ran), ``notes``, ``quality`` (the receipt, or None).
    Raises only errors of ``edgediff.errors``; nothing then stands at ``out``.
    """
    say = report if report is not None else _silent
    packing = {name: options.pop(name) for name in Packing.__annotations__ if name in options}  # type: ignore[misc]
    choices = cast(Choices, options)
    target, asked = Path(out), wanted(cast(Packing, packing))
    try:
        check_target(target, overwrite)
        if not dry_run:
            coremltools()
        found = assemble(Asked(model, **choices), say)
        whole = _fitted(build(found), asked)
        built = with_reduction(whole, asked.reduce_attention)
        planned = layouts.planned(built, asked, tuple(choices.get("controlnets", ())))
        possible(asked, built)
        built = replace(built, notes=(*built.notes, *_notes(built, asked)))
        for note in built.notes:
            say(f"note: {note}")
        if dry_run:
            return forecast(found.source, built, asked, planned, target)
        return _Export(found.source, built, asked, planned, say, whole).run(target, overwrite)
    except KeyboardInterrupt:
        raise CancelledError(f"{out}: the export was stopped; nothing was written.") from None
    except OSError as error:
        raise ResourceError(f"{error.filename or model}: {error.strerror or error}.") from error
    except MemoryError:
        raise ResourceError(f"{model}: the machine has too little memory for its largest network.") from None


def _fitted(model: Model, asked: Wanted) -> Model:
    """The model drawn at the first size, without what the layout has no place for."""
    height, width = sizes_of(model, asked)[0]
    made = replace(model, defaults={**model.defaults, "size": {"height": height, "width": width}})
    if asked.layout == "apple":
        left_out = {TINY} | (set() if apple.writes_encoder(model) else {"encoder"})
        made = replace(made, parts=tuple(part for part in model.parts if part.role not in left_out))
    return made


def _notes(model: Model, asked: Wanted) -> list[str]:
    told = [*overflowing(model, asked), *(apple.notes(model, asked) if asked.layout == "apple" else ())]
    if asked.reduce_attention is not None:
        doubtful = doubt(row_spread(model)) if asked.receipt else UNMEASURED
        told += [] if doubtful is None else [doubtful]
    return told


class _Export:
    """One export, from what was read to the folder."""

    def __init__(
        self, source: Source, model: Model, asked: Wanted, planned: Sequence[Planned], say: Say, whole: Model
    ) -> None:
        self.source, self.model, self.asked, self.planned, self.say = source, model, asked, planned, say
        self.whole = whole  # before its attention was reduced, where it is
        self.version = _version()

    def run(self, out: Path, overwrite: bool) -> dict[str, Any]:
        """Write everything, or nothing."""
        check_space(out, needed_space(self.model, self.asked, self.planned))
        with ExitStack() as stack:
            parent = None
            if self.asked.needs_parent:
                parent = stack.enter_context(scratch_folder(out)) / "parent"
                self.say("writing the float parent, which is measured against")
                write_parent(parent, self.source, self.whole)
            chosen = decide(self.asked, self.source, self.model, parent, self.say)
            folder = stack.enter_context(new_folder(out, overwrite))
            return {"bundle": str(out), **self._fill(folder, parent, chosen)}

    def _fill(self, folder: Folder, parent: Path | None, chosen: Compression) -> dict[str, Any]:
        asked = self.asked
        own = asked.layout == "edgediff"
        prefix = f"{layouts.FOLDER}/" if own else ""
        written = write_packages(
            folder, self.planned, self.source, chosen, asked.precision,
            prefix=prefix, version=self.version, say=self.say,
        )  # fmt: skip
        tables, notes = write_beside(folder, self.model, asked, self.say)
        seen: dict[str, Any] = {}
        if asked.verify:
            seen, told = check(folder.path, written, self.say)
            notes += told
            if own and seen:
                folder.write(golden.FILE, dump_json({"format": golden.FORMAT, "graphs": seen}))
        if chosen.plan is not None:
            folder.write(PLAN, to_json(chosen.plan))
        packages = [name.partition(".mlpackage")[0] + ".mlpackage" for e in written for name in e.models]
        if not own:
            notes += compile_all(folder, packages, self.say)
        notes = [*self.model.notes, *chosen.notes, *notes]
        described = partial(
            describe, folder, self.source, self.model, asked, written, self.version,
            tables=tables, notes=notes,
        )  # fmt: skip
        quality = None
        if asked.receipt and parent is not None:
            quality = self._proven(folder, parent, written, described)
        name, data = described(quality=quality)
        folder.write(name, data)
        return {
            "layout": asked.layout,
            "bytes": sum(int(facts["bytes"]) for facts in folder.files.values()),
            "files": len(folder.files),
            "precision": asked.precision,
            "packages": packages,
            "ran": sorted(seen),
            "quality": quality,
            "notes": notes,
        }

    def _proven(
        self,
        folder: Folder,
        parent: Path,
        written: Sequence[Written],
        described: Callable[..., tuple[str, bytes]],
    ) -> dict[str, Any]:
        """Measure the packages against the parent, and refuse those that fail their floors."""
        asked, own = self.asked, self.asked.layout == "edgediff"
        self.say("measuring the packages against their float parent")
        record = measured_with(parent, self.model, written, own_prompts(self.source, EVALUATION), self.say)
        folder.write(reference.FILE, reference.dumps(record))
        name, provisional = described()
        if own:
            (folder.path / name).write_bytes(provisional)
        try:
            told = prove(
                folder.path, written, record, self.model, scheme=asked.precision,
                bytes_of={name: int(facts["bytes"]) for name, facts in folder.files.items()},
                bundle=folder.path if own else None, min_psnr=asked.min_psnr, report=self.say,
            )  # fmt: skip
        finally:
            (folder.path / name).unlink(missing_ok=True)
        if told["failed"] and not asked.force:
            raise CheckFailed(
                f"{asked.precision} does not serve its purpose here: {'; '.join(told['failed'])}. "
                "Nothing was written; --force keeps such packages."
            )
        if not told["failed"]:
            del told["failed"]
        return told


def _version() -> str:
    try:
        return metadata.version("edgediff")
    except metadata.PackageNotFoundError:
        return "unknown"


def _silent(line: str) -> None:
    """Report nothing."""
