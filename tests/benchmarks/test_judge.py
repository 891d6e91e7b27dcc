"""The judge must pass what is right and notice what is spoilt, or its scores mean nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.reference.grammar import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    SHAPES,
    Object,
    Scene,
    describe,
    scenes,
)
from benchmarks.reference.judge import judge
from benchmarks.reference.render import render
from benchmarks.reference.score import marks, score_draw, score_pictures

pytestmark = pytest.mark.slow

Pictures = NDArray[np.uint8]


def scene(*objects: Object, background: str = "white", relation: str | None = None) -> Scene:
    return Scene(background, objects, relation, True, describe(objects, relation, background))


def missed(asked: Scene, picture: Pictures) -> set[str]:
    return {name for name, values in marks(asked, judge(picture)).items() if not all(values)}


PAIR = scene(
    Object("red", "circle", 10.5, 14.5, 32.0),
    Object("blue", "square", 10.5, 49.5, 32.0),
    relation="to the left of",
)
PLACED = scene(
    Object("green", "star", 8.0, 14.5, 14.5, "small", 0),
    Object("pink", "heart", 13.0, 32.0, 49.5, "large", 7),
)


@pytest.mark.parametrize("split", ["train", "heldout-captions", "heldout-pairs"])
def test_clean_renderings_pass(split: str) -> None:
    asked = scenes(3, 40, split)
    table = score_pictures(asked, render(asked))
    assert {name: row["share"] for name, row in table["scores"].items() if row["share"] < 0.995} == {}
    assert table["residual"] < 0.5


def test_every_pair_passes_on_every_background() -> None:
    singles = [
        scene(Object(c, s, radius, 31.3, 32.6), background=b)
        for i, (c, s) in enumerate((c, s) for c in COLOURS for s in SHAPES)
        for b, radius in [(list(BACKGROUNDS)[i % len(BACKGROUNDS)], (7.8, 10.5, 13.3)[i % 3])]
    ]
    assert [
        one.caption for one, picture in zip(singles, render(singles), strict=True) if missed(one, picture)
    ] == []


def test_larger_pictures_are_judged_alike() -> None:
    asked = scenes(5, 6)
    assert score_pictures(asked, render(asked, 128))["scores"]["whole"]["share"] == 1.0


@pytest.mark.parametrize(
    ("spoilt", "attributes"),
    [
        (replace(PAIR, background="beige"), {"background"}),
        (replace(PAIR, objects=PAIR.objects[:1]), {"count", "colour", "shape", "relation"}),
        (replace(PAIR, objects=(*PAIR.objects, Object("green", "star", 8.0, 32.0, 12.0))), {"count"}),
        (replace(PAIR, objects=(replace(PAIR.objects[0], colour="pink"), PAIR.objects[1])), {"colour"}),
        (replace(PAIR, objects=(replace(PAIR.objects[0], shape="heart"), PAIR.objects[1])), {"shape"}),
        (replace(PAIR, objects=tuple(replace(o, x=64 - o.x) for o in PAIR.objects)), {"relation"}),
        (
            replace(
                PAIR,
                objects=(replace(PAIR.objects[0], colour="blue"), replace(PAIR.objects[1], colour="red")),
            ),
            {"colour"},
        ),
    ],
    ids=["background", "missing", "extra", "colour", "shape", "sides swapped", "colours swapped"],
)
def test_a_wrong_picture_is_noticed(spoilt: Scene, attributes: set[str]) -> None:
    noticed = missed(PAIR, render([spoilt])[0])
    assert noticed & attributes, noticed
    assert missed(PAIR, render([PAIR])[0]) == set()


def test_a_moved_object_and_a_wrong_size_are_noticed() -> None:
    star, heart = PLACED.objects
    moved = replace(PLACED, objects=(replace(star, x=32.0), heart))
    grown = replace(PLACED, objects=(replace(star, radius=13.0), heart))
    assert missed(PLACED, render([PLACED])[0]) == set()
    assert missed(PLACED, render([moved])[0]) == {"position"}
    assert missed(PLACED, render([grown])[0]) == {"size"}


def blurred(pictures: Pictures, times: int) -> Pictures:
    x: NDArray[np.float64] = pictures.astype(np.float64)
    for _ in range(times):
        for axis in (1, 2):
            x = (np.roll(x, 1, axis) + x + np.roll(x, -1, axis)) / 3
    return np.round(x).astype(np.uint8)


def test_blur_and_noise_are_noticed() -> None:
    asked = scenes(9, 12)
    clean = render(asked)
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 60, clean.shape), 0, 255).astype(np.uint8)
    sharp = score_pictures(asked, clean)
    for spoilt in (blurred(clean, 12), noisy):
        table = score_pictures(asked, spoilt)
        assert table["scores"]["shape"]["share"] < 0.5
        assert table["scores"]["whole"]["share"] < 0.3
        assert table["residual"] > 8 * sharp["residual"] + 2


def test_a_slight_blur_shows_in_the_residual_alone() -> None:
    asked = scenes(9, 12)
    clean = render(asked)
    before, after = score_pictures(asked, clean), score_pictures(asked, blurred(clean, 1))
    assert after["scores"]["colour"]["share"] == 1.0
    assert after["residual"] > 2 * before["residual"]


def test_an_empty_or_absurd_picture_scores_nothing() -> None:
    asked = scenes(11, 10)
    for picture in (
        np.full((64, 64, 3), 255, np.uint8),
        np.random.default_rng(0).integers(0, 256, (64, 64, 3)),
    ):
        table = score_pictures(asked, np.repeat(picture[None].astype(np.uint8), len(asked), 0))
        assert table["scores"]["whole"]["share"] == 0.0


def test_what_is_not_stated_is_not_judged() -> None:
    asked = Scene("white", (Object("red", "circle", 10.5, 32.0, 32.0),), None, False, "a red circle")
    other = replace(asked, background="navy", objects=(replace(asked.objects[0], x=14.5, radius=13.0),))
    given = marks(asked, judge(render([other])[0]))
    assert set(given) == {"count", "colour", "shape"}
    assert all(all(values) for values in given.values())


def test_any_drawer_can_be_scored() -> None:
    asked = scenes(13, 20)
    by_caption = {one.caption: picture for one, picture in zip(asked, render(asked), strict=True)}
    table = score_draw(lambda captions, seed: np.stack([by_caption[c] for c in captions]), asked, batch=8)
    assert table["captions"] == 20
    assert table["scores"]["whole"]["share"] == 1.0
    assert table["scores"]["whole"]["low"] < 0.9 < table["scores"]["whole"]["high"] <= 1.0


def test_held_out_pairs_stay_out_of_training() -> None:
    drawn = {(o.colour, o.shape) for one in scenes(1, 1000) for o in one.objects}
    assert drawn.isdisjoint(HELD_OUT)
    assert len(drawn) == len(COLOURS) * len(SHAPES) - len(HELD_OUT)
    for one in scenes(1, 100, "heldout-pairs"):
        assert any((o.colour, o.shape) in HELD_OUT for o in one.objects)
