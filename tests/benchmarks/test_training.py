"""Training: every stage goes on after a stop as if there had been none, and writes whole checkpoints."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from benchmarks.reference import (  # noqa: E402
    autoencoder,
    checkpoint,
    distill,
    loop,
    nets,
    schedule,
    tokenizer,
    train,
)
from benchmarks.reference.grammar import Object, Scene, scenes  # noqa: E402
from benchmarks.reference.parsing import CHOICES, target  # noqa: E402

pytestmark = pytest.mark.parity
STEPS = {"autoencoder": 4, "denoiser": 5, "distill": 2}
TINY = ["--steps", ",".join(f"{k}={v}" for k, v in STEPS.items()), "--batch", "2", "--pictures", "16"]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """One thread, a thin denoiser, and a gate of a few pictures."""
    patch, threads = pytest.MonkeyPatch(), torch.get_num_threads()
    torch.set_num_threads(1)
    patch.setattr(autoencoder, "GATE", 2)
    patch.setattr(nets, "denoiser", functools.partial(nets.denoiser, widths=(16, 32)))
    yield
    patch.undo()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with states in work/64 and checkpoints in out, all stages run without a stop."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "work" / "64").mkdir(parents=True)
    tokenizer.train(500).save(str(folder / "work" / "64" / "tokenizer.json"))
    train.main(["--work", str(folder / "work"), "--out", str(folder / "out"), *TINY])
    return folder


class StoppedError(Exception):
    """A stop right after a state was saved."""


@pytest.mark.parametrize("stage", list(train.STAGES))
def test_a_stage_that_is_stopped_again_and_again_ends_alike(
    stage: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = list(train.STAGES)
    after = {f"{phase}.pt" for name in stages[stages.index(stage) :] for phase in train.PHASES[name]}
    after |= {"data.pt"} | ({"pyramid.pt"} if stage == "autoencoder" else set())
    shutil.copytree(trained / "work" / "64", tmp_path / "64", ignore=shutil.ignore_patterns(*after))
    save, saves = loop.save_state, itertools.count(1)

    def save_and_stop(path: Path, state: Any) -> None:
        save(path, state)
        if next(saves) in (2, 5):
            raise StoppedError

    monkeypatch.setattr(loop, "save_state", save_and_stop)
    setting = loop.Setting(tmp_path / "64", batch=2, pictures=16, save_every=0.0)
    stops = 0
    while True:
        try:
            train.STAGES[stage](setting, loop.Budget(STEPS[stage], "steps"))
            break
        except StoppedError:
            stops += 1
    assert stops >= 1
    for phase in train.PHASES[stage]:
        whole, pieced = (torch.load(f / f"{phase}.pt") for f in (trained / "work" / "64", tmp_path / "64"))
        assert whole.pop("seconds") > 0 and pieced.pop("seconds") > 0
        assert differing(whole, pieced) == []


def differing(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of the entries that are not equal to the bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [name]
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return [found for key in one for found in differing(one[key], other[key], f"{name}/{key}")]
    return [] if one == other else [f"{name}: {one} and {other}"]


def test_the_log_has_a_line_for_each_stage(trained: Path) -> None:
    lines = json.loads((trained / "out" / "training_log.json").read_text())
    assert [line["stage"] for line in lines] == list(train.STAGES)
    assert all(line["steps"] >= STEPS[line["stage"]] and line["machine"]["processor"] for line in lines)
    assert [line["samples"] for line in lines] == [2 * line["steps"] for line in lines]
    assert lines[0]["round_trip"]["decibel"] > 0


def test_a_spent_budget_changes_nothing(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = (trained / "out" / "training_log.json").read_text()
    train.main(["autoencoder", "--work", str(trained / "work"), "--out", str(trained / "out"), *TINY])
    assert "budget was spent" in capsys.readouterr().out
    assert (trained / "out" / "training_log.json").read_text() == book


def test_checkpoints_are_the_averaged_weights_in_half_precision(trained: Path) -> None:
    work, out = trained / "work" / "64", trained / "out"
    model, few = (
        checkpoint.load_teacher(out / "checkpoint"),
        checkpoint.load_student(out / "student", out / "checkpoint"),
    )
    unet, student = (torch.load(work / f"{name}.pt")["average"]["kept"] for name in ("denoiser", "distill"))
    assert {k: v.half().float() for k, v in student.items()}.keys() == few.unet.state_dict().keys()
    assert differing({k: v.half().float() for k, v in student.items()}, dict(few.unet.state_dict())) == []
    plain = {k: v.half().float() for k, v in unet.items() if k != "time_embedding.cond_proj.weight"}
    assert differing(plain, dict(model.unet.state_dict())) == []
    assert model.unet.config.time_cond_proj_dim is None
    assert few.unet.config.time_cond_proj_dim == nets.GUIDANCE_CHANNELS
    assert schedule.CONFIG.items() <= dict(model.scheduler.config).items()
    assert schedule.CONFIG.items() <= dict(few.scheduler.config).items()
    assert not list(out.glob("*.part")) + list(out.glob("*.old"))


def test_training_goes_on_from_the_checkpoints(trained: Path, tmp_path: Path) -> None:
    out = shutil.copytree(trained / "out", tmp_path / "out")
    setting = loop.Setting(tmp_path / "64-from-checkpoint", start=out, batch=2, pictures=16)
    autoencoder.train(setting, loop.Budget(1, "steps"))
    train.main(["denoiser", "--from-checkpoint", "--work", str(tmp_path), "--out", str(out), *TINY])
    distill.train(setting, loop.Budget(1, "steps"))
    assert json.loads((out / "training_log.json").read_text())[-1]["from"] == "checkpoint"
    made = {"pyramid.pt", "decoder.pt", "data.pt", "denoiser.pt", "distill.pt"}
    assert {f.name for f in setting.work.iterdir()} == made
    before, after = (checkpoint.load_teacher(folder / "checkpoint") for folder in (trained / "out", out))
    for one, other in ((before.text, after.text), (before.vae.encoder, after.vae.encoder)):
        assert differing(dict(one.state_dict()), dict(other.state_dict())) == []
    for one, other in ((before.unet, after.unet), (before.vae.decoder, after.vae.decoder)):
        assert differing(dict(one.state_dict()), dict(other.state_dict())) != []


def test_what_a_caption_states_is_what_is_parsed() -> None:
    things = (Object("red", "circle", 8.0, 14.5, 14.5, "small", 0), Object("pink", "heart", 10.5, 32.0, 49.5))
    pair = Scene("navy", things, "above", True, "")
    assert target(pair) == [1, 1, 1, 1, 8, 6, 0, 0, 0, 0, 0, 0, 3, 5]
    silent = Scene("navy", things[:1], None, False, "")
    assert target(silent)[4:] == [0] * 10
    for scene in scenes(0, 200):
        answers = target(scene)
        assert len(answers) == len(CHOICES)
        assert all(answer < choices for answer, choices in zip(answers, CHOICES, strict=True))


def test_velocities_come_apart_into_what_made_them() -> None:
    random = torch.Generator().manual_seed(0)
    clean, noise = torch.randn((2, 64, 16, 2, 2), generator=random)
    t = schedule.times(64, random)
    assert sorted(t // 125) == sorted([k for k in range(8) for _ in range(8)])
    t[0], t[1] = 0, 999
    back = schedule.split(*schedule.noised(clean, noise, t), t)
    assert torch.allclose(back[0], clean, atol=1e-4) and torch.allclose(back[1], noise, atol=1e-4)
    assert schedule.signal(torch.tensor([999]))[0].item() == 0
    assert schedule.weight(torch.tensor([0, 999])).tolist() == pytest.approx([0.05, 0.05], abs=1e-3)
    assert schedule.levels(8).tolist() == [139, 259, 379, 499, 639, 759, 879, 999]


def test_the_student_is_told_its_guidance_as_diffusers_tells_it() -> None:
    from diffusers import LatentConsistencyModelPipeline as Pipeline

    guidance = torch.tensor([1.0, 3.0, 7.5])
    wanted = Pipeline.get_guidance_scale_embedding(None, guidance - 1, embedding_dim=nets.GUIDANCE_CHANNELS)
    assert torch.allclose(nets.guidance_embedding(guidance), wanted, atol=1e-3)


@pytest.mark.parametrize("text", ["denoiser", "painter=3", "denoiser=many"])
def test_a_budget_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(SystemExit):
        train.main(["--seconds", text])


def test_a_stage_says_which_one_it_needs_first(tmp_path: Path) -> None:
    for stage, first in (("denoiser", "autoencoder"), ("distill", "denoiser")):
        with pytest.raises(SystemExit, match=f"Run the stage {first} first"):
            train.main([stage, "--work", str(tmp_path), "--out", str(tmp_path)])
