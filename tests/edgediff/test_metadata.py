"""What files carry beside their pixels: parameters written and read, marks of AI origin, profiles, EXIF."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from edgediff import __version__, media
from edgediff.errors import InputError
from edgediff.metadata import COMPOSITE, DRAWN, MAX_TEXT_BYTES, Metadata, describe, read_metadata
from edgediff.pictures import SuspiciousInput, provenance, read_mask, read_picture
from tests.edgediff.test_pictures_in import FORMATS, chunk, file, pixels, png, smooth

GIVEN = {
    "prompt": "a cat", "negative_prompt": None, "seed": 4294967295, "num_inference_steps": 20,
    "guidance_scale": 7.5, "guidance_rescale": 0.0, "sampler": "dpmpp_2m_karras", "height": 16, "width": 24,
    "model": "someone/a-model", "strength": 0.75,
}  # fmt: skip
RANDOM = random.Random(0)
PROMPTS = {
    "plain": "a cat",
    "empty": "",
    "newlines": "a\r\nb\rc\x0bd\x85e\u2028f\n",
    "forged": "a cat\nNegative prompt: b\nSteps: 1, Sampler: DDIM, CFG scale: 1, Seed: 5, Size: 8x8",
    "negative": "Negative prompt: a cat",
    "pairs": "Steps: 1, Sampler: DDIM, CFG scale: 1, Seed: 5, Size: 8x8",
    "quotes": '"a" \'b\' \\ \\n <c> & &quot; edgediff:parameters="{}" ]]>',
    "emoji": "\U0001f408\u200d\u2b1b 日本 \u202e naïve",
    "long": "a, b: " * 2730,
    "long emoji": "\U0001f408" * 4096,
    "long controls": "\n" * 16384,
    "long noise": "".join(chr(RANDOM.randrange(0x20, 0x2FF)) for _ in range(8192)),
    "surrogate": "caf\udce9",
}


def written(kind: str, about: Any) -> bytes:
    return media.encoded(Image.fromarray(pixels()), kind, about)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("prompt", [p for p in PROMPTS if p != "surrogate"])
def test_round_trip(tmp_path: Path, kind: str, prompt: str) -> None:
    """F136: what was given comes back, and the pixels are those without it."""
    given = {**GIVEN, "prompt": PROMPTS[prompt], "negative_prompt": PROMPTS[prompt]}
    path = tmp_path / {"PNG": "a.png", "JPEG": "a.jpg", "WEBP": "a.webp"}[kind]
    media.save(Image.fromarray(pixels()), path, describe(given))
    assert read_metadata(path) == given
    assert read_metadata(path.read_bytes()) == given
    assert np.array_equal(read_picture(path), read_picture(written(kind, None)))


def other_readers_text(content: bytes) -> str:
    """Return the text as the web UI finds it: with Pillow, in a PNG text or in EXIF's user comment."""
    with Image.open(io.BytesIO(content)) as image:
        if image.format == "PNG":
            return str(image.info["parameters"])
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert comment[:8] == b"UNICODE\0"
        return bytes(comment[8:]).decode("utf-16-be")


def web_ui(text: str) -> tuple[str, str, dict[str, str]]:
    """Parse as AUTOMATIC1111's web UI does (modules/infotext_utils.py, parse_generation_parameters)."""
    pair = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    *lines, last = text.strip().split("\n")
    if len(pair.findall(last)) < 3:
        lines, last = [*lines, last], ""
    found = {"": "", "-": ""}
    which = ""
    for line in lines:
        line = line.strip()
        if line.startswith("Negative prompt:"):
            which, line = "-", line[16:].strip()
        found[which] += ("\n" if found[which] else "") + line
    return found[""], found["-"], dict(pair.findall(last))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("prompt", [p for p in PROMPTS if "long" not in p])
def test_the_web_ui_reads_no_forged_line(kind: str, prompt: str) -> None:
    """F136: a prompt stays a prompt for other programs."""
    text = other_readers_text(written(kind, describe({**GIVEN, "prompt": PROMPTS[prompt]})))
    positive, negative, pairs = web_ui(text)
    assert negative == ""
    assert pairs["Steps"] == "20"
    assert pairs["Seed"] == "4294967295"
    assert (pairs["Sampler"], pairs["Schedule type"]) == ("DPM++ 2M", "Karras")
    assert (pairs["CFG scale"], pairs["Size"]) == ("7.5", "24x16")
    assert (pairs["Model"], pairs["Version"]) == ("someone/a-model", f"edgediff {__version__}")
    assert len(text.splitlines()) == 2
    words = PROMPTS[prompt].replace("\udce9", "\ufffd").split()
    assert positive.strip('"').replace("\\\\", "\\").split() == words or prompt == "quotes"
    odd = describe({**GIVEN, "model": 'a, b: "c"\nSteps: 1'}).text or ""
    assert json.loads(web_ui(odd)[2]["Model"]) == 'a, b: "c" Steps: 1'
    _, negative, pairs = web_ui(describe({**GIVEN, "negative_prompt": PROMPTS[prompt]}).text or "")
    assert negative.split() == words
    assert pairs["Seed"] == "4294967295"


@pytest.mark.parametrize("kind", FORMATS)
def test_text_of_others(kind: str) -> None:
    """Text alone, as the web UI writes it, is read as far as we have names for it."""
    text = (
        "a (cat:1.2),\nsecond line <lora:x:1>\nNegative prompt: dog,\nmouse\n"
        "Steps: 28, Sampler: Euler a, CFG scale: 7, Seed: 123456789012, Size: 512x768, Model hash: 6ce01616, "
        'Model: "v1, pruned", Denoising strength: 0.4, Lora hashes: "x: 1, y: 2", Version: v1.9.4'
    )
    found = read_metadata(written(kind, Metadata(text=text)))
    assert found == {
        "prompt": "a (cat:1.2),\nsecond line <lora:x:1>", "negative_prompt": "dog,\nmouse", "strength": 0.4,
        "num_inference_steps": 28, "sampler": "euler_ancestral", "guidance_scale": 7.0, "seed": 123456789012,
        "width": 512, "height": 768, "model": "v1, pruned",
    }  # fmt: skip
    for chunks in (chunk(b"tEXt", b"parameters\0" + text.encode()),
                   chunk(b"zTXt", b"parameters\0\0" + zlib.compress(text.encode())),
                   chunk(b"iTXt", b"parameters\0\1\0\0\0" + zlib.compress(text.encode()))):  # fmt: skip
        assert read_metadata(png(24, 16, 8, 2, pixels().tobytes(), chunks)) == found
    for theirs, ours in (
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("DPM++ 2M, Schedule type: Karras", "dpmpp_2m_karras"),
        ("Restart", "Restart"),
    ):
        other = Metadata(text=text.replace("Euler a", theirs))
        assert read_metadata(written(kind, other))["sampler"] == ours


@pytest.mark.parametrize(
    "last",
    ["Steps: x, Sampler: , CFG scale: nan, Seed: -1, Size: 0x", "Steps: 1", "", "a" * 60000, "aa: " * 15000,
     "Steps: 1e9, CFG scale: 1e999, Seed: 1.5, Size: 1x2x3", 'a: "' * 20000, "a: \\\"," * 10000,
     "Steps: 1_0, CFG scale: inf, Seed: 99999999999999999999999, Size: ９x９"],
)  # fmt: skip
def test_hostile_text(last: str) -> None:
    """F136: malformed values are left out, and no text takes long."""
    found = read_metadata(written("PNG", Metadata(text=f"a cat\n{last}")))
    assert found.keys() <= {"prompt", "sampler"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "cannot be read"),
        ('{"a": ' * 100_000, "cannot be read"),
        ('{"a": NaN}', "not JSON compliant"),
        ('{"a": 1e999}', "not JSON compliant"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": "\\udce9"}', "surrogates"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read"),
        ("[]", "no JSON object"),
        ("\u00ff", "cannot be read"),
        ("{} {}", "Extra data"),
        ("x" * (MAX_TEXT_BYTES + 1), "over|longer"),
    ],
)
def test_hostile_json(text: str, says: str) -> None:
    """F136"""
    with pytest.raises(InputError, match=says) as caught:
        read_metadata(written("PNG", {"edgediff": text}))
    assert str(caught.value).startswith("picture: ")
    if text.isascii():
        with pytest.raises(InputError, match=says):
            read_metadata(written("JPEG", Metadata(json=text)))


@pytest.mark.parametrize("value", [float("nan"), object(), b"a", {1, 2}, np.int64(1), "x" * (1 << 20)])
def test_values_without_a_form(value: Any) -> None:
    with pytest.raises(InputError, match="metadata: "):
        describe({"a": value})


def test_damage_anywhere() -> None:
    """F136: whatever stands in a file is read, left out or an error of ours."""
    noise = np.random.RandomState(3)
    for kind in FORMATS:
        content = written(kind, describe(GIVEN))
        for _ in range(300):
            damaged = bytearray(content)
            for at in noise.randint(0, min(len(content), 1500), 3):
                damaged[at] = noise.randint(256)
            try:
                assert isinstance(read_metadata(bytes(damaged)), dict)
            except InputError as error:
                assert "\n" not in str(error)


def test_files_without_parameters(tmp_path: Path) -> None:
    assert [read_metadata(file(pixels(), kind)) for kind in FORMATS] == [{}] * 3
    for missing in (tmp_path / "no.png", tmp_path, b"", b"<html>", 7):
        with pytest.raises(InputError, match="picture: "):
            read_metadata(missing)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("composite", [False, True])
def test_marks(kind: str, composite: bool) -> None:
    """The mark stays without parameters and goes only when it is asked to go."""
    word = COMPOSITE if composite else DRAWN
    for parameters in (GIVEN, None):
        content = written(kind, describe(parameters, composite=composite))
        assert provenance(content) == f"IPTC's mark {word}"
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            packet = image.info["xmp"]
            assert provenance(image) == f"IPTC's mark {word}"
        (about,) = ElementTree.fromstring(packet).iter(
            "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
        )
        name = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
        assert about.get(name) == f"http://cv.iptc.org/newscodes/digitalsourcetype/{word}"
        assert about.get("{http://ns.adobe.com/xap/1.0/}CreatorTool") == f"edgediff {__version__}"
    assert b"cat" not in content
    assert b"Steps" not in content
    assert read_metadata(content) == {}
    assert provenance(written(kind, describe(GIVEN, mark=False))) is None
    assert read_metadata(written(kind, describe(GIVEN, mark=False))) == GIVEN
    assert len(written(kind, describe(None, mark=False))) == len(written(kind, None))


def test_marks_of_others() -> None:
    """F100"""
    jpeg, webp = file(smooth(), "JPEG"), file(smooth(), "WEBP")
    box = b"JP\0\1\0\0\0\1\0\0\0\x20jumb\0\0\0\x18jumdc2pa\0"
    signed = jpeg[:2] + b"\xff\xeb" + struct.pack(">H", len(box) + 2) + box + jpeg[2:]
    riff = webp + b"C2PA" + struct.pack("<I", 4) + bytes(4)
    riff = riff[:4] + struct.pack("<I", len(riff) - 8) + riff[8:]
    for content in (signed, riff, png(24, 16, 8, 2, pixels().tobytes(), chunk(b"caBX", box))):
        assert provenance(content) == "a C2PA manifest"
        read_picture(content)
    camera = written("PNG", Metadata(source_type="digitalCapture"))
    for content in (jpeg, webp, signed.replace(b"c2pa", b"xxxx"), camera):
        assert provenance(content) is None
    assert provenance(pixels()) is None
    both = written("PNG", describe(None))
    both = both[:33] + chunk(b"caBX", box) + both[33:]
    assert provenance(both) == "a C2PA manifest and IPTC's mark trainedAlgorithmicMedia"


def test_orientation_in_either_byte_order() -> None:
    """F090"""
    for order, mark in (("<", b"II*\0"), (">", b"MM\0*")):
        fields = struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
        found = read_picture(file(pixels(), "JPEG", exif=b"Exif\0\0" + mark + fields))
        assert found.shape == (24, 16, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(20))
def test_corrupt_exif(seed: int) -> None:
    """F090: treated as none, without a word."""
    noise = np.random.RandomState(seed).bytes(200)
    for block in (b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff" + noise, noise):
        for kind in FORMATS:
            content = file(smooth(), kind, exif=b"Exif\0\0" + block)
            if struct.pack(">H", 0x0112) not in block:
                assert np.array_equal(read_picture(content), read_picture(file(smooth(), kind)))
            read_picture(content)


def tag(kind: bytes, body: bytes) -> bytes:
    return kind + bytes(4) + body


def icc(space: bytes, **tags: bytes) -> bytes:
    """Return a colour profile, version 2, with a white of D50."""
    white = tag(b"XYZ ", struct.pack(">3i", *(round(v * 65536) for v in (0.9642, 1, 0.8249))))
    tags |= {
        "wtpt": white,
        "cprt": tag(b"text", b"none\0"),
        "desc": tag(b"desc", struct.pack(">I", 2) + b"a\0" + bytes(78)),
    }
    table, bodies, at = b"", b"", 132 + 12 * len(tags)
    for name, body in tags.items():
        table += name.encode() + struct.pack(">II", at + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    kind, pcs = (b"prtr", b"Lab ") if space == b"CMYK" else (b"mntr", b"XYZ ")
    head = struct.pack(">I4sI4s4s4s", at + len(bodies), b"lcms", 0x02400000, kind, space, pcs)
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + bodies


def curve(gamma: float) -> bytes:
    return tag(b"curv", struct.pack(">IH", 1, round(gamma * 256)))


def matrix(columns: Any, gamma: float) -> bytes:
    """A profile of three primaries (their XYZ, adapted to D50) and one gamma."""
    xyz = [tag(b"XYZ ", struct.pack(">3i", *(round(v * 65536) for v in c))) for c in np.transpose(columns)]
    named = dict(zip(("rXYZ", "gXYZ", "bXYZ"), xyz, strict=True))
    return icc(b"RGB ", **named, rTRC=curve(gamma), gTRC=curve(gamma), bTRC=curve(gamma))


def encoded(linear: Any) -> Any:
    """IEC 61966-2-1: linear light to sRGB bytes."""
    light = np.clip(linear, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
DISPLAY_P3 = np.array(
    [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("primaries", [ADOBE_RGB, DISPLAY_P3], ids=["Adobe RGB", "Display P3"])
def test_profiles(kind: str, primaries: Any) -> None:
    """F095: against the definition; a picture with white and black, and colours inside sRGB."""
    given = np.concatenate(
        [pixels() // 3 + 85, np.zeros((8, 24, 3), np.uint8), np.full((8, 24, 3), 255, np.uint8)]
    )
    given = np.repeat(np.repeat(given, 8, 0), 8, 1)
    content = file(
        given, kind, icc_profile=matrix(primaries, 563 / 256), **({"quality": 100} if kind == "JPEG" else {})
    )
    with Image.open(io.BytesIO(content)) as image:
        decoded = np.asarray(image.convert("RGB")) / 255
    light = (decoded ** (563 / 256)) @ np.linalg.inv(SRGB).dot(primaries).T
    inside = ((light > -0.001) & (light < 1.001)).all(-1)
    assert inside.mean() > 0.5
    found = read_picture(content)
    assert np.abs(found - encoded(light))[inside].max() <= 1.6
    assert np.abs(found.astype(int) - given).max() > 10
    assert np.array_equal(read_picture(Image.open(io.BytesIO(content))), found)
    assert not np.array_equal(read_mask(content), read_mask(found))  # a mask's values are no colours


def test_profiles_of_grey_and_ink() -> None:
    """F095: grey of gamma 1.8, and inks of which each darkens by its share of 50 in L*."""
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    bright = icc(b"GRAY", kTRC=curve(1.8))
    for profile in (bright, matrix(SRGB, 1.8)):
        truth = encoded((grey / 255) ** (461 / 256))
        assert np.abs(read_picture(file(grey, icc_profile=profile))[..., 0] - truth).max() <= 1
    with pytest.warns(SuspiciousInput, match="colour profile is ignored: it is for GRAY"):
        assert np.array_equal(read_picture(file(smooth(), icc_profile=bright)), smooth())
    corners = [(0 if i & 1 else 100 - 50 * (i >> 3 & 1), 0x8000, 0x8000) for i in range(16)]
    grid = b"".join(struct.pack(">3H", light * 65280 // 100, a, b) for light, a, b in corners)
    ramp = struct.pack(">2H", 0, 65535)
    table = (
        bytes([4, 3, 2, 0])
        + struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
        + struct.pack(">2H", 2, 2)
    )
    ink = icc(b"CMYK", A2B0=tag(b"mft2", table + ramp * 4 + grid + ramp * 3))
    for cmyk, level in (
        ((0, 0, 0, 0), 255),
        ((255, 0, 0, 0), 118.9),
        ((0, 0, 0, 255), 0),
        ((0, 255, 255, 0), 255),
    ):
        picture = Image.new("CMYK", (16, 16), cmyk)
        assert np.abs(read_picture(file(picture, "JPEG", icc_profile=ink)).astype(float) - level).max() <= 2
    assert read_picture(file(Image.new("CMYK", (16, 16)), "JPEG")).min() == 255  # as Adobe has it: inverted


@pytest.mark.parametrize("damage", [b"junk" * 50, b"", "cut", "missing"])
def test_profiles_that_are_damaged(damage: Any) -> None:
    """F095: ignored, and said to be."""
    whole = matrix(ADOBE_RGB, 2)
    body = whole[:200] if damage == "cut" else damage
    if damage == "missing":  # the second of two segments
        jpeg = file(smooth(), "JPEG")
        block = b"ICC_PROFILE\0\1\2" + whole
        content = jpeg[:2] + b"\xff\xe2" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]
    else:
        content = png(48, 32, 8, 2, smooth().tobytes(), chunk(b"iCCP", b"a\0\0" + zlib.compress(body)))
    with pytest.warns(SuspiciousInput, match="image: its colour profile is ignored"):
        assert np.abs(read_picture(content).astype(int) - smooth()).mean() < 3
