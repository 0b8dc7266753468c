"""The readers that generated files meet: YAML 1.1, YAML 1.2, and how Go's libraries resolve a bare word."""

from __future__ import annotations

import io
import re
from typing import Any

import yaml
from ruamel.yaml import YAML

Value = Any


def read_11(data: bytes) -> Value:
    """PyYAML, by its own parser and by libyaml's, which must agree."""
    pure = yaml.load(data, Loader=yaml.SafeLoader)
    assert same(yaml.load(data, Loader=yaml.CSafeLoader), pure)
    return pure


def read_12(data: bytes) -> Value:
    return YAML(typ="safe", pure=True).load(io.BytesIO(data))


READERS = (read_11, read_12)


def same(a: Value, b: Value) -> bool:
    """Equal in type as well: True is not 1, 1 is not 1.0, -0.0 is not 0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


# What follows is resolve.go of gopkg.in/yaml.v2 and yaml.v3 (the first is in sigs.k8s.io/yaml, by which
# kubectl, Helm, Kustomize and Argo CD read manifests), written so that a doubt counts as a number.
_GO_WORDS = {
    *("", "~", "null", "Null", "NULL", "<<", "="),
    *("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"),
    *("n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"),
    *(sign + word for sign in ("", "+", "-") for word in (".nan", ".NaN", ".NAN", ".inf", ".Inf", ".INF")),
}
_GO_NUMBERS = tuple(
    re.compile(pattern, re.IGNORECASE | re.ASCII)
    for pattern in (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)(e[-+]?[0-9]+)?",  # yamlStyleFloat
        r"[-+]?(0x[0-9a-f]+|0o[0-7]+|0b[01]+|[0-9]+)",  # strconv.ParseInt(plain, 0, 64), ParseUint
        r"[-+]?0x([0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)p[-+]?[0-9]+",  # strconv.ParseFloat in yaml.v2
        r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?",  # sexagesimal, which Go only quotes but others read
    )
)
_GO_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?", re.ASCII)


def go_takes_for_a_string(plain: str) -> bool:
    """Would Go's libraries read this bare scalar as a string?"""
    if plain.lstrip("+-").lower() in {"inf", "infinity", "nan"}:  # strconv.ParseFloat, behind a sign
        return False
    if plain in _GO_WORDS or _GO_DATE.fullmatch(plain):
        return False
    digits = plain.replace("_", "")
    return not any(number.fullmatch(digits) for number in _GO_NUMBERS)


# Every one of these once turned into something else, or broke a file, in some YAML writer or reader.
# fmt: off
AWKWARD = (
    "01494e89", "1e3", "1E3", "1e+3", "1e-3", "1.", ".5", "+1", "-1", "-", "--", "---", "--- a", "...",
    "0755", "00123456", "012345678", "0o17", "0x1F", "0x1p4", "0b1", "-0b1", "1_000", "1__0", "_1", "1,000",
    "0.1.2", "46.1.0", "1.33", "10.0.0.0/8", "12:30", "1:30", "190:20:30", "1:30.5", "2024-01-01",
    "2024-13-45", "2024-01-01T00:00:00Z", "2024-1-1 1:2:3", "no", "No", "NO", "on", "off", "y", "Y", "n",
    "Yes", "true", "TRUE", "False", "null", "Null", "~", "~/x", "NaN", ".nan", ".inf", "-.inf", "+.INF",
    "-inf", "Infinity", "=", "=x", "<<", "<", "", " ", "  ", " lead", "trail ", "a: b", "a:", ":", ":a",
    "a:b", "a #b", "a#b", "#c", "!t", "!!str x", "%x", "%YAML 1.2", "@x", "`x", "- a", "-a", "-\ta", "? a",
    "?", "?a", "{a", "{}", "{{ x }}", "[a", "[]", "],", "}", ",", "&a", "*a", "*", "|", "|-", ">", ">-",
    "'q'", '"q"', "it's", 'a"b', "'\"", "\\", "\\n", 'a\\"', "C:\\x", "x\ny\n", "x\n  y\n\n", "\nx", "\n",
    "\n\n", "x\n", "x \ny", "x\n ", "x\ny ", " x\ny", "x\n\ty", "\tx\ny", "x\n\n\ny", "x\n---\ny", "x\n...\n",
    "# c\nx", "x: y\nz: [", "- a\n- b", "x\n\n", "x\r\ny", "x\ry", "\r", "a\n\t\nb", "tab\there", "\t", "a\t",
    "a\u0085b", "a\n\u0085b", "a\u2028b", "a\n\u2029b", "\u2028", "\ufeffx", "x\n\ufeffy", "\0", "a\0b",
    "\x07", "\x1b[31m", "\x7f", "\x80", "\x9f", "\u00a0", "a\u00a0", "\u00ad", "\u200b", "\u202eabc", "é☃",
    "日本語", "日本: 語", "\U0001f600", "a\n\U0001f600", "\ufffe", "\uffff", "\ufffd", "\ue000", "\U000e0041",
    "word " * 40, "word " * 40 + "\n", "x" * 2000, "k: " * 700, "$(VAR)", "${VAR}", "$$", "(a)", "/", "./x",
    "../x", "--flag=x: y", "-c", "a&b", "a*b", "a|b", "a>b", "a!b", "a%b", "a@b", "a`b", "a,b", "a[b]",
    "a{b}", "a?b", "a? b", 'sum(rate(x{a="b",c=~"5.."}[5m])) > 14.4 * 0.001',
    "{{ $labels.pod }}: {{ $value | humanize }}", "sha256:0123", "registry.example/x:v1@sha256:ab",
    "https://x.example/?a=b&c=d#e", "Mon Jan  1 10:00:00",
)
# fmt: on
