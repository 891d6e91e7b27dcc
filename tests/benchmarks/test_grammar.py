"""Scenes are the same for the same seed, their captions say what they hold, and splits do not overlap."""

from __future__ import annotations

import math

import pytest

from benchmarks.reference.grammar import (
    HELD_OUT,
    RELATIONS,
    Object,
    cell_of,
    describe,
    held_out_caption,
    scenes,
)

README = "a red circle to the left of a blue square on a white background"


def test_the_readme_prompt_is_in_the_grammar() -> None:
    objects = (Object("red", "circle", 10.5, 14.5, 32.0), Object("blue", "square", 10.5, 49.5, 32.0))
    assert describe(objects, "to the left of", "white") == README
    assert not {("red", "circle"), ("blue", "square")} & set(HELD_OUT)


def test_same_seed_same_scenes() -> None:
    assert scenes(4, 50) == scenes(4, 50)
    assert scenes(4, 50) != scenes(5, 50)


def test_captions_of_the_splits_do_not_overlap() -> None:
    assert not any(held_out_caption(s.caption) for s in scenes(0, 300))
    assert all(held_out_caption(s.caption) for s in scenes(0, 300, "heldout-captions"))


def test_objects_keep_apart_and_inside() -> None:
    for scene in scenes(2, 300):
        for i, one in enumerate(scene.objects):
            assert one.radius >= 7.5
            assert one.radius <= min(one.x, one.y, 64 - one.x, 64 - one.y)
            assert one.cell is None or one.cell == cell_of(one.x, one.y)
            for other in scene.objects[:i]:
                assert math.hypot(one.x - other.x, one.y - other.y) >= one.radius + other.radius + 2


def test_relations_hold() -> None:
    related = [s for s in scenes(6, 400) if s.relation is not None]
    assert {s.relation for s in related} == set(RELATIONS)
    for scene in related:
        one, other = scene.objects
        dx, dy = other.x - one.x, other.y - one.y
        apart = dict(zip(RELATIONS, (dx, -dx, dy, -dy), strict=True))[scene.relation or ""]
        assert apart > 12 and apart == max(abs(dx), abs(dy))
        assert f" {scene.relation} " in scene.caption


def test_captions_fit_the_context() -> None:
    assert max(len(s.caption.replace(",", " ,").split()) for s in scenes(8, 2000)) <= 30


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="none of train"):
        scenes(0, 1, "test")
