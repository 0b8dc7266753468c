"""``modelway.yaml``: the repository's own settings."""

from __future__ import annotations

from typing import Annotated

import msgspec

from modelway.spec.common import Value, doc

Folder = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$",
        max_length=255,
        title="a folder below this file's, such as specs or platform/specs",
    ),
]


class Repository(Value, frozen=True, kw_only=True):
    """The repository's own settings (`modelway.yaml`)."""

    requires: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[0-9]{1,4}\.[0-9]{1,4}(\.[0-9]{1,4})?$", title="a version such as 0.1 or 0.1.3"
        ),
        doc(
            "Version of Modelway that compiles it: the same major and minor one, at least this patch.", "0.1"
        ),
    ]
    specs: Annotated[Folder, doc("Folder of the specs.", "platform/specs")] = "specs"
    output: Annotated[Folder, doc("Folder of the generated files.", "platform/generated")] = "generated"
