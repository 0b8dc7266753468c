"""The files of a new repository, for ``modelway init``."""

from __future__ import annotations

from modelway import __version__

_FILES = {
    "modelway.yaml": "modelway.yaml.j2",
    "specs/environments/local.yaml": "environment.yaml.j2",
    "specs/resources/cpu-small.yaml": "resource.yaml.j2",
    "specs/{team}/{model}.yaml": "model.yaml.j2",
    ".github/workflows/modelway.yaml": "workflow.yaml.j2",
    ".gitattributes": "gitattributes.j2",
    ".editorconfig": "editorconfig.j2",
    ".vscode/settings.json": "vscode.json.j2",
}


def files(team: str, model: str) -> dict[str, bytes]:
    """Path -> content, with the JSON Schemas that editors use. ``team`` and ``model`` are DNS labels."""
    from jinja2 import PackageLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    from modelway.lower.objects import json_text
    from modelway.spec.schema import schemas

    templates = SandboxedEnvironment(
        loader=PackageLoader("modelway.scaffold"),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    series = ".".join(__version__.split(".")[:2])
    found = {
        path.format(team=team, model=model): templates.get_template(name)
        .render(team=team, model=model, series=series)
        .encode()
        for path, name in _FILES.items()
    }
    for kind, schema in schemas().items():
        found[f"policies/schemas/{kind.lower()}.json"] = json_text(schema).encode()
    return found
