"""Python values as JSON that loses nothing without saying so. It imports only the standard library.

What JSON lacks is written as in MongoDB's Extended JSON (canonical, version 2): NaN and the infinities as
`{"$numberDouble": "NaN"}`, bytes as `{"$binary": {"base64": "…", "subType": "00"}}`. `decoded` makes them again
what they were. Source: https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, Set, ValuesView
from contextlib import suppress
from enum import Enum
from typing import Any

_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode(value: Any, other: Callable[[Any], Any]) -> bytes:
    """Return a value as JSON in UTF-8.

    Dataclasses and models of pydantic become objects, sequences, sets and iterators become lists, enumerations their
    values, numbers and arrays of numpy the numbers or lists of numbers, their records objects, and a table of pandas
    the list of its rows. NA and NaT of pandas become null. The keys of an object become strings.

    `other` makes a JSON value of any other object, or raises.

    Raises:
        TypeError, ValueError: a value cannot be JSON, or two keys of an object become the same string.
    """
    try:
        try:
            # What is JSON already needs no look at each of its parts.
            encoded = _json(value)
        except (TypeError, ValueError):
            encoded = _json(_plain(value, other))
        json.loads(encoded, object_pairs_hook=_without_repeated_keys)
    except RecursionError:
        raise ValueError("it is nested too deep, or contains itself") from None
    except UnicodeEncodeError as error:
        raise ValueError(
            f"it has a text that is not Unicode, near {error.object[max(0, error.start - 50) : error.end]!r}. The "
            "names of files that are not UTF-8 are such texts; `os.fsencode` makes bytes of them"
        ) from None
    return encoded


def decoded(value: Any) -> Any:
    """Return a JSON value with NaN, infinities and bytes as they were in Python."""
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(name, content)] = value.items()
        if name == "$numberDouble" and isinstance(content, str) and content in _NUMBERS:
            return _NUMBERS[content]
        if name == "$binary" and isinstance(content, dict) and content.keys() == {"base64", "subType"}:
            try:
                return base64.b64decode(content["base64"], validate=True)
            except (TypeError, ValueError, binascii.Error):
                return value
    return {name: decoded(content) for name, content in value.items()}


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def _without_repeated_keys(items: list[tuple[str, Any]]) -> None:
    if len(dict(items)) < len(items):
        names = [name for name, _ in items]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two keys of an object are both {repeated!r} as JSON")


def _plain(value: Any, other: Callable[[Any], Any]) -> Any:
    """Return a value made of dicts, lists, texts and finite numbers."""
    if isinstance(value, Enum):
        return _plain(value.value, other)
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$numberDouble": _name(value)}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$binary": {"base64": base64.b64encode(value).decode(), "subType": "00"}}
    if isinstance(value, Mapping):
        return _object(value.items(), other)
    if isinstance(value, Sequence | Set | Iterator | KeysView | ValuesView | ItemsView):
        return [_plain(item, other) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _object(((each.name, getattr(value, each.name)) for each in dataclasses.fields(value)), other)
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    if library == "numpy" and hasattr(value, "tolist"):
        if value.dtype.names or value.dtype.str.endswith("]"):  # such as `<M8[ns]`: a time with a unit
            return _of_numpy(value, other)
        plain = value.tolist()
        return other(value) if type(plain) is kind else _plain(plain, other)
    if library == "pandas":
        if kind.__name__ in ("NaTType", "NAType"):
            return None
        if kind.__name__ == "DataFrame":
            if not value.columns.is_unique:
                raise ValueError(f"two columns of a table have the same name: {[*value.columns]!r:.200}")
            return _plain(value.to_dict("records"), other)
        if getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0):
            return value.isoformat()  # Python's times have no nanoseconds
        if hasattr(value, "tolist"):
            return _plain(value.tolist(), other)
    if hasattr(value, "model_dump") and hasattr(kind, "model_fields"):
        return _plain(value.model_dump(), other)
    return other(value)


def _of_numpy(value: Any, other: Callable[[Any], Any]) -> Any:
    """Return numpy's records as objects, and its times as Python's if these can say the same, or else as a text.

    `tolist` makes them tuples without names, and numbers without units.
    """
    if value.ndim:
        return [_plain(item, other) for item in value]
    if value.dtype.names:
        return _object(((name, value[name]) for name in value.dtype.names), other)
    with suppress(TypeError):  # years and months have no length in microseconds
        for same in (value, value.astype(f"{value.dtype.kind}8[us]")):
            plain = same.tolist()
            if plain is None or (same == value and not isinstance(plain, int)):
                return _plain(plain, other)
    return str(value)


def _object(items: Iterable[tuple[Any, Any]], other: Callable[[Any], Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, item in items:
        name = _text(_plain(key, other))
        if name in made:
            raise ValueError(f"two keys of an object are both {name!r} as JSON")
        made[name] = _plain(item, other)
    return made


def _text(key: Any) -> str:
    return key if isinstance(key, str) else json.dumps(key, ensure_ascii=False)


def _name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
