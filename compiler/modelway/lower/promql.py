"""How names, numbers and times are written in PromQL and in Prometheus' templates."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache

_METACHARACTER = re.compile(r"[\\.+*?()|\[\]{}^$]")


def quote(text: str) -> str:
    """A string literal of PromQL."""
    if "\\" in text or '"' in text or "\n" in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def one_of(label: str, values: Iterable[str]) -> str:
    """A matcher for any of the values: equality for one, an (anchored) regular expression for several."""
    wanted = sorted(set(values))
    if len(wanted) == 1:
        return f"{label}={quote(wanted[0])}"
    return f"{label}=~{quote('|'.join(_METACHARACTER.sub(_escaped, value) for value in wanted))}"


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found[0]}"


@lru_cache(maxsize=1024)
def number(value: float | Decimal) -> str:
    """Exactly the number that was written, never in scientific notation: ``1e-07`` -> ``0.0000001``.

    ``repr`` gives the shortest digits that mean the float, which are those of the spec.
    """
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    text = f"{exact:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@lru_cache(maxsize=1024)
def seconds(milliseconds: int) -> str:
    """``250`` -> ``0.25``."""
    return number(Decimal(milliseconds) / 1000)


def duration(milliseconds: int) -> str:
    """``120000`` -> ``2m``; whole minutes, whole seconds, or milliseconds."""
    for unit, length in (("m", 60_000), ("s", 1000)):
        if milliseconds % length == 0:
            return f"{milliseconds // length}{unit}"
    return f"{milliseconds}ms"


def rate_window(scrape_ms: int, least_ms: int) -> int:
    """What a rate is taken over: four scrapes at least, so that two are left when every other one fails."""
    return max(least_ms, 4 * scrape_ms)


@lru_cache(maxsize=1024)
def bucket(milliseconds: int) -> str:
    """The label ``le`` of a bucket as the runtime writes it: a float, ``0.25`` or ``1.0``, and in Go's
    scientific notation from a million seconds on (``prometheus_client.utils.floatToGoString``)."""
    text = repr(milliseconds / 1000)
    whole = text.find(".")
    if whole > 6:
        digits = f"{text[0]}.{text[1:whole]}{text[whole + 1 :]}".rstrip("0.")
        return f"{digits}e+0{whole - 1}"
    return text


def text_of_user(text: str) -> str:
    """Text that stays text where Prometheus expands templates."""
    return text.replace("{{", '{{ "{{" }}') if "{{" in text else text
