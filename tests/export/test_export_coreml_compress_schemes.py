"""Names of schemes, what goes with them, and what each target can hold."""

from __future__ import annotations

from typing import Any

import pytest

from edgediff.errors import InputError, UnsupportedError
from edgediff.export.coreml.schemes import BYTES, NAMES, PALETTES, Scheme, fitted, scheme_of, table_of

GROUPED = "per-grouped-channel"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_known_on_ios18(name: str) -> None:
    assert scheme_of(name, target="iOS18").name == name


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("palette-5", {}, "palette-6"),
        ("fp16", {}, "No scheme 'fp16'"),
        ("palette-4", {"granularity": "per-channel"}, "per-tensor, per-grouped-channel"),
        ("palette-4", {"group_size": 16}, "needs --granularity per-grouped-channel"),
        ("palette-4", {"granularity": "per-tensor", "group_size": 16}, "one table has no groups"),
        ("palette-4", {"granularity": GROUPED, "group_size": 0}, "at least one"),
        ("int8-weights", {"granularity": GROUPED}, "int8-weights is per-channel"),
        ("int4-weights", {"granularity": "per-tensor"}, "int4-weights is per-block"),
        ("int8", {"group_size": 32}, "does not go with int8"),
        ("mixed", {"group_size": 32}, "one table has no groups"),
    ],
)
def test_unknown_and_contradictory_requests(name: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        scheme_of(name, target="iOS18", **more)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("palette-3", {}),
        ("int4-weights", {}),
        ("palette-4", {"granularity": GROUPED}),
        ("mixed", {"granularity": GROUPED, "group_size": 32}),
    ],
)
def test_what_needs_ios18_says_so(name: str, more: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match=r"iOS 18 or macOS 15.*--target iOS18"):
        scheme_of(name, target="iOS17", **more)
    assert scheme_of(name, target="iOS18", **more).name == name


def test_groups_and_blocks_have_sizes() -> None:
    assert scheme_of("palette-4", granularity="per_grouped_channel", target="iOS18").group_size == 16
    assert scheme_of("palette-4", granularity=GROUPED, group_size=8, target="iOS18").group_size == 8
    assert scheme_of("int4-weights", target="iOS18").group_size == 32
    assert scheme_of("int4-weights", group_size=64, target="iOS18").group_size == 64
    grouped = scheme_of("mixed", granularity=GROUPED, target="iOS18")
    assert table_of(grouped, 6) == Scheme("palette-6", "palette", 6, "per_grouped_channel", 16)


def test_what_does_not_divide_the_channels_is_halved_or_given_up() -> None:
    grouped = scheme_of("palette-4", granularity=GROUPED, target="iOS18")
    blocks = scheme_of("int4-weights", target="iOS18")
    assert fitted(grouped, (320, 4, 3, 3)).group_size == 16
    assert fitted(grouped, (24, 320, 3, 3)).group_size == 8
    assert fitted(grouped, (4, 320, 3, 3)) == PALETTES[4]
    assert fitted(blocks, (4, 320, 3, 3)).group_size == 32
    assert fitted(blocks, (4, 48)).group_size == 16
    assert fitted(blocks, (320, 4, 3, 3)) == BYTES
    assert fitted(scheme_of("int8"), (320, 4)) == BYTES
