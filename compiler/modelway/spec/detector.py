"""What an ``Environment`` says of its detector of change points: when it looks, who asks it, whom it tells.

Secrets are named here and never held; their keys are fixed: ``token``, ``app.pem``, ``ca.crt``, ``tls.crt``,
``tls.key``; of the gate's in the detector's namespace the names of teams.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from modelway.spec.common import Bytes, HttpUrl, Image, Name, PositiveDuration, Value, doc

_GATE_SECRET, _FORGE_SECRET, _ARGOCD_SECRET = "detector-gate", "detector-forge", "detector-argocd"


class Gate(Value, frozen=True, kw_only=True):
    """The detector's answer to Argo Rollouts: whether a canary may go on."""

    public_url: Annotated[
        HttpUrl,
        doc("Where people reach the detector, for links to verdicts.", "https://detector.shop.example"),
    ]
    secret: Annotated[
        Name,
        doc(
            "Secret of callers: in a team's namespace its `token`, in the detector's a key for each team.",
            "gate-token",
        ),
    ] = _GATE_SECRET
    rollouts_namespace: Annotated[Name, doc("Namespace of Argo Rollouts, which may ask.", "argo")] = (
        "argo-rollouts"
    )


class GitHubApp(Value, frozen=True, kw_only=True):
    """The GitHub App as which the detector speaks."""

    id: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1), doc("Number of the app.", 1021)]
    installation_id: Annotated[
        int, msgspec.Meta(ge=1, le=2**53 - 1), doc("Number of its installation.", 4711)
    ]


class Publish(Value, frozen=True, kw_only=True):
    """The repository on whose pull requests verdicts are written."""

    api_url: Annotated[
        HttpUrl,
        doc("GitHub's API; on an Enterprise Server it ends in `/api/v3`.", "https://git.shop.example/api/v3"),
    ] = "https://api.github.com"
    repository: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+$",
            max_length=140,
            title="owner/name of a repository",
        ),
        doc("The repository of the specs and of what they compile to.", "shop/models"),
    ]
    branch: Annotated[
        str,
        msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._/-]*$", max_length=255, title="a branch's name"),
        doc("Branch that the cluster follows.", "production"),
    ] = "main"
    folder: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$",
            max_length=1024,
            title="a folder of the repository, without .. and without a slash at its ends",
        ),
        doc("Folder of the generated files in the repository.", "deploy/generated"),
    ] = "generated"
    comment: Annotated[
        Literal["always", "changed", "regressed"],
        doc("Which verdicts begin a comment: all, changes, regressions alone.", "changed"),
    ] = "always"
    secret: Annotated[
        Name, doc("Secret with the `token`, or with the `app.pem` of an app.", "forge-token")
    ] = _FORGE_SECRET
    app: Annotated[
        GitHubApp | None, doc("A GitHub App in place of a token.", {"id": 1021, "installationId": 4711})
    ] = None


_PART = r"[a-z0-9]|\{team\}|\{model\}"
ApplicationName = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^({_PART})(({_PART}|-)*({_PART}))?$",
        max_length=63,
        title="lower-case letters, digits, inner hyphens, {team} and {model}",
    ),
]


class ArgoCd(Value, frozen=True, kw_only=True):
    """Whose synced revision is the commit that runs."""

    url: Annotated[HttpUrl, doc("Argo CD's address.", "https://argocd.shop.example")]
    application: Annotated[
        ApplicationName,
        doc(
            "The Application that brings a model; `{team}` and `{model}` stand for its names.", "prod-{team}"
        ),
    ]
    secret: Annotated[Name, doc("Secret with the `token` of a reader.", "argocd-token")] = _ARGOCD_SECRET


class Detector(Value, frozen=True, kw_only=True):
    """Looks for the patterns of Alerts: after releases, and all the time."""

    schedule: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^(never|([0-9*/,-]+ ){4}[0-9*/,-]+)$",
            title="five fields of cron such as */10 * * * *, or never",
        ),
        doc("When it looks unasked (cron, UTC); `never` leaves the gate alone.", "*/5 * * * *"),
    ] = "*/10 * * * *"
    stale_after: Annotated[
        PositiveDuration,
        doc("An alert fires when it saw nothing for so long; some times the schedule.", "30m"),
    ] = "1h"
    gate: Annotated[
        Gate | None,
        doc("Canaries ask it where it is given.", {"publicUrl": "https://detector.shop.example"}),
    ] = None
    publish: Annotated[Publish | None, doc("Verdicts on pull requests.", {"repository": "shop/models"})] = (
        None
    )
    argocd: Annotated[
        ArgoCd | None,
        doc(
            "Tells which commit runs; the history of the repository does where it is left out.",
            {"url": "https://argocd.shop.example", "application": "prod-{team}-{model}"},
        ),
    ] = None
    image: Annotated[
        Image | None,
        doc(
            "The image, by digest; that of the server when left out.",
            "registry.example/modelway/detector@sha256:" + "0" * 64,
        ),
    ] = None
    storage: Annotated[Bytes, doc("Volume for past verdicts and their series.", "5Gi")] = "1Gi"
