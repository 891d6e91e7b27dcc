"""``quality.npz``: what goes in comes out, in few bytes and always the same; hostile files are refused."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgediff import archive, reference
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, CheckFailed, IntegrityError, UnsupportedError
from edgediff.reference import Call, Pass, Record, Sample
from tests.edgediff.recorded_bundle import with_record


def example() -> Record:
    """A record with every kind of array, and rows that are there more than once."""
    random = np.random.default_rng(0)
    text = random.standard_normal((2, 4, 8), np.float32)
    noisy = random.standard_normal((1, 4, 2, 3), np.float32)
    picture = random.integers(0, 256, (16, 24, 3), np.uint8)
    passes = [
        Pass(
            "denoiser",
            {
                "sample": np.concatenate([noisy, noisy]),
                "timestep": np.array([t], np.float32),
                "encoder_hidden_states": text,
                "scalar": np.float32(0.1) * np.ones((), np.float32),
            },
            {"out_sample": Sample.of(random.standard_normal((2, 4, 2, 3), np.float32))},
        )
        for t in (999.0, 499.0)
    ]
    words = Pass("text_encoder", {"input_ids": np.arange(8).reshape(1, 8)}, {"hidden": Sample.of(text[:1])})
    calls = [
        Call("a boat — ボート", 7, ("image",), noisy, picture),
        Call("", 0, (), noisy, None),
    ]
    settings = {"num_inference_steps": 4, "guidance_scale": 7.5, "sampler": "ddim"}
    return Record(settings, calls, [words, *passes], {"image": picture})


def test_what_goes_in_comes_out() -> None:
    made = example()
    data = reference.dumps(made)
    found = reference.parse(data, "x")
    assert found.settings == made.settings
    assert found.prompts == ("a boat — ボート", "")
    for a, b in zip(made.calls, found.calls, strict=True):
        assert (a.prompt, a.seed, a.given) == (b.prompt, b.seed, b.given)
        assert np.array_equal(a.latents, b.latents)
        assert (a.picture is None) == (b.picture is None)
    for one, other in zip(made.passes, found.passes, strict=True):
        assert one.role == other.role
        for name, array in one.inputs.items():
            assert other.inputs[name].dtype == array.dtype
            assert np.array_equal(other.inputs[name], array)
            assert other.inputs[name].shape == array.shape
        for name, sample in one.outputs.items():
            assert np.array_equal(other.outputs[name].values, sample.values)
    assert reference.dumps(found) == data == reference.dumps(example())


def test_numpy_reads_it_and_equal_rows_are_stored_once() -> None:
    data = reference.dumps(example())
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        names = [name for name in file.files if name != archive.TEXT]
        assert file[names[0]].ndim == 1
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        assert {info.date_time for info in packed.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    # Two text rows, one noisy row (in the sample four times and in the latents twice), two times, a scalar,
    # ids, four rows of outputs, the first text row again as an output (flat: the same bytes), 16 rows of the
    # picture.
    assert len(names) == 2 + 1 + 2 + 1 + 1 + 2 + 16


def test_what_half_precision_holds_takes_half() -> None:
    exact = np.arange(64, dtype=np.float32)
    inexact = exact + np.float32(0.1)
    for array, stored in ((exact, np.float16), (inexact, np.float32)):
        record = Record({}, [], [Pass("r", {"x": array}, {"y": Sample.of(array)})])
        _, rows = archive.unpacked(reference.dumps(record), "x")
        assert {row.dtype for row in rows.values()} == {np.dtype(stored)}
        assert np.array_equal(reference.parse(reference.dumps(record), "x").passes[0].inputs["x"], array)


def test_large_outputs_are_sampled_across_all_axes() -> None:
    array = np.arange(2 * 3 * 640 * 512, dtype=np.float32).reshape(2, 3, 640, 512)
    sample = Sample.of(array)
    assert sample.values.size <= reference.SAMPLED
    assert np.array_equal(sample.pick(array, "x"), sample.values)
    places = np.stack(np.unravel_index(sample.values.astype(np.int64), array.shape))
    for axis, extent in enumerate(array.shape):
        assert np.unique(places[axis]).size == extent  # every row, column and channel is seen
    with pytest.raises(CheckFailed, match="shape"):
        sample.pick(array[:1], "x")
    assert Sample.of(array[0, 0, :3]).stride == 1


def test_of_some_outputs_a_part_counts() -> None:
    array = np.random.default_rng(0).standard_normal((2, 8, 5, 5)).astype(np.float32)
    sample = Sample.of(array, 4)
    other = array.copy()
    other[:, 4:] = 0
    assert np.array_equal(sample.values, array[:, :4].ravel())
    assert np.array_equal(sample.pick(other, "x"), sample.values)
    made = Record({}, [], [Pass("encoder", {"x": array}, {"y": sample})])
    found = reference.parse(reference.dumps(made), "x").passes[0].outputs["y"]
    assert (found.shape, found.channels) == ((2, 8, 5, 5), 4)
    assert np.array_equal(found.pick(array, "x"), sample.values)


def zipped(**members: bytes) -> bytes:
    """A zip of these members, deflated; two underscores stand for a dot."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name.replace("__", "."), data)
    return stream.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), **options)
    return stream.getvalue()


TEXT = b"{}"
HEADER = npy(np.zeros(4, np.float32))
HUGE = HEADER.replace(b"(4,), }           ", b"(999999999999,), }")
HOSTILE: dict[str, bytes] = {
    "no zip": b"not a zip",
    "empty": b"",
    "truncated": zipped(record__json=TEXT, a__npy=npy(np.arange(1000.0)))[:-200],
    "no text": zipped(a__npy=npy(np.zeros(3, np.float32))),
    "a path": zipped(**{"record__json": TEXT, "../a__npy": npy(np.zeros(3, np.float32))}),
    "a folder": zipped(**{"record__json": TEXT, "a/b__npy": npy(np.zeros(3, np.float32))}),
    "objects": zipped(record__json=TEXT, a__npy=npy(np.array([{}], object), allow_pickle=True)),
    "strings": zipped(record__json=TEXT, a__npy=npy(np.array(["a"]))),
    "doubles": zipped(record__json=TEXT, a__npy=npy(np.zeros(3))),
    "big-endian": zipped(record__json=TEXT, a__npy=npy(np.zeros(3, ">f4"))),
    "evaluated": zipped(record__json=TEXT, a__npy=HEADER.replace(b"(4,), } ", b"(2+2,), }")[: len(HEADER)]),
    "two axes": zipped(record__json=TEXT, a__npy=npy(np.zeros((2, 2), np.float32))),
    "by column": zipped(record__json=TEXT, a__npy=npy(np.zeros((3, 2), np.float32, order="F"))),
    "no array": zipped(record__json=TEXT, a__npy=b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 200),
    "says more than it has": zipped(record__json=TEXT, a__npy=HUGE),
    "one byte short": zipped(record__json=TEXT, a__npy=HEADER[:-1]),
    "a bomb": zipped(record__json=TEXT, a__npy=bytes((64 << 20) + 1)),
    "text bomb": zipped(record__json=b" " * ((4 << 20) + 1)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(name: str) -> None:
    assert HUGE != HEADER
    assert len(HUGE) == len(HEADER)
    with pytest.raises(BundleError) as caught:
        archive.unpacked(HOSTILE[name], "quality.npz")
    assert "quality.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_member_of_many_is_counted_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    many = zipped(record__json=TEXT, **{f"a{i}__npy": bytes(60 << 20) for i in range(5)})
    assert len(many) < 1 << 20

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(zipfile.ZipFile, "open", never)
    with pytest.raises(BundleError, match="unpacked it would have more"):
        archive.unpacked(many, "x")


def test_two_members_of_one_name_and_lies_about_sizes() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            file.writestr("record.json", TEXT)
    with pytest.raises(BundleError, match="each once"):
        archive.unpacked(stream.getvalue(), "x")
    honest = zipped(record__json=b" " * 1000)
    at = honest.rindex(b"PK\x01\x02") + 24  # the directory's uncompressed size
    lying = honest[:at] + (10).to_bytes(4, "little") + honest[at + 4 :]
    with pytest.raises(BundleError, match="not a zip"):
        archive.unpacked(lying, "x")


def changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The example with another text."""
    text, rows = archive.unpacked(reference.dumps(example()), "x")
    told = json.loads(text)
    change(told)
    return archive.packed(json.dumps(told).encode(), rows)


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(told: Any) -> None:
        *way, last = [int(key) if key.isdigit() else key for key in path.split("/")]
        for key in way:
            told = told[key]
        told[last] = value

    return change


SAMPLE = "passes/1/inputs/sample"
OUTPUT = "passes/1/outputs/out_sample"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("format", "edgediff-quality/2", "format"),
        ("settings/height", 0, "height"),
        ("settings/prompt", "x", "no setting"),
        ("settings/guidance_scale", 1e9, "guidance_scale"),
        ("given/else", {"dtype": "uint8", "shape": [], "rows": []}, "rows"),
        ("calls/0/prompt", 3, "prompt"),
        ("calls/0/seed", -1, "seed"),
        ("calls/0/given", ["mask_image"], "given"),
        ("calls", [{}] * 65, "more than are read"),
        ("passes", {}, "list"),
        ("passes/1/inputs", {}, "inputs and outputs"),
        ("passes/1/role", "", "role"),
        (f"{SAMPLE}/rows/0", "m0", "no member"),
        (f"{SAMPLE}/rows", [], "rows"),
        (f"{SAMPLE}/shape", [2, 4, 2, 4], "rows"),
        (f"{SAMPLE}/shape", [1 << 40, 1 << 40], "shape"),
        (f"{SAMPLE}/shape", [-2, -24], "shape"),
        (f"{SAMPLE}/dtype", "int64", "stored"),
        (f"{SAMPLE}/dtype", "object", "dtype"),
        (f"{OUTPUT}/stride", 2, "every"),
        (f"{OUTPUT}/of", [1], "every"),
        (f"{OUTPUT}/channels", 5, "channels"),
        (f"{OUTPUT}/channels", 2, "every"),
    ],
)
def test_texts_that_say_something_else_are_refused(path: str, value: Any, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        reference.parse(changed(_set(path, value)), "quality.npz")


def test_rows_that_are_asked_for_again_and_again_are_refused() -> None:
    array = {"dtype": "uint8", "shape": [4096, 1 << 14], "rows": ["big"] * 4096}

    def change(told: dict[str, Any]) -> None:
        told["passes"][0]["inputs"] = {f"x{i}": array for i in range(60)}

    text, rows = archive.unpacked(changed(change), "x")
    bomb = archive.packed(text, {**rows, "big": np.zeros(1 << 14, np.uint8)})
    assert len(bomb) < 1 << 20
    with pytest.raises(BundleError, match="all tensors together"):
        reference.parse(bomb, "x")


def test_not_finite_is_no_reference() -> None:
    for bad in (np.nan, np.inf):
        outputs = {"y": Sample.of(np.array([bad], np.float32))}
        record = Record({}, [], [Pass("r", {"x": np.ones(1, np.float32)}, outputs)])
        with pytest.raises(BundleError, match="NaN or Inf"):
            reference.parse(reference.dumps(record), "x")


def test_a_bundle_has_one_or_says_so(fake_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="nothing to compare with"):
        reference.read(Bundle.open(fake_bundle))
    copy = with_record(Path(shutil.copytree(fake_bundle, tmp_path / "copy")), example())
    assert reference.read(Bundle.open(copy)).prompts == example().prompts
    (copy / reference.FILE).write_bytes(reference.dumps(Record({}, [], [])))
    with pytest.raises(IntegrityError, match=reference.FILE):
        reference.read(Bundle.open(copy))
