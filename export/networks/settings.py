"""Reads a component's configuration key by key, so that no switch is ignored by accident."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgediff.errors import SourceError, UnsupportedError

_MANY = 64


class Settings:
    """A configuration being read. ``finish`` refuses every key that nobody asked for."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where
        self._seen: set[str] = set()

    def integer(self, key: str, default: int | None = None, low: int = 1, high: int = 1 << 20) -> int:
        """A whole number between ``low`` and ``high``."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._wrong(key, value, f"a whole number from {low} to {high}")
        return value

    def given(self, key: str) -> bool:
        """Whether the key has a value other than null, which is then to be read; null needs no reading."""
        if self._values.get(key) is not None:
            return True
        self._seen.add(key)
        return False

    def optional(self, key: str) -> int | None:
        """A positive whole number, or None where the key is absent or null."""
        return self.integer(key) if self.given(key) else None

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
            raise self._wrong(key, value, "a number")
        return float(value)

    def positive(self, key: str, default: float) -> float:
        """A number above zero."""
        value = self.number(key, default)
        if value <= 0:
            raise self._wrong(key, value, "a number above 0")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def flags(self, key: str, count: int) -> tuple[bool, ...]:
        """``count`` of true or false, false if absent; one stands for all."""
        self._seen.add(key)
        value = self._values.get(key, False)
        listed = [value] * count if isinstance(value, bool) else value
        if not isinstance(listed, list | tuple) or len(listed) != count:
            raise self._wrong(key, value, f"true, false or {count} of them")
        if not all(isinstance(each, bool) for each in listed):
            raise self._wrong(key, value, f"true, false or {count} of them")
        return tuple(listed)

    def integers(self, key: str, default: int | Sequence[int], count: int | None = None) -> tuple[int, ...]:
        """A list of positive whole numbers; one number stands for ``count`` of them."""
        value = self._take(key, default)
        if isinstance(value, int) and count is not None:
            value = [value] * count
        fits = (
            isinstance(value, list | tuple)
            and 0 < len(value) <= _MANY
            and (count or len(value)) == len(value)
        )
        if not fits or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in value):
            raise self._wrong(key, value, f"{count or 'some'} positive whole numbers")
        return tuple(value)

    def nested(self, key: str, default: int, count: int) -> tuple[int | tuple[int, ...], ...]:
        """``count`` entries, each a whole number from 0 or a list of such; one number stands for all."""
        value = self._take(key, default)
        listed = [value] * count if isinstance(value, int) else value
        if not isinstance(listed, list | tuple) or len(listed) != count:
            raise self._wrong(key, value, f"a whole number or {count} entries")
        entries = [list(entry) if isinstance(entry, list | tuple) else [entry] for entry in listed]
        for number in (number for entry in entries for number in entry):
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _MANY:
                raise self._wrong(key, value, f"whole numbers from 0 to {_MANY}, or lists of them")
        if not all(0 < len(entry) <= _MANY for entry in entries):
            raise self._wrong(key, value, f"lists of 1 to {_MANY} numbers")
        return tuple(tuple(e) if isinstance(e, list | tuple) else int(e) for e in listed)

    def words(self, key: str, default: Sequence[str], allowed: Sequence[str], count: int) -> tuple[str, ...]:
        """``count`` of the allowed words."""
        value = self._take(key, default)
        if not isinstance(value, list | tuple) or len(value) != count:
            raise self._wrong(key, value, f"{count} names, one per block")
        for word in value:
            if word not in allowed:
                raise self._unsupported(key, word, allowed)
        return tuple(value)

    def choice(self, key: str, default: Any, allowed: Sequence[Any]) -> Any:
        """One of the allowed values; anything else is a switch that is not covered."""
        self._seen.add(key)
        value = self._values.get(key, default)
        if not any(
            value == other and isinstance(value, bool) == isinstance(other, bool) for other in allowed
        ):
            raise self._unsupported(key, value, allowed)
        return value

    def fixed(self, values: Mapping[str, Any]) -> None:
        """Switches that are accepted at one value only."""
        for key, value in values.items():
            self.choice(key, value, [value])

    def ignored(self, *keys: str) -> None:
        """Keys that say nothing about what the network computes."""
        self._seen.update(keys)

    def finish(self) -> None:
        """Refuse what was not read."""
        rest = sorted(k for k in self._values if k not in self._seen and not k.startswith("_"))
        if rest:
            listed = ", ".join(f"{key}={self._values[key]!r}"[:80] for key in rest[:8])
            raise UnsupportedError(
                f"{self._where}: settings that this exporter does not know: {listed}. "
                "Upgrade edgediff, or remove them if they change nothing."
            )

    def _take(self, key: str, default: Any) -> Any:
        self._seen.add(key)
        value = self._values.get(key, default)
        if value is None and default is not None:
            raise self._wrong(key, value, "a value")
        if key not in self._values and default is None:
            raise SourceError(f"{self._where}: {key} is missing.")
        return value

    def _wrong(self, key: str, value: Any, wanted: str) -> SourceError:
        return SourceError(f"{self._where}: {key} is {str(value)[:80]}, expected {wanted}.")

    def _unsupported(self, key: str, value: Any, allowed: Sequence[Any]) -> UnsupportedError:
        covered = " or ".join(str(other) for other in allowed)
        return UnsupportedError(f"{self._where}: {key} is {str(value)[:80]}; this exporter covers {covered}.")
