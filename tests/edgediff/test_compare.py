"""``edgediff compare`` from the command line: what it draws, what it writes, what it refuses."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgediff
from edgediff import cli
from edgediff.compare import asked, turns
from tests import tiny

Run = Callable[..., tuple[int, str, str]]
NASTY = "<b>a red circle</b> & </th><script>alert(1)</script> \u202e日本語 naïve"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("warnings.showwarning", None)  # the command sets its own; put the old one back

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["compare", *(str(a) for a in arguments)])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of ``onnx_bundle`` with one weight of its denoiser changed."""
    onnx = pytest.importorskip("onnx")
    from tests import graphs

    made = graphs.text2image()
    model = onnx.load_model_from_string(made["denoiser"])
    weight = next(w for w in model.graph.initializer if w.name == "small")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.float32(0.0015), "small"))
    made["denoiser"] = model.SerializeToString()
    return tiny.write_bundle(tmp_path_factory.mktemp("other") / "int8", made)


class Page(HTMLParser):
    """What an HTML file holds: elements with their attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def pictures(self) -> dict[str, Image.Image]:
        """Pictures by what is said of them."""
        found = {}
        for tag, attributes in self.elements:
            if tag == "img":
                kind, _, data = str(attributes["src"]).partition(",")
                assert kind == "data:image/png;base64"
                found[str(attributes["alt"])] = Image.open(io.BytesIO(base64.b64decode(data)))
        return found


def psnr(a: Any, b: Any) -> float:
    """The definition, over 8-bit pictures."""
    error = float(((a.astype(float) - b.astype(float)) ** 2).mean())
    return 10 * math.log10(255**2 / error)


def test_pictures_are_those_of_a_call(run: Run, onnx_bundle: Path, other: Path, tmp_path: Path) -> None:
    status, out, err = run(
        onnx_bundle,
        other,
        "--prompt",
        "a red circle",
        "--prompt",
        NASTY,
        "--seeds",
        "3,8",
        "-o",
        "made",
        "--json",
    )
    assert (status, err) == (0, "")
    told = json.loads(out)
    names = ["compare.html", "sheet.png", "pareto.png", "compare.json"]
    assert told["outputs"] == [str(Path("made") / name) for name in names]
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == sorted(names)
    on_disk = json.loads((tmp_path / "made" / "compare.json").read_text())
    assert on_disk == {k: v for k, v in told.items() if k != "outputs"}
    page = Page((tmp_path / "made" / "compare.html").read_text(encoding="utf-8"))
    shown = page.pictures()
    draws = [("a red circle", 3), ("a red circle", 8), (NASTY, 3), (NASTY, 8)]
    assert [(p["prompt"], p["seed"]) for p in told["pictures"]] == draws
    with edgediff.load(onnx_bundle) as first, edgediff.load(other) as second:
        for i, (prompt, seed) in enumerate(draws):
            a, b = (np.asarray(pipe(prompt, seed=seed).images[0]) for pipe in (first, second))
            assert np.array_equal(np.asarray(shown[f"picture {i + 1} of A"]), a)
            assert np.array_equal(np.asarray(shown[f"picture {i + 1} of B"]), b)
            figures = told["bundles"][1]["pictures"][i]
            assert figures["psnr_db"] == pytest.approx(psnr(a, b), abs=1e-3)
            assert 0 < figures["ssim"] < 1
    a, b = told["bundles"]
    assert (a["psnr_db"], a["ssim"], a["latents_psnr_db"]) == (200, 1, 200)
    assert b["worst_psnr_db"] == min(p["psnr_db"] for p in b["pictures"])
    assert b["worst_psnr_db"] <= b["psnr_db"] < 200
    assert b["latents_psnr_db"] < 200
    for each in (a, b):
        assert each["bytes"] == sum(f.bytes for f in edgediff.Bundle.open(each["path"]).files.values())
        time = each["latency_s"]
        assert 0 < time["min"] <= time["median"] <= time["max"]
        assert time["pictures"] == 4
        assert each["peak_rss_bytes"] is None or each["peak_rss_bytes"] > 20e6


def test_the_page_needs_nothing(run: Run, onnx_bundle: Path, other: Path, tmp_path: Path) -> None:
    status, out, err = run(onnx_bundle, other, "--prompt", NASTY, "-o", "a.html", "--rounds", 1)
    assert (status, out) == (0, "a.html\n")
    assert "turn 1 of 1: A (bundle), 1 picture" in err
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "a",
        "image",
        "use",
        "b>a",
    }
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "style")]
        assert tag == "img" or "src" not in attributes
    meta = [a for tag, a in page.elements if tag == "meta" and a.get("http-equiv")]
    assert len(meta) == 1
    policy = str(meta[0]["content"])
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert "unsafe" not in policy
    assert page.elements.index(("meta", meta[0])) < next(
        i for i, e in enumerate(page.elements) if e[0] == "style"
    )
    seen = "".join(page.texts)
    assert NASTY.replace("\u202e", "\\u202e") in seen  # all of it, and as text
    assert "\u202e" not in text


def test_the_style_is_the_one_that_the_policy_allows(run: Run, onnx_bundle: Path, tmp_path: Path) -> None:
    import hashlib

    assert run(onnx_bundle, "--prompt", "a", "-o", "a.html", "--rounds", 1)[0] == 0
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    style = re.findall(r"<style>(.*?)</style>", text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert len(style) == 1
    assert f"sha256-{digest}" in text


def test_a_bundle_is_identical_to_itself(run: Run, onnx_bundle: Path) -> None:
    status, out, err = run(onnx_bundle, onnx_bundle, "--prompt", "a red circle")
    assert (status, out.splitlines()[0]) == (0, str(Path("compare", "compare.html")))
    assert err.splitlines()[-1].split()[-3:] == ["identical", "1", "identical"]


def test_few_pictures_are_drawn_again_for_their_time(run: Run, onnx_bundle: Path) -> None:
    status, out, _ = run(onnx_bundle, "--prompt", "a red circle", "--rounds", 4, "--json")
    assert status == 0
    assert json.loads(out)["bundles"][0]["latency_s"]["pictures"] == 4
    assert len(json.loads(out)["bundles"][0]["pictures"]) == 1


def test_the_pictures_carry_the_mark(run: Run, onnx_bundle: Path, tmp_path: Path) -> None:
    assert run(onnx_bundle, "--prompt", "a", "-o", "made", "--rounds", 1)[0] == 0
    page = Page((tmp_path / "made" / "compare.html").read_text(encoding="utf-8"))
    with Image.open(tmp_path / "made" / "sheet.png") as sheet:
        for image in (sheet, page.pictures()["picture 1 of A"]):
            image.load()
            assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if anything is drawn."""

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(turns.subprocess, "run", forbidden)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--prompts", "p.txt", "--prompt", "a"], 2, "not both"),
        (["--seeds", "1,b"], 2, "no list of whole numbers"),
        (["--seeds", ""], 2, "no list of whole numbers"),
        (["--seeds", "-1"], 2, "seed"),
        (["--seeds", ",".join(map(str, range(65)))], 2, "65 pictures"),
        (["--prompts", "nowhere.txt"], 2, "cannot be read"),
        (["--prompt", "a\x07"], 2, "control characters"),
        (["--rounds", "0"], 2, "rounds"),
        (["--steps", "0"], 2, "num_inference_steps"),
        (["--height", "31"], 2, "nearest"),
        (["-o", "nowhere/made"], 2, "does not exist"),
        (["-o", "made.png"], 2, "new folder"),
        (["-o", "a\nb"], 2, "control characters"),
        (["-o", ".."], 2, "new folder"),
        (["nowhere"], 3, "no such folder"),
    ],
)
def test_refusals(
    run: Run, onnx_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str],
    status: int, words: str,
) -> None:  # fmt: skip
    no_work(monkeypatch)
    (tmp_path / "p.txt").write_text("a red circle\n")
    given = (
        arguments if "--prompt" in arguments or "--prompts" in arguments else [*arguments, "--prompt", "a"]
    )
    found, out, err = run(onnx_bundle, *given)
    assert (found, out) == (status, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.txt"]


def changed(bundle: Path, to: Path, change: Callable[[Any], object]) -> Path:
    """A copy of a bundle's manifest and files with the manifest changed."""
    import shutil

    shutil.copytree(bundle, to)
    manifest = json.loads((to / "edgediff.json").read_text())
    change(manifest)
    (to / "edgediff.json").write_text(json.dumps(manifest))
    return to


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda m: m["model"].update(tasks=["image2image"]),
            "draws from text alone, and this",
        ),
        (lambda m: m["defaults"]["size"].update(height=64), "A (bundle) 32x32, B (b) 32x64; give --height"),
        (lambda m: m["components"].pop("decoder"), "has no decoder"),
        (lambda m: m["model"].pop("text"), "draws none"),
    ],
)
def test_bundles_that_cannot_be_compared(
    run: Run, fake_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, words: str
) -> None:
    no_work(monkeypatch)
    status, out, err = run(fake_bundle, changed(fake_bundle, tmp_path / "b", change), "--prompt", "a")
    assert (status, out) == (2, "")
    assert words in err


def test_a_given_size_settles_it(run: Run, fake_bundle: Path, tmp_path: Path) -> None:
    taller = changed(fake_bundle, tmp_path / "b", lambda m: m["defaults"]["size"].update(height=64))
    status, out, err = run(
        fake_bundle, taller, "--prompt", "a", "-H", 48, "-W", 32, "--runtime", "null", "--json", "--rounds", 1
    )
    assert status == 0, err
    assert json.loads(out)["size"] == {"height": 48, "width": 32}


def test_receipts_are_shown_as_text(run: Run, fake_bundle: Path, tmp_path: Path) -> None:
    said = {"scheme": "int8", "note": NASTY}
    folder = changed(fake_bundle, tmp_path / "b", lambda m: m.update(quality=said))
    order = (fake_bundle, folder, "--prompt", "a", "--runtime", "null", "--rounds", 1, "-o", "a.html")
    assert run(*order)[0] == 0
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.elements].count("details") == 1
    assert "script" not in {tag for tag, _ in page.elements}
    assert json.dumps(NASTY, ensure_ascii=False).replace("\u202e", "\\u202e") in "".join(page.texts)


def test_an_error_in_drawing_names_the_bundle(run: Run, onnx_bundle: Path, tmp_path: Path) -> None:
    broken = changed(onnx_bundle, tmp_path / "broken", lambda _: None)
    graph = next((broken / "unet").glob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    status, out, err = run(onnx_bundle, broken, "--prompt", "a", "-q")
    assert (status, out) == (4, "")
    assert err.startswith("edgediff: broken: ")
    assert "sha256" in err
    assert not (tmp_path / "compare").exists()


def test_a_process_that_is_killed(run: Run, onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_CHILD", "import os; os._exit(9)")
    status, out, err = run(onnx_bundle, "--prompt", "a", "-q")
    assert (status, out) == (6, "")
    assert "ended with status 9" in err


def test_an_interruption_leaves_nothing(
    run: Run, onnx_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(turns.subprocess, "run", interrupted)
    assert run(onnx_bundle, "--prompt", "a")[0] == 130
    assert not list(tmp_path.iterdir())


def test_earlier_comparisons_alone_are_replaced(run: Run, fake_bundle: Path, tmp_path: Path) -> None:
    order = (fake_bundle, "--prompt", "a", "--runtime", "null", "--rounds", 1, "-q")
    assert run(*order)[0] == 0
    status, _, err = run(*order)
    assert status == 2
    assert "--overwrite" in err
    old = (tmp_path / "compare" / "compare.json").read_bytes()
    assert run(*order, "--overwrite", "--seeds", "7")[0] == 0
    assert (tmp_path / "compare" / "compare.json").read_bytes() != old
    (tmp_path / "compare" / "mine.txt").write_text("mine")
    status, _, err = run(*order, "--overwrite")
    assert status == 2
    assert "no earlier comparison" in err
    assert (tmp_path / "compare" / "mine.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["compare"]


def test_prompts_where_none_are_given(fake_bundle: Path) -> None:
    from edgediff import reference
    from edgediff.compare import prompts
    from edgediff.pipeline import EMBEDDED

    bundle = edgediff.Bundle.open(fake_bundle)
    assert prompts.usual([bundle]) == reference.PROMPTS
    if EMBEDDED.is_dir():
        assert "a red circle to the left of a blue square on a white background" in prompts.usual(
            [edgediff.Bundle.open(EMBEDDED)]
        )


def test_prompts_that_a_bundle_brings(fake_bundle: Path, tmp_path: Path) -> None:
    import hashlib

    from edgediff import reference
    from edgediff.compare import prompts

    latents = np.zeros((4, 4, 4), np.float32)
    call = reference.Call("its own prompt", 0, (), latents, None)
    raw = reference.dumps(reference.Record({}, [call], []))
    listed = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    folder = changed(fake_bundle, tmp_path / "b", lambda m: m["files"].update({"quality.npz": listed}))
    (folder / "quality.npz").write_bytes(raw)
    both = [edgediff.Bundle.open(fake_bundle), edgediff.Bundle.open(folder)]
    assert prompts.usual(both) == ("its own prompt",)


def test_names_that_tell_bundles_apart(tmp_path: Path) -> None:
    for name in ("x/int8", "y/int8"):
        (tmp_path / name).mkdir(parents=True)
    x, y = tmp_path / "x" / "int8", tmp_path / "y" / "int8"
    assert asked.labels([str(x)]) == ["int8"]
    assert asked.labels([str(x), str(y), "org/name@main"]) == ["x/int8", "y/int8", "org/name@main"]
    assert asked.labels([str(x), str(x)]) == ["int8", "int8"]
