"""``Resource``: what one replica of a model takes, and what an hour of it costs."""

from __future__ import annotations

from typing import Annotated

import msgspec

from modelway.spec.common import Bytes, Cores, Name, Shared, Targets, Value, doc


class Gpu(Value, frozen=True, kw_only=True):
    """Whole GPUs of one product."""

    product: Annotated[Name, doc("Key of the product in the environment's `gpus`.", "l4")]
    count: Annotated[int, msgspec.Meta(ge=1, le=64), doc("GPUs of one replica.", 2)] = 1


class Cost(Value, frozen=True, kw_only=True):
    """Price of one replica."""

    per_hour: Annotated[
        str,
        msgspec.Meta(pattern=r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?$", title="a decimal number in quotes"),
        doc("Price of one replica for an hour, a decimal number as a string.", "0.81"),
    ]
    currency: Annotated[
        str,
        msgspec.Meta(pattern="^[A-Z]{3}$", title="a currency of three capital letters"),
        doc("ISO 4217 code of the currency.", "EUR"),
    ] = "USD"


class ResourceSpec(Value, frozen=True, kw_only=True):
    """What one replica takes, and what an hour of it costs."""

    targets: Targets = ()
    cpu: Annotated[Cores, doc("CPU that is reserved for a replica (no limit is set).", "4")]
    memory: Annotated[Bytes, doc("Memory of a replica, reserved and at most.", "16Gi")]
    gpu: Annotated[Gpu | None, doc("GPUs of a replica; none when left out.", {"product": "l4"})] = None
    priority: Annotated[
        int,
        msgspec.Meta(ge=0, le=1_000_000_000),
        doc("Pods of a higher priority displace others; 0 makes no PriorityClass.", 100000),
    ] = 0
    cost: Annotated[
        Cost | None, doc("Price of a replica, for `modelway list`.", {"perHour": "0.81", "currency": "EUR"})
    ] = None


class Resource(Value, frozen=True, kw_only=True):
    """A named size of replica, for every team."""

    metadata: Shared
    spec: ResourceSpec
