"""Reading ``edgediff.json``: strict JSON first, then the shape of ``bundle.schema.json``, by hand.

The schema beside this file is the format's page; tests run both over the same examples. Written by hand
because the runtime should not install a validator, and because a message must name the field and what to do.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgediff.errors import BundleError, UnsupportedError

MANIFEST = "edgediff.json"
MAX_BYTES = 1 << 20
MAX_DEPTH = 16
FORMAT_MAJOR = 1
DTYPES = ("float32", "float16", "int64", "int32", "bool")
_DEVICE_NAMES = frozenset(
    ["con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))]
)


class UnknownField(UserWarning):
    """A manifest has fields that this version does not read; the message names them."""


def read_json(path: Path, limit: int = MAX_BYTES, unbounded: bool = False) -> Any:
    """Return the JSON value in ``path``.

    Stricter than the standard library: at most ``limit`` bytes and 16 levels, UTF-8 without a mark, no key
    twice, no NaN or Infinity, no lone surrogate and no NUL. ``unbounded`` drops top-level keys
    whose value is infinite: diffusers writes ``"lambda_min_clipped": -Infinity``, which means no bound.

    Raises:
        BundleError: the file is missing or is not such JSON.
    """
    try:
        if not path.is_file():
            raise BundleError(f"{path}: there is no such file; is this the folder of a bundle?")
        if path.stat().st_size > limit:
            raise BundleError(f"{path}: {path.stat().st_size} bytes are more than the {limit} allowed.")
        raw = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}).") from error
    return parse_json(raw, path, unbounded)


def parse_json(raw: bytes, where: Path | str, unbounded: bool = False) -> Any:
    """Return the value of JSON text, as strictly as :func:`read_json`; ``where`` is for messages.

    Raises:
        BundleError: it is not such JSON.
    """
    if raw.startswith(b"version https://git-lfs"):
        raise BundleError(f"{where}: this is a git-LFS pointer, not the file; fetch it with `git lfs pull`.")
    _check_depth(raw, where)
    constant = _infinity if unbounded else _no_constant
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{where}: not valid JSON ({error}).") from error
    if unbounded and isinstance(value, dict):
        value = {k: v for k, v in value.items() if v not in (math.inf, -math.inf)}
    _check_values(value, str(where))
    return value


def _check_depth(raw: bytes, path: Path | str) -> None:
    depth = 0
    # Possessive and with an optional end: an unfinished string is passed over once, not once per quote.
    for token in re.finditer(rb'(?s)"(?:[^"\\]|\\.)*+"?|[\[\]{}]', raw):
        if token.group() in (b"[", b"{"):
            depth += 1
            if depth > MAX_DEPTH:
                raise BundleError(f"{path}: nested deeper than {MAX_DEPTH} levels.")
        elif token.group() in (b"]", b"}"):
            depth -= 1


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} stands twice")
        found[key] = value
    return found


def _infinity(name: str) -> Any:
    return float(name) if name != "NaN" else _no_constant(name)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_values(value: Any, where: str) -> None:
    """Refuse what ``json`` lets through but no other reader agrees on."""
    if isinstance(value, str):
        if "\0" in value or any(0xD800 <= ord(c) <= 0xDFFF for c in value):
            raise BundleError(f"{where}: a string holds NUL or a lone surrogate.")
    elif isinstance(value, (int, float)):
        if abs(value) >= 1 << 63 if isinstance(value, int) else not math.isfinite(value):
            raise BundleError(f"{where}: a number is too large.")
    elif isinstance(value, list):
        for item in value:
            _check_values(item, where)
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_values(key, where)
            _check_values(item, f"{where}: {key}")


def safe_name(name: str, where: str) -> str:
    """Return a path inside the bundle, or raise BundleError if it could lead anywhere else on any system.

    Up to eight components of letters, digits, dot, dash and underscore; none starts with a dot, ends with
    one, or is a Windows device name.
    """
    parts = name.split("/")
    good = len(name) <= 256 and len(parts) <= 8
    good = good and all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", part) for part in parts)
    good = good and not any(p.endswith(".") or p.split(".")[0].lower() in _DEVICE_NAMES for p in parts)
    if not good:
        raise BundleError(f"{where}: {name!r} is no plain path inside the bundle.")
    return name


class Fields:
    """A JSON object with its place in the manifest, so that every complaint names the field.

    ``asked`` is shared by all objects of one file: by place, which keys somebody asked for.
    """

    def __init__(self, value: Any, where: str, asked: dict[str, set[str]] | None = None) -> None:
        if not isinstance(value, dict):
            raise BundleError(f"{where}: expected an object, found {type(value).__name__}.")
        self.value: Mapping[str, Any] = value
        self.where = where
        self._asked: dict[str, set[str]] = {} if asked is None else asked
        self._here = self._asked.setdefault(where, set())

    def __contains__(self, key: str) -> bool:
        self._here.add(key)
        return self.value.get(key) is not None

    def at(self, key: str) -> Fields:
        return Fields(self._get(key), f"{self.where}.{key}", self._asked)

    def maybe(self, key: str) -> Fields | None:
        return self.at(key) if key in self else None

    def items(self, key: str) -> list[tuple[str, Fields]]:
        inner = self.at(key)
        return [(name, inner.at(name)) for name in inner.value]

    def objects(self, key: str) -> list[Fields]:
        found = enumerate(self._list(key))
        return [Fields(item, f"{self.where}.{key}[{i}]", self._asked) for i, item in found]

    def anything(self, key: str) -> Any:
        """Return what stands at ``key``, None if nothing does."""
        self._here.add(key)
        return self.value.get(key)

    def unknown(self, open_ended: tuple[str, ...]) -> list[str]:
        """Return the places of fields that nobody asked for, but for objects that may hold anything."""
        return list(_unasked(self.value, self.where, self._asked, {f"{self.where}.{o}" for o in open_ended}))

    def text(self, key: str, limit: int = 256) -> str:
        value = self._get(key)
        if not isinstance(value, str) or not 1 <= len(value) <= limit:
            raise BundleError(f"{self.where}.{key}: expected 1 to {limit} characters, found {value!r:.60}.")
        return value

    def texts(self, key: str, limit: int = 64) -> tuple[str, ...]:
        found = self._list(key)
        if not all(isinstance(v, str) and 1 <= len(v) <= 256 for v in found) or len(found) > limit:
            raise BundleError(f"{self.where}.{key}: expected at most {limit} strings, found {found!r:.60}.")
        return tuple(found)

    def path(self, key: str) -> str:
        return safe_name(self.text(key), f"{self.where}.{key}")

    def whole(self, key: str, low: int = 1, high: int = 65536) -> int:
        value = self._get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise BundleError(
                f"{self.where}.{key}: expected a whole number from {low} to {high}, found {value!r:.60}."
            )
        return value

    def wholes(self, key: str, low: int = 1, high: int = 65536) -> dict[str, int]:
        inner = self.at(key)
        return {name: inner.whole(name, low, high) for name in inner.value}

    def wholes_of(self, key: str) -> tuple[int, ...]:
        found = self._list(key)
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in found):
            raise BundleError(f"{self.where}.{key}: expected whole numbers, found {found!r:.60}.")
        return tuple(found)

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        value = self._get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
            raise BundleError(
                f"{self.where}.{key}: expected a number from {low} to {high}, found {value!r:.60}."
            )
        return float(value)

    def numbers(self, key: str, limit: int) -> tuple[float, ...]:
        found = self._list(key)
        if not 1 <= len(found) <= limit or not all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in found
        ):
            raise BundleError(f"{self.where}.{key}: expected 1 to {limit} numbers, found {found!r:.60}.")
        return tuple(float(v) for v in found)

    def flag(self, key: str) -> bool:
        value = self._get(key)
        if not isinstance(value, bool):
            raise BundleError(f"{self.where}.{key}: expected true or false, found {value!r:.60}.")
        return value

    def one_of(self, key: str, words: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in words:
            raise BundleError(f"{self.where}.{key}: {value!r:.60} is not one of {', '.join(words)}.")
        return value

    def _get(self, key: str) -> Any:
        self._here.add(key)
        if key not in self.value:
            raise BundleError(f"{self.where}: the field {key!r} is missing; export the bundle again.")
        return self.value[key]

    def _list(self, key: str) -> list[Any]:
        value = self._get(key)
        if not isinstance(value, list):
            raise BundleError(f"{self.where}.{key}: expected a list, found {type(value).__name__}.")
        return value


def _unasked(value: Any, where: str, asked: Mapping[str, set[str]], open_ended: set[str]) -> Iterator[str]:
    if where in open_ended:
        return
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _unasked(item, f"{where}[{i}]", asked, open_ended)
    elif isinstance(value, dict) and where in asked:
        for key, item in value.items():
            if key in asked[where]:
                yield from _unasked(item, f"{where}.{key}", asked, open_ended)
            else:
                yield f"{where}.{key}"


def check_version(version: str, where: str) -> None:
    """Accept every minor version of this major one."""
    match = re.fullmatch(r"(0|[1-9][0-9]{0,3})\.([0-9]{1,4})", version)
    if match is None:
        raise BundleError(f"{where}.format_version: {version!r} is no version of the form 1.0.")
    if int(match[1]) != FORMAT_MAJOR:
        raise UnsupportedError(
            f"{where}: format version {version}; this edgediff reads {FORMAT_MAJOR}.x. Upgrade edgediff or "
            "export again."
        )


def check_distinct(names: list[str], where: str) -> None:
    """Refuse names that are one file on systems that fold case or accents."""
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            raise BundleError(f"{where}: {name!r} and {seen[folded]!r} are one file on some systems.")
        seen[folded] = name
