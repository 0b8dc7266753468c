"""Settings, verdicts and a repository with a change in it, for the tests of publishing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from modelway_runtime.detection import settings as detector_settings
from modelway_runtime.detection import verdict as verdicts
from modelway_runtime.detection.forge import Forge, connect
from modelway_runtime.detection.publish import Published, publish
from modelway_runtime.detection.settings import App, Publish, Watched
from modelway_runtime.detection.verdict import Commit, PullRequest, Rollout, Verdict
from tests.support.github import APP_ID, INSTALLATION_ID, GitHub

EXAMPLES = Path(__file__).resolve().parents[4] / "policies" / "schemas" / "examples"
FOLDER = "generated/prod/search/ranker"
EXAMPLE = verdicts.from_json((EXAMPLES / "verdict-v1.json").read_bytes())
AT = EXAMPLE.judged_at


def settings(github: GitHub, folder: Path, *, token: str = "", **fields: Any) -> Publish:
    file = folder / "token"
    file.write_text((token or github.token) + "\n")
    given: dict[str, Any] = {
        "api_url": github.api_url,
        "repository": github.name,
        "branch": "main",
        "folder": "generated",
        "comment": "always",
        "token_file": str(file),
        "app": None,
    }
    return Publish(**{**given, **fields})


def app_settings(github: GitHub, folder: Path, key: str) -> Publish:
    file = folder / "key.pem"
    file.write_text(key)
    app = App(id=APP_ID, installation_id=INSTALLATION_ID, private_key_file=str(file))
    return settings(github, folder, token_file=None, app=app)


def forge(given: Publish) -> Forge:
    return connect(given, pause_s=0)


def watched(*response: str) -> Watched:
    example = detector_settings.parse((EXAMPLES / "detector-settings-v1.json").read_bytes()).watched[0]
    return msgspec.structs.replace(example, response=response or ("notify",))


def verdict(sha: str | None, number: int | None, **fields: Any) -> Verdict:
    commit = Commit(sha=sha, found_by="history") if sha else None
    pull = PullRequest(number=number, url="https://github.example/pull") if number else None
    given = {"commit": commit, "pull_request": pull, **fields}
    if "state" in fields:
        given["outcome"] = verdicts.OUTCOMES[fields["state"]]
    return msgspec.structs.replace(EXAMPLE, **given)


def later(minutes: int) -> dict[str, Any]:
    """Fields of a verdict that was judged so much later."""
    return {"judged_at": AT + timedelta(minutes=minutes), "id": f"prod-search-ranker-{minutes + 1000}"}


def rollout(started_at: datetime) -> Rollout:
    assert EXAMPLE.rollout is not None
    return msgspec.structs.replace(EXAMPLE.rollout, started_at=started_at.astimezone(UTC))


def body(of: Verdict) -> str:
    return f"**{of.model}** {of.state}, judged {of.judged_at.isoformat()}\n\n<details><summary>more</summary>\n\nx\n</details>"


def run(given: Publish, of: Verdict, *response: str) -> Published:
    """One run, as a process of its own would do it."""
    connection = forge(given)
    try:
        return publish(connection, given, watched(*response), of, body)
    finally:
        connection.close()


def changed(github: GitHub, on: str = "slower") -> tuple[str, int]:
    """A merged pull request that changed, added and removed files of the model: its commit and number."""
    github.commit(
        {
            "specs/search/ranker.yaml": "version: 45\n",
            f"{FOLDER}/a.yaml": "45\n",
            f"{FOLDER}/gone.yaml": "x\n",
        }
    )
    github.commit(
        {
            "specs/search/ranker.yaml": "version: 46\n",
            f"{FOLDER}/a.yaml": "46\n",
            f"{FOLDER}/new.yaml": "y\n",
            f"{FOLDER}/gone.yaml": None,
        },
        on=on,
    )
    number = github.pull(on)
    return github.merge(number), number


def live(github: GitHub, number: int) -> list[str]:
    """Bodies of the comments with a verdict that stands."""
    bodies = [each["body"] for each in github.comments(number)]
    return [each for each in bodies if each.startswith("<!-- modelway ") and "state=duplicate" not in each]
