"""What the kinds of spec share: the base of every value, and the forms of names, sizes and times.

A field's ``doc`` becomes its description and example in the JSON Schema, in ``modelway explain``
and in the reference. Every field with a default may be left out.
"""

from __future__ import annotations

from decimal import ROUND_UP, Decimal
from typing import Annotated, Any

import msgspec

API_VERSION = "modelway.dev/v1alpha1"

_DNS = r"[a-z]([-a-z0-9]*[a-z0-9])?"  # a letter first: Services ask for it (RFC 1035)
# What no address holds: spaces, controls, what cannot be seen, and what would need quotes or escapes.
# Written out, because engines do not agree about \s, and ECMA-262 takes no \" in a pattern.
NOT_IN_URI = r"\x00-\x20\x22<>\\^`{|}\x7f-\xa0\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff"
_LABEL_VALUE = r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"


class Value(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A mapping of a spec as a frozen value; ``max_rows`` here is ``maxRows`` in YAML."""


def doc(description: str, *examples: Any) -> msgspec.Meta:
    """What a field means and what it may look like; the first example differs from the default."""
    return msgspec.Meta(description=description, examples=list(examples))


# The forms that strings take. A form's ``title`` is what a diagnostic says was expected.
Name = Annotated[
    str,
    msgspec.Meta(
        pattern=f"^{_DNS}$",
        max_length=63,
        title="a letter, then lower-case letters, digits and inner hyphens",
    ),
]
Reference = Annotated[
    str,
    msgspec.Meta(pattern=f"^({_DNS}/)?{_DNS}$", max_length=127, title="a name, or team/name"),
]
_PREFIX = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_KEY = rf"({_PREFIX}(\.{_PREFIX})*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"
LabelKey = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^(?!(app\.kubernetes\.io|modelway\.dev)/){_KEY}",
        max_length=316,
        title="a Kubernetes label key that Modelway does not set itself",
    ),
]
AnnotationKey = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^(?!(argocd\.argoproj\.io|modelway\.dev)/){_KEY}",
        max_length=316,
        title="a Kubernetes annotation key that Modelway does not set itself",
    ),
]
LabelValue = Annotated[
    str, msgspec.Meta(pattern=f"^{_LABEL_VALUE}$", max_length=63, title="a Kubernetes label value")
]
PrometheusLabel = Annotated[
    str,
    msgspec.Meta(pattern="^[a-zA-Z][a-zA-Z0-9_]*$", max_length=63, title="a Prometheus label name"),
]
RoutingLabel = Annotated[
    str,
    msgspec.Meta(
        pattern="^(?!(alertname|severity|team|environment|slo|window|namespace|model|job|pod)$)[a-zA-Z][a-zA-Z0-9_]*$",
        max_length=63,
        title="a Prometheus label name that alerts do not have already",
    ),
]
Duration = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(0|[1-9][0-9]{0,8})(ms|s|m|h|d)$", title="a duration such as 200ms, 90s, 10m, 2h or 30d"
    ),
]
PositiveDuration = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[1-9][0-9]{0,8}(ms|s|m|h|d)$", title="a duration above nothing such as 250ms or 10m"
    ),
]
Cores = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([1-9][0-9]{0,11}(\.[0-9]{1,3})?|0\.[0-9]{0,2}[1-9])(m|k)?$",
        title="a number of cores such as 4, 0.5 or 500m",
    ),
]
Bytes = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[1-9][0-9]{0,11}(\.[0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)?$",
        title="a size such as 512Mi or 16Gi",
    ),
]
BytesOrNone = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(0|[1-9][0-9]{0,11}(\.[0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)?)$",
        title="a size such as 512Mi, or 0",
    ),
]
Digest = Annotated[
    str, msgspec.Meta(pattern="^sha256:[0-9a-f]{64}$", title="sha256: and 64 hexadecimal digits")
]
Version = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        title="at most 63 letters, digits, dots, hyphens and underscores",
    ),
]
Uri = Annotated[
    str,
    msgspec.Meta(
        # No user, password or query: a secret in a spec would end in Git, and in every diff.
        pattern=rf"^[a-z][a-z0-9+.-]*:(?!//[^/]*@)[^?#'{NOT_IN_URI}]+$",
        max_length=2048,
        title="a URI without user, password or query",
    ),
]
Image = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z0-9][-a-z0-9.]*(:[0-9]+)?(/[a-z0-9._-]+)+(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?$",
        max_length=512,
        title="an image such as registry.example/modelway/runtime@sha256:…",
    ),
]
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
HttpUrl = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:{_PORT})?(/[A-Za-z0-9._~-]+)*/?$",
        max_length=2048,
        title="an http(s) URL",
    ),
]
Text = Annotated[str, msgspec.Meta(max_length=1024, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$", title="a text")]


class Team(Value, frozen=True, kw_only=True):
    """The name of a spec within its team, and what people and selectors know it by."""

    name: Annotated[Name, doc("Name of the spec, unique in its kind and team.", "ranker")]
    team: Annotated[Name, doc("Team that owns the spec; its namespace is `<team>-<environment>`.", "search")]
    labels: Annotated[
        dict[LabelKey, LabelValue],
        msgspec.Meta(max_length=32),
        doc("Labels for selectors; on every object made from the spec.", {"tier": "critical"}),
    ] = {}
    annotations: Annotated[
        dict[AnnotationKey, Text],
        msgspec.Meta(max_length=32),
        doc("Notes for people and tools; on the workload or rule.", {"owner": "search@shop.example"}),
    ] = {}


class Shared(Value, frozen=True, kw_only=True):
    """The name of a spec that belongs to everyone."""

    name: Annotated[Name, doc("Name of the spec, unique in its kind.", "gpu-small")]
    labels: Annotated[
        dict[LabelKey, LabelValue],
        doc("Labels: a Resource's on its pods, an Environment's on namespaces.", {"cost-centre": "platform"}),
    ] = {}


Targets = Annotated[
    tuple[Name, ...],
    msgspec.Meta(min_length=1),
    doc("Environments that the spec is for; every environment when left out.", ["staging", "prod"]),
]

_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_QUANTITY = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T"), start=1)},
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), start=1)},
}


def milliseconds(duration: str) -> int:
    """``"90s"`` -> 90000. The schema has checked the form."""
    unit = duration.lstrip("0123456789")
    return int(duration[: -len(unit)]) * _MILLISECONDS[unit]


def seconds(duration: str) -> int:
    """Whole seconds, rounded up: ``"1500ms"`` -> 2."""
    return -(-milliseconds(duration) // 1000)


def amount(quantity: str) -> Decimal:
    """A Kubernetes quantity in its base unit (bytes, cores): ``"500m"`` -> 0.5, ``"1Ki"`` -> 1024."""
    unit = quantity.lstrip("0123456789.")
    return Decimal(quantity[: len(quantity) - len(unit)]) * _QUANTITY[unit]


def canonical(quantity: str) -> str:
    """The form that the Kubernetes API server gives back, so that nothing drifts: ``1024Mi`` -> ``1Gi``.

    Whole numbers of the largest unit of the quantity's family (apimachinery, resource.Quantity).
    """
    unit = quantity.lstrip("0123456789.")
    return canonical_amount(amount(quantity), binary=unit.endswith("i"))


def canonical_amount(value: Decimal, *, binary: bool) -> str:
    """``value`` in base units as a canonical quantity; fractions below a thousandth are rounded up."""
    units = ("Ti", "Gi", "Mi", "Ki", "") if binary else ("T", "G", "M", "k", "", "m")
    for unit in units:
        count = value / _QUANTITY[unit]
        if count == count.to_integral_value() and (count >= 1 or value == 0):
            return f"{int(count)}{unit}" if value else "0"
    return canonical_amount(
        value.quantize(Decimal(1) if binary else Decimal("0.001"), ROUND_UP), binary=binary
    )
