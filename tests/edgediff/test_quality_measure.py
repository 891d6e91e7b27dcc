"""``measure`` and ``verify --quality``: a bundle against what its parent gave, whole, changed and broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgediff
from edgediff import cli, quality, retrace
from edgediff.bundle import Bundle
from edgediff.errors import BundleError, CheckFailed
from edgediff.parts import Parts
from edgediff.quality import MOST
from edgediff.reference import Call, Pass, Record, Sample
from tests.edgediff.recorded_bundle import with_record

PROMPTS = ("a red circle", "a horse, high quality")
SETTINGS = {"num_inference_steps": 2, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def record(onnx_bundle: Path) -> Record:
    """What the bundle gives, by the calls of an app: the facade for results, its graphs for passes."""
    pipe = edgediff.load(onnx_bundle)
    calls = []
    for seed, prompt in enumerate(PROMPTS):
        latents = pipe(prompt, seed=seed, output_type="latent", **SETTINGS).images
        image = pipe(prompt, seed=seed, **SETTINGS).images[0]
        calls.append(Call(prompt, seed, (), latents, np.asarray(image)))
    random = np.random.default_rng(0)
    given = {
        "denoiser": {
            "sample": random.standard_normal((2, 4, 4, 4), np.float32),
            "timestep": np.array(500, np.float32),
            "encoder_hidden_states": random.standard_normal((2, 16, 8), np.float32),
        },
        "decoder": {"latent_sample": random.standard_normal((1, 4, 4, 4), np.float32)},
    }
    parts = Parts(Bundle.open(onnx_bundle), "cpu")
    passes = [
        Pass(role, inputs, {name: Sample.of(made) for name, made in parts.run(role, inputs).items()})
        for role, inputs in given.items()
    ]
    parts.close()
    return Record(SETTINGS, calls, passes)


@pytest.fixture
def bundle(onnx_bundle: Path, record: Record, tmp_path: Path) -> Path:
    """The bundle with that record."""
    return with_record(Path(shutil.copytree(onnx_bundle, tmp_path / "bundle")), record)


def change(bundle: Path, file: str, how: Callable[[np.ndarray], np.ndarray]) -> None:  # type: ignore[type-arg]
    """Change every floating-point weight of a graph, and the manifest's digest of its file."""
    import hashlib

    model = onnx.load(str(bundle / file))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(how(array).astype(np.float32), tensor.name))
    data = model.SerializeToString()
    (bundle / file).write_bytes(data)
    manifest = json.loads((bundle / "edgediff.json").read_text())
    manifest["files"][file] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / "edgediff.json").write_text(json.dumps(manifest))


def test_a_bundle_equals_itself(bundle: Path) -> None:
    found = retrace.measure(Bundle.open(bundle))
    assert {role: part["snr_db"] for role, part in found["components"].items()} == {
        "denoiser": MOST, "decoder": MOST,
    }  # fmt: skip
    assert found["latents_psnr_db"] == found["latents_snr_db"] == MOST
    assert found["pictures"] == {"psnr_db": MOST, "ssim": 1.0, "lowest_ssim": 1.0}


def test_a_changed_decoder_is_seen_where_it_counts(bundle: Path, record: Record) -> None:
    change(bundle, "vae_decoder/model.onnx", lambda array: array * 1.01)
    found = retrace.measure(Bundle.open(bundle))
    assert found["components"]["denoiser"]["snr_db"] == MOST
    assert found["latents_psnr_db"] == MOST
    assert 20 < found["components"]["decoder"]["snr_db"] < 60
    drawn = [
        np.asarray(edgediff.load(bundle)(p, seed=i, **SETTINGS).images[0]) for i, p in enumerate(PROMPTS)
    ]
    wanted = [call.picture for call in record.calls]
    assert found["pictures"]["psnr_db"] == quality.stored(quality.psnr_db(wanted, drawn, 255))


def test_a_changed_denoiser_changes_the_latents(bundle: Path) -> None:
    change(bundle, "unet/model.onnx", lambda array: array + 0.02)
    found = retrace.measure(Bundle.open(bundle))
    assert found["components"]["denoiser"]["snr_db"] < MOST
    assert found["latents_snr_db"] < MOST


def test_not_a_number_fails_every_floor(bundle: Path) -> None:
    change(bundle, "unet/model.onnx", lambda array: array * np.nan)
    found = retrace.measure(Bundle.open(bundle))
    assert found["components"]["denoiser"]["snr_db"] == -MOST
    assert found["latents_psnr_db"] == found["latents_snr_db"] == found["pictures"]["psnr_db"] == -MOST
    assert found["pictures"]["ssim"] == -1.0
    floors = {
        "snr_db": {"denoiser": 10, "decoder": 10}, "latents_psnr_db": 10, "latents_snr_db": 1,
        "pictures_psnr_db": 10, "pictures_ssim": 0.1,
    }  # fmt: skip
    reasons = retrace.below(found, floors)
    assert len(reasons) == 5  # all but the decoder
    assert sum("not finite" in reason for reason in reasons) == 4
    assert retrace.below(found, {}) == []


def test_another_graph_is_refused(bundle: Path, onnx_bundle: Path, record: Record) -> None:
    def recorded(change: Callable[[Pass], Pass]) -> Bundle:
        passes = [change(each) for each in record.passes]
        return Bundle.open(with_record(bundle, Record(SETTINGS, record.calls, passes)))

    small = {"out_sample": Sample.of(np.ones((1, 4, 4, 4), np.float32))}
    with pytest.raises(CheckFailed, match="its shape is"):
        retrace.measure(
            recorded(lambda p: Pass(p.role, p.inputs, small if p.role == "denoiser" else p.outputs))
        )
    with pytest.raises(CheckFailed, match="reads encoder_hidden_states"):
        retrace.measure(
            recorded(
                lambda p: Pass(
                    p.role, {n: a for n, a in p.inputs.items() if n != "encoder_hidden_states"}, p.outputs
                )
            )
        )
    with pytest.raises(CheckFailed, match="has no output other"):
        retrace.measure(recorded(lambda p: Pass(p.role, p.inputs, {"other": next(iter(p.outputs.values()))})))


def test_the_record_is_compared_with_the_manifest(bundle: Path) -> None:
    data = (bundle / "quality.npz").read_bytes()
    (bundle / "quality.npz").write_bytes(data[:-1] + b"\1")
    with pytest.raises(BundleError, match=r"quality\.npz"):
        retrace.measure(Bundle.open(bundle))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def entry(**floors: Any) -> dict[str, Any]:
    return {
        "scheme": "int8",
        "floors": floors,
        "components": {
            "denoiser": {
                "snr_db": 31.5, "weights_bytes": 1_000_000, "parent_weights_bytes": 4_000_000,
                "worst_layer": {"name": "conv\x1b[31m", "snr_db": 12.25},
                "taken": {"pass_s": {"median": 0.5}, "load_s": 1, "peak_rss_bytes": 2_000_000},
                "parent_taken": {"pass_s": {"median": 1.5}, "load_s": 2, "peak_rss_bytes": None},
            }
        },
        "latents_psnr_db": 28.25,
        "pictures": {"psnr_db": -200, "ssim": None},
        "machine": {"processor": "an example", "cores": 2},
    }  # fmt: skip


def test_verify_quality(bundle: Path, record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    with_record(bundle, record, entry(snr_db={"denoiser": 15}, pictures_ssim=0.5))
    status, out, err = run(capsys, "verify", bundle, "--quality")
    assert (status, err) == (0, "")
    rows = {line[:24].strip(): line[24:].split() for line in out.splitlines()}
    assert rows["denoiser SNR"] == ["portable", "equal", "31.5", "dB", "15.0", "dB"]
    assert rows["final latents PSNR"] == ["equal", "28.2", "dB", "-"]
    assert rows["pictures PSNR"] == ["equal", "not", "finite", "-"]
    assert rows["pictures SSIM"] == ["1.0000", "-", "0.5000"]
    status, out, _ = run(capsys, "verify", bundle, "--quality", "--json")
    told = json.loads(out)
    assert (status, told["ok"], told["below"]) == (0, True, [])


def test_verify_quality_under_a_floor(
    bundle: Path, record: Record, capsys: pytest.CaptureFixture[str]
) -> None:
    change(bundle, "unet/model.onnx", lambda array: -array)
    with_record(bundle, record, entry(snr_db={"denoiser": 15}))
    status, out, err = run(capsys, "verify", bundle, "--quality")
    assert status == 3
    assert "denoiser: SNR" in err
    assert "the floor is 15 dB" in err
    assert "denoiser SNR" in out  # the table is shown all the same
    status, out, _ = run(capsys, "verify", bundle, "--quality", "--json")
    first, last = (json.loads(line) for line in out.splitlines())
    assert (status, first["ok"], last["error"]["code"]) == (3, False, "check_failed")


def test_verify_quality_without_a_record(onnx_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "verify", onnx_bundle, "--quality")
    assert status == 5
    assert "quality.npz" in err
    status, _, err = run(capsys, "verify", onnx_bundle, "--quality", "--numerics")
    assert status == 2
    assert "ask for one" in err


def test_show_prints_the_receipt(bundle: Path, record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    with_record(bundle, record, entry())
    status, out, _ = run(capsys, "show", bundle)
    assert status == 0
    for said in (
        "int8, against the float32 parent", "SNR 31.5 dB, worst layer conv?[31m 12.2 dB",
        "weights 1 MB, the parent's 4 MB", "pass 0.5 s, the parent's 1.5 s", "final latents PSNR 28.2 dB",
        "pictures PSNR not finite", "an example, 2 cores",
    ):  # fmt: skip
        assert said in out
    assert "\x1b" not in out
    assert "peak memory" not in out  # of one of the two it is not known
    _, out, _ = run(capsys, "show", bundle, "--json")
    assert json.loads(out)["quality"]["latents_psnr_db"] == 28.25
