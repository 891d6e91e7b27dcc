"""The whole measurement of the embedded model, and the forms in which its record is shown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgediff import errors
from edgediff.bench import ceilings, children, files, lines, measure
from edgediff.bench.record import Limit, Record
from edgediff.bundle import Bundle
from edgediff.cli import bench as verb
from edgediff.cli import group
from edgediff.pipeline import EMBEDDED
from tests.edgediff.bench_sample import sample


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    """The embedded model, measured with few samples."""
    bundle = Bundle.open(EMBEDDED)
    order = measure.checked(
        bundle, arguments={"num_inference_steps": 2, "num_images_per_prompt": 2},
        options={"device": "cpu", "threads": 1}, runs=2, warmup=0, cold=1, limits=False,
    )  # fmt: skip
    yield measure.measured(order)


def test_every_part_is_there(record: Record) -> None:
    found = {part.name: part for part in record.components}
    assert list(found) == [
        "tokenize", "text_encoder", "denoiser", "sampler", "decoder", "post", "other", "picture",
    ]  # fmt: skip
    assert (found["denoiser"].seconds.n, found["denoiser"].calls) == (4, 2)
    assert (found["picture"].seconds.n, found["picture"].share) == (2, 1.0)
    assert sum(part.share for part in record.components[:-1]) == pytest.approx(1.0, abs=0.5)
    for role in ("text_encoder", "denoiser", "decoder"):
        ran, work = found[role].ran, found[role].work
        assert ran is not None
        assert work is not None
        assert (ran.provider, ran.device) == ("CPUExecutionProvider", "cpu")
        assert sum(ran.nodes.values()) > 10
        assert ran.file_bytes == record.model.bytes[role] > 100_000
        assert work.flops == sum(work.by_class.values()) > 10_000_000
        assert work.flops_per_second == pytest.approx(work.flops / found[role].seconds.median)
    whole = found["picture"].work
    assert whole is not None
    assert whole.flops == sum(
        part.work.flops * part.calls for part in record.components[:-1] if part.work is not None
    )


def test_what_was_asked_and_where(record: Record) -> None:
    asked = record.asked
    assert (asked.height, asked.width, asked.steps, asked.hops, asked.batch) == (64, 64, 2, 2, 2)
    assert (asked.threads, asked.runs, asked.cold, asked.warmup) == (1, 2, 1, 0)
    assert (asked.device, asked.sampler, asked.seed) == ("cpu", "lcm", 0)
    assert record.model.total_bytes <= sum(record.model.bytes.values())
    assert record.model.name == "shapes"
    assert any("limits were not measured" in line for line in record.warnings)


def test_cold_starts(record: Record) -> None:
    assert [cold.caches for cold in record.cold] == ["empty", "full"]
    for cold in record.cold:
        stages = {name: taken.median for name, taken in cold.stages.items()}
        assert list(stages)[:3] == ["python", "import", "open"]
        assert {"verify denoiser", "load denoiser", "load text_encoder", "picture"} <= stages.keys()
        parts = stages["python"] + stages["import"] + stages["open"] + stages["picture"]
        assert 0 < parts <= stages["total"]
        assert stages["load denoiser"] <= stages["picture"]


def test_memory_and_spans(record: Record) -> None:
    memory = record.memory
    if memory.base_bytes is not None:
        assert memory.peak_bytes is not None
        assert 0 < memory.base_bytes < memory.peak_bytes < 2e9
        assert max(memory.by_stage.values()) <= memory.peak_bytes
    assert {span.process for span in record.spans} == {"warm", "cold"}
    assert sum(span.name == "picture" for span in record.spans) == 3


def test_it_goes_to_json_and_back(record: Record) -> None:
    assert Record.from_json(record.to_json()) == record


def test_csv_has_a_row_for_each_figure() -> None:
    rows = list(csv.DictReader(io.StringIO(lines.comma_separated(sample()))))
    found = {(row["section"], row["component"], row["statistic"]): float(row["value"]) for row in rows}
    assert len(found) == len(rows)
    assert found["warm", "denoiser", "median"] == 0.010
    assert found["warm", "denoiser", "n"] == 5
    assert found["warm", "denoiser", "of_limit"] == 50
    assert found["warm", "denoiser", "nodes CPUExecutionProvider"] == 120
    assert found["cold, caches empty", "peak_rss", "max"] == 92e6
    assert found["limit", "gemm fp32 CPUExecutionProvider", "best"] == 2e11


def test_markdown_is_a_table_whatever_names_hold() -> None:
    record = sample(warnings=("a | b\n# c",))
    text = lines.markdown(record)
    assert text.startswith("### shapes \\<b\\>\\&\\</b\\>: 64x64, 4 steps of lcm, guidance 3")
    heads = next(line for line in text.splitlines() if line.startswith("| component"))
    bodies = [line for line in text.splitlines() if line.startswith("| denoiser")]
    assert bodies[0].replace("\\|", "").count("|") == heads.count("|")
    assert "a \\| b\\\\n\\# c" in text
    shown = lines.text(record)
    assert "denoiser      10 ms" in shown
    assert "50 %" in shown


def test_least_times() -> None:
    ran = sample().components[2].ran
    assert ran is not None
    limits = [
        Limit(kind, precision, "CPUExecutionProvider", rate, "FLOP/s", "")
        for kind, precision, rate in (
            ("gemm", "fp32", 1e9), ("conv", "fp32", 2e9), ("gemm", "int8", 4e9), ("conv", "int8", 8e9),
        )
    ]  # fmt: skip
    counts = {"conv": 8_000_000_000, "linear": 4_000_000_000, "attention": 1_000_000_000}
    plain = ceilings.work(counts, "export", 20.0, ran, limits)
    assert (plain.flops, plain.flops_per_second) == (13_000_000_000, 650_000_000)
    assert plain.limit_seconds == pytest.approx(4 + 4 + 1)
    assert plain.limit_percent == pytest.approx(45)
    small = ceilings.work(counts, "export", 20.0, replace(ran, precision="int8"), limits)
    assert small.limit_seconds == pytest.approx(1 + 1 + 1)  # attention stays float
    other = ceilings.work(counts, "export", 20.0, replace(ran, precision="int8+bf16"), limits)
    assert other.limit_percent is None
    assert "no limit was measured for attention" in other.limit_by
    (wanted,) = ceilings.wanted([ran, replace(ran, precision="int8-weights")])
    assert (wanted["integers"], wanted["option"], wanted["float"]) == (False, None, "fp32")
    both = ceilings.wanted([replace(ran, device="openvino", precision="int8+bf16"), ran])
    assert [(each["integers"], each["option"]) for each in both] == [(True, "bf16"), (False, None)]
    assert ceilings.wanted([replace(ran, runtime="coreml")]) == []


def test_what_is_refused_before_any_work(tmp_path: Path) -> None:
    bundle = Bundle.open(EMBEDDED)
    empty: dict[str, Any] = {}
    for arguments, more, said in (
        (empty, {"runs": 0}, "runs: 0"),
        (empty, {"cold": -1}, "cold: -1"),
        (empty, {"warmup": 20_000}, "warmup: 20000"),
        ({"height": 63}, empty, "height: 63"),
        ({"num_inference_steps": 0}, empty, "num_inference_steps"),
    ):
        with pytest.raises(errors.InputError, match=said):
            measure.checked(bundle, arguments=arguments, options={}, **more)
    with pytest.raises(errors.InputError, match="reads none"):
        measure.checked(replace(bundle, text=None), arguments={}, options={})
    (tmp_path / "there").write_text("")
    for name, overwrite, said in (
        ("there", False, "--overwrite"), ("no/file", False, "does not exist"), ("a\nb", False, "no name"),
        (".", True, "no plain file|no name"),
    ):  # fmt: skip
        with pytest.raises(errors.InputError, match=said):
            files.checked(str(tmp_path / name) if name != "." else str(tmp_path), overwrite)


def test_a_process_that_fails() -> None:
    with pytest.raises(errors.BundleError, match="no such folder"):
        children.do("warm", {"bundle": "/nowhere", "options": {}})
    with pytest.raises(errors.ResourceError, match="ended with status 1: KeyError"):
        children.do("cold", {"options": {}})


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(group, ["bench", *arguments], catch_exceptions=True)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Record:
    """What the command line measures without measuring."""
    found = sample()
    monkeypatch.setattr(measure, "measured", lambda order, say=None: found)
    return found


def test_the_verb_prints_and_writes(measured: Record, tmp_path: Path) -> None:
    plain = _run()
    assert plain.exit_code == 0, plain.output
    assert "denoiser" in plain.stdout
    done = _run("--json")
    assert Record.from_json(done.stdout) == measured
    to = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "md", "html")}
    done = _run("-q", *(part for kind, file in to.items() for part in (f"--{kind}", str(file))))
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [str(file) for file in to.values()]
    assert Record.from_json(to["json"].read_bytes()) == measured
    assert to["csv"].read_text(encoding="utf-8") == lines.comma_separated(measured)
    assert to["md"].read_text(encoding="utf-8") == lines.markdown(measured)
    assert "<html" in to["html"].read_text(encoding="utf-8")
    again = _run("--json", str(to["json"]))
    assert isinstance(again.exception, errors.InputError)
    assert _run("--md", "--size", "64x64").stdout == lines.markdown(measured)


def test_the_verb_compares(measured: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "old.json"
    old.write_text(measured.to_json(), encoding="utf-8")
    other = _run("--against", str(old))
    assert other.exit_code == 1 and "measured something else" in str(other.exception)
    monkeypatch.setattr("edgediff.bench.measure.check_against", lambda *asked: None)
    same = _run("--against", str(old))
    assert same.exit_code == 0, same.output
    twice = [replace(part, seconds=replace(part.seconds, values=tuple(2 * v for v in part.seconds.values)))
             for part in measured.components]  # fmt: skip
    monkeypatch.setattr(
        measure, "measured", lambda order, say=None: replace(measured, components=tuple(twice))
    )
    worse = _run("--against", str(old), "--threshold", "5", "--json")
    assert isinstance(worse.exception, errors.CheckFailed)
    assert json.loads(worse.stdout)["against"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--json", "--csv"], "one of them"),
        (["--threshold", "5"], "give --against"),
        (["--with", "x.json"], "give --html"),
        (["--size", "64"], "WIDTHxHEIGHT"),
        (["--size", "64x64", "--height", "64"], "beside --height"),
        (["--json", "x.json", "--csv", "x.json"], "the same name"),
        (["--against", "/nowhere.json"], "cannot be read"),
        (["--decoder", "tiny"], "tiny"),
    ],
)
def test_what_the_verb_refuses(arguments: list[str], said: str, measured: Record) -> None:
    del measured
    done = _run(*arguments)
    told = f"{done.output} {done.exception}"
    assert done.exit_code != 0
    assert said in told
    assert verb.command.name == "command"
