"""The command line: exit codes, one line or one object per error, and no file unless all went well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import edgediff
from edgediff import cli
from edgediff.runtimes.null import NullGraph


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.showwarning", None)  # the command sets its own; put the old one back

    def call(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as ended:
            cli.main([str(a) for a in arguments])
        printed = capsys.readouterr()
        return Done(int(ended.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def draw(run: Run, fake_bundle: Path) -> Run:
    """Run ``edgediff run`` with the null runtime."""
    return lambda *arguments: run("run", *arguments, "-m", fake_bundle, "--runtime", "null")


def test_a_picture(draw: Run, tmp_path: Path) -> None:
    done = draw("a red circle", "-o", "a.png", "-s", "7")
    assert (done.status, done.out) == (0, "a.png\n")
    warning, line = done.err.splitlines()  # no progress: this is no terminal
    assert line.startswith("32x32, 3 steps of ddim, seed 7, ")
    assert "suspicious output" in warning  # the null runtime draws nothing
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        written = json.loads(image.text["edgediff"])  # type: ignore[attr-defined]
    assert image.size == (32, 32)
    assert (written["prompt"], written["seed"], written["num_inference_steps"]) == ("a red circle", 7, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_quiet(draw: Run) -> None:
    done = draw("a", "-o", "a.webp", "-q")
    assert (done.status, done.out) == (0, "a.webp\n")
    assert "suspicious" in done.err


def test_json(draw: Run) -> None:
    done = draw("a", "-o", "a.jpg", "--json", "-s", 0)
    (line,) = done.out.splitlines()
    value = json.loads(line)
    assert done.status == 0
    assert value["output"] == "a.jpg"
    assert value["parameters"]["seed"] == 0
    assert set(value["providers"]) == {"text_encoder", "denoiser", "decoder"}


def test_no_metadata(draw: Run, tmp_path: Path) -> None:
    assert draw("a secret", "--no-metadata").status == 0
    assert b"secret" not in (tmp_path / "out.png").read_bytes()


def test_spellings(draw: Run) -> None:
    done = draw("a", "--num_inference_steps", "2", "--guidance_scale=1", "--no_metadata", "--json")
    assert json.loads(done.out)["parameters"]["num_inference_steps"] == 2
    done = draw("a", "--steps", 1, "--cfg-scale", 2, "-o", "b.png", "--json")
    assert json.loads(done.out)["parameters"]["guidance_scale"] == 2


WRONG = [
    (["a", "--bogus"], 2, "--bogus"),
    (["a", "b"], 2, "argument"),
    (["--seed", "1"], 2, "PROMPT"),
    (["a", "-s", "-1"], 2, "seed"),
    (["a", "-s", str(1 << 32)], 2, "seed"),
    (["a", "-s", "x"], 2, "seed"),
    (["a", "-s", "1.5"], 2, "seed"),
    (["a", "-H", "0"], 2, "height"),
    (["a", "-H", "7"], 2, "nearest is 8"),
    (["a", "-W", "65"], 2, "nearest is 64"),
    (["a", "--steps", "0"], 2, "num_inference_steps"),
    (["a", "--steps", "1001"], 2, "num_inference_steps"),
    (["a", "--guidance-scale", "nan"], 2, "guidance_scale"),
    (["a", "--guidance-scale", "inf"], 2, "guidance_scale"),
    (["a", "--guidance-scale", "-1"], 2, "guidance_scale"),
    (["a", "--guidance-scale", "101"], 2, "guidance_scale"),
    (["a", "--guidance-rescale", "2"], 2, "guidance_rescale"),
    (["a", "--eta", "2"], 2, "eta"),
    (["a", "--sampler", "nothing"], 2, "nothing"),
    (["a", "--device", "vae=cpu"], 2, "ROLE=DEVICE"),
    (["a", "--threads", "0"], 2, "threads"),
    (["nul\0"], 2, "control characters"),
    (["bell\a"], 2, "control characters"),
    (["lone \ud800"], 2, "UTF-8"),
    (["a" * 20 * 1024], 2, "more than the 16384 bytes"),
    (["a", "-o", "a.gif"], 2, ".gif"),
    (["a", "-o", "nowhere/a.png"], 2, "does not exist"),
    (["a", "-o", "there.png"], 2, "--overwrite"),
]


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(("arguments", "status", "says"), WRONG, ids=lambda v: repr(v)[:40])
def test_wrong_usage(
    draw: Run, tmp_path: Path, arguments: list[str], status: int, says: str, as_json: bool
) -> None:
    (tmp_path / "there.png").write_bytes(b"old")
    done = draw(*arguments, *(["--json"] if as_json else []))
    assert_one_error(done, status, says, as_json)
    assert [p.name for p in tmp_path.iterdir()] == ["there.png"]
    assert (tmp_path / "there.png").read_bytes() == b"old"


def assert_one_error(done: Done, status: int, says: str, as_json: bool, code: str | None = None) -> None:
    """One line on stderr, or one object on stdout, and nothing else."""
    assert done.status == status
    if as_json:
        (line,) = done.out.splitlines()
        error = json.loads(line)["error"]
        assert done.err == ""
        assert says in error["message"]
        assert error["code"] == code or code is None
    else:
        (line,) = done.err.splitlines()
        assert done.out == ""
        assert line.startswith("edgediff: ")
        assert says in line


def raising(error: BaseException) -> Any:
    """Return a graph's call that raises."""

    def call(self: NullGraph, inputs: Any) -> Any:
        raise error

    return call


ERRORS = [
    getattr(edgediff, name) for name in edgediff.__all__ if name.endswith(("Error", "Failed", "Blocked"))
]


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: e.__name__)
def test_every_error_has_its_status(
    draw: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any, as_json: bool
) -> None:
    monkeypatch.setattr(NullGraph, "__call__", raising(error("what was found")))
    done = draw("a", *(["--json"] if as_json else []))
    assert_one_error(done, error.exit_code, "what was found", as_json, error.code)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("two\nlines\x1b[2J"), 1, r"unexpected ZeroDivisionError: two\nlines\x1b[2J"),
    ],
)
def test_what_nobody_raises_on_purpose(
    draw: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, says: str
) -> None:
    monkeypatch.setattr(NullGraph, "__call__", raising(error))
    done = draw("a")
    assert done.status == status
    assert says in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("role", "nth", "stage", "step"),
    [
        ("text_encoder", 1, "text_encoder", ""),
        ("denoiser", 2, "denoiser", "timestep 334"),
        ("decoder", 1, "decoder", ""),
    ],
)
def test_a_bad_number_writes_nothing(
    draw: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, nth: int, stage: str, step: str
) -> None:
    folder = {"text_encoder": "hidden", "denoiser": "out_sample", "decoder": "sample"}[role]
    calls = 0
    plain = NullGraph.__call__

    def call(self: NullGraph, inputs: Any) -> Any:
        nonlocal calls
        outputs = plain(self, inputs)
        name, value = next(iter(outputs.items()))
        if folder in name and (role != "decoder" or value.shape[1] == 3):
            calls += 1
            if calls == nth:
                value.reshape(-1)[0] = np.nan
        return outputs

    monkeypatch.setattr(NullGraph, "__call__", call)
    done = draw("a")
    assert_one_error(done, 7, stage, as_json=False)
    assert step in done.err
    assert list(tmp_path.iterdir()) == []


def test_damaged_bundles(run: Run, tmp_path: Path, fake_bundle: Path) -> None:
    import shutil

    damaged = Path(shutil.copytree(fake_bundle, tmp_path / "damaged"))
    (damaged / "unet" / "model.onnx").write_bytes(b"NO graph")
    assert_one_error(run("verify", damaged), 4, "unet/model.onnx", as_json=False)
    assert_one_error(run("run", "a", "-m", damaged, "--runtime", "null"), 4, "unet/model.onnx", as_json=False)
    (damaged / "edgediff.json").write_text("{")
    for verb in (["show", damaged], ["verify", damaged], ["run", "a", "-m", damaged]):
        assert_one_error(run(*verb), 3, "edgediff.json", as_json=False)
        assert_one_error(run(*verb, "--json"), 3, "edgediff.json", as_json=True)
    (damaged / "edgediff.json").write_text('{"format_version": "2.0"}')
    assert_one_error(run("show", damaged), 5, "format version 2.0", as_json=False)
    assert_one_error(run("show", "no\nwhere"), 3, r"no\nwhere", as_json=False)


def test_show(run: Run, fake_bundle: Path) -> None:
    text = run("show", fake_bundle)
    assert text.status == 0
    for fact in ("tiny", "apache-2.0", "text2image", "unet/model.onnx", "encoder_hidden_states: float32"):
        assert fact in text.out
    value = json.loads(run("show", fake_bundle, "--json").out)
    assert value["family"] == "tiny"
    assert value["files"] == 8


def test_verify(run: Run, onnx_bundle: Path, fake_bundle: Path) -> None:
    done = run("verify", onnx_bundle)
    assert (done.status, done.err) == (0, "")
    assert "8 files match, 3 graphs ran" in done.out
    assert json.loads(run("verify", onnx_bundle, "--json").out)["ok"] is True
    assert_one_error(run("verify", fake_bundle), 3, "get the file again", as_json=False)


def test_devices(run: Run) -> None:
    assert run("devices").out.splitlines()[0] == "cpu"
    assert json.loads(run("devices", "--json").out)["devices"][0] == "cpu"


def test_doctor(run: Run) -> None:
    done = run("doctor", "--json")
    (line,) = done.out.splitlines()
    value = json.loads(line)
    assert done.status == (3 if value["faults"] else 0)
    assert value["telemetry"].startswith("off")
    assert value["packages"]["numpy"]
    assert "telemetry" in run("doctor").out


def test_doctor_names_repairs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["onnxruntime", "onnxruntime-gpu"]
    monkeypatch.setattr("edgediff.runtimes._ort_providers.installed_wheels", lambda: both)
    done = run("doctor")
    assert done.status == 3
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in done.err
    value = json.loads(run("doctor", "--json").out)
    assert any("overwrite each other" in fault for fault in value["faults"])


def test_export_needs_its_packages(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "edgediff.export.main", None)
    done = run("export", "onnx", "-m", "model", "out")
    assert_one_error(done, 5, "pip install 'edgediff[export]'", as_json=False)


@pytest.mark.parametrize("verb", ["run", "show", "verify", "devices", "doctor", "export", "export onnx"])
def test_help(run: Run, verb: str) -> None:
    done = run(*verb.split(), "--help")
    assert done.status == 0
    assert done.out.startswith(f"Usage: edgediff {verb}")


def test_verbs_and_their_help_agree(run: Run) -> None:
    listed = run("--help").out
    for verb, text in cli.VERBS.items():
        assert f"  {verb} " in listed
        assert text in " ".join(listed.split())
        assert cli.group.get_command(None, verb) is not None  # type: ignore[arg-type]
    assert run("--version").out == f"edgediff, version {edgediff.__version__}\n"
    assert_one_error(run("nothing"), 2, "nothing", as_json=False)


def test_numbered_outputs_and_a_grid(draw: Run, tmp_path: Path) -> None:
    done = draw("a", "-b", "3", "-o", "a.png", "--grid", "sheet.webp", "-s", "1", "--json")
    value = json.loads(done.out)
    assert value["outputs"] == ["a-1.png", "a-2.png", "a-3.png"]
    assert {p.name for p in tmp_path.iterdir()} == {"a-1.png", "a-2.png", "a-3.png", "sheet.webp"}
    with Image.open(tmp_path / "sheet.webp") as sheet:
        assert sheet.size == (64, 64)
    again = draw("a", "-b", "3", "-o", "a.png")
    assert again.status == 2
    assert "exists" in again.err


def test_a_file_of_prompts(draw: Run, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("red\n\nblue\n")
    done = draw("--prompt-file", "prompts.txt", "-o", "a.png", "--json")
    value = json.loads(done.out)
    assert value["parameters"]["prompt"] == ["red", "blue"]
    with Image.open(tmp_path / "a-2.png") as image:
        image.load()
        assert json.loads(image.text["edgediff"])["prompt"] == "blue"  # type: ignore[attr-defined]
    assert draw("a", "--prompt-file", "prompts.txt").status == 2
    assert draw().status == 2


def test_a_flat_picture_under_strict(draw: Run) -> None:
    done = draw("a", "--strict")
    assert done.status == 3
    assert "suspicious" in done.err


@pytest.mark.parametrize("flags", [["--strength", "0.5"], ["--fit", "crop"], ["--mask-blur", "0"],
                                   ["--keep-unmasked"], ["--padding-mask-crop", "0"]])  # fmt: skip
def test_options_of_a_picture_that_is_not_there(draw: Run, flags: list[str]) -> None:
    done = draw("a", *flags)
    assert done.status == 2
    assert "give --" in done.err


def test_the_mark_stays_without_metadata(draw: Run, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp"):
        assert draw("a secret", "-o", name, "--no-metadata").status == 0
        data = (tmp_path / name).read_bytes()
        assert b"secret" not in data
        assert b"trainedAlgorithmicMedia" in data


def test_what_a_start_picture_says_of_its_origin_is_not_lost_in_silence(run: Run, tmp_path: Path) -> None:
    """F100: the result of a picture that a model made is marked as made from one, and says what it drops."""
    assert run("run", "a red circle", "-o", "a.png", "-s", "1").status == 0
    done = run("run", "a blue square", "-i", "a.png", "-o", "b.png", "-s", "1")
    assert done.status == 0
    assert "warning: a.png says where it comes from" in done.err
    assert b"compositeWithTrainedAlgorithmicMedia" in (tmp_path / "b.png").read_bytes()
