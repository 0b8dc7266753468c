"""Make ``docs/reference``: diagnostics, fields of specs, the runtime's commands, its REST interface, syncing.

Diagnostics are made from ``tests/diagnostics``, whose examples a test holds to what they say, fields from
the schemas, commands from click, ``argo-cd.md`` from ``lower/syncing.py``; ``openapi.json`` is what the
server answers.
``python docs/make_reference.py`` writes all; a test fails when what is kept is not what it writes.
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(__file__).parent / "reference"
sys.path[:0] = [str(ROOT)]

import click  # noqa: E402
import yaml  # noqa: E402

from modelway.diagnostics import CODES  # noqa: E402
from modelway.lower import syncing  # noqa: E402
from modelway.report import explain  # noqa: E402
from modelway.report.text import render_text  # noqa: E402
from modelway.spec import schema as spec_schema  # noqa: E402
from modelway.spec.schema import KINDS, REPOSITORY, Schema  # noqa: E402
from modelway_runtime import cli as runtime_cli  # noqa: E402
from modelway_runtime.serving import openapi  # noqa: E402
from tests.diagnostics.examples import Example, examples, run  # noqa: E402

_MADE = "<!-- Made by docs/make_reference.py; change what it is made from. -->\n\n"
_WIDTH = 100
_LONGEST_LINE = 160  # of a spec that is shown: what is nested a hundred times need not be seen whole
_AREAS = {
    "MW0": "Reading a file",
    "MW1": "The schema",
    "MW2": "What specs say of each other",
    "MW4": "What an environment can take",
    "MW5": "The folder of generated files",
}


def pages() -> dict[str, str]:
    """Every page of the reference, by file name."""
    return {
        "diagnostics.md": _MADE + diagnostics(),
        "specs.md": _MADE + specs(),
        "runtime-commands.md": _MADE + runtime_commands(),
        "argo-cd.md": _MADE + argo_cd(),
        "openapi.json": json.dumps(openapi.document(), indent=2) + "\n",
    }


def argo_cd() -> str:
    """When each kind is healthy, and which fields controllers own."""
    health = "".join(
        f"| {one.kind} | `{one.group or 'core'}` | {one.healthy} | {', '.join(one.needs)} "
        f"| {'yes' if one.lasts else ''} |\n"
        for one in syncing.HEALTH
    )
    others = ", ".join(kind for _, kind in syncing.WITHOUT_HEALTH)
    owned = "".join(f"| {one.kind} | {one.fields} | {one.owner} |\n" for one in syncing.OWNED)
    entries = yaml.safe_dump(
        {"ignoreDifferences": syncing.ignore_differences()}, sort_keys=False, width=_LONGEST_LINE
    )
    return _ARGO_CD.format(
        health=health, others=others, owned=owned, entries=entries, options=", ".join(syncing.SYNC_OPTIONS)
    )


_ARGO_CD = """\
# What a syncer must know

How to set Argo CD up is in the [guide](../guides/argo-cd.md).

## When a kind is healthy

As Argo CD 3.5.1 sees it. A wave begins when all objects of the waves before it are healthy; the last wave
is not awaited. So what an object needs is in its wave or before it, and nothing comes after a kind that may
last: it is Progressing or Suspended for as long as a release, a run or a person wants.

An object may need: its consumer, the workload that mounts it; what its pods name; references, what it names
itself; its target, the workload that it scales; its backends, the Services behind it; its store or issuer.

| kind | group | healthy when | needs | may last |
|---|---|---|---|---|
{health}
Without a health check, so that they hold no wave: {others}.

## Fields that controllers own

Git states them for the first install. Then a controller writes them, and a sync must not.

| kind | fields | owner |
|---|---|---|
{owned}
In an Application, beside `syncOptions: [{options}]`:

```yaml
{entries}```
"""


def diagnostics() -> str:
    """A section for each code: what raises it, what is printed then, and what mends it."""
    parts = [_DIAGNOSTICS]
    area = ""
    for code in CODES:
        if _AREAS[code[:3]] != area:
            area = _AREAS[code[:3]]
            parts.append(f"## {area}\n\n{_overview(code[:3])}")
        parts.append(_section(code, *examples()[code]))
    return "\n".join(parts)


_DIAGNOSTICS = """\
# Diagnostics

What Modelway finds has a code, a severity, a place (file, line and column), a message with the value that is
wrong, and mostly a line of help. An **error** stops a compile: nothing is written. A **warning** says that
something that was asked for is lost; `--strict` makes it an error. A **note** says which way was taken.
A code is never given to something else.

| exit code | says |
|---|---|
| 0 | clean; notes never fail |
| 1 | an error, or with `--strict` a warning |
| 2 | the command line is wrong |
| 3 | `generated/` is not what the specs compile to, and nothing else is wrong |
| 4 | a fault of Modelway |
| 5 | the disk or the network failed |

Each code has an example below; the whole of it lies in
[`tests/diagnostics`](../../tests/diagnostics), with the files that are not shown.
"""


def _overview(prefix: str) -> str:
    rows = [
        f"| [{code}](#{code.lower()}) | {entry.severity.word} | {entry.title} |\n"
        for code, entry in CODES.items()
        if code.startswith(prefix)
    ]
    return "| code | severity | title |\n|---|---|---|\n" + "".join(rows)


def _section(code: str, bad: Example, good: Example) -> str:
    entry = CODES[code]
    parts = [f'### <a id="{code.lower()}"></a>{code}: {entry.title}\n\n']
    parts.append(f"{bad.words}\n\n" if bad.words else "".join(map(_shown, _own(bad))))
    parts.append(f"`modelway {bad.command}`:\n\n{_fence('text', _printed(bad))}\n")
    parts.append(f"Mended: {good.words}\n" if good.words else f"Mended:\n\n{_difference(bad, good)}")
    return "".join(parts)


def _own(example: Example) -> Iterator[tuple[str, str]]:
    for path in sorted(example.own or example.files):
        yield path, example.files[path].decode()


def _shown(file: tuple[str, str]) -> str:
    path, text = file
    return f"`{path}`:\n\n{_fence('yaml', _cut(text))}\n"


def _printed(example: Example) -> str:
    with tempfile.TemporaryDirectory(prefix="modelway-reference-") as folder:
        root = Path(folder) / "repository"
        root.mkdir()
        outcome = run(example, root)
    return render_text(outcome.diagnostics, outcome.sources, colour=False, width=_WIDTH)


def _difference(bad: Example, good: Example) -> str:
    lines: list[str] = []
    for path in sorted(bad.own | good.own):
        before, after = (
            _cut(side.files[path].decode()).splitlines() if path in side.files else [] for side in (bad, good)
        )
        found = list(difflib.unified_diff(before, after, path, path, n=1, lineterm=""))
        lines += [line for line in found[1:] if not line.startswith("@@ ")]  # the first says the path again
    return _fence("diff", "\n".join(lines) + "\n")


def _cut(text: str) -> str:
    return "".join(
        line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE // 2].rstrip()}…\n"
        for line in text.splitlines(keepends=True)
    )


def _fence(language: str, text: str) -> str:
    return f"```{language}\n{text}```\n"


def specs() -> str:
    """A table for each mapping of each kind."""
    parts = [_SPECS]
    for kind in (*KINDS, REPOSITORY):
        title = kind if kind != REPOSITORY else "`modelway.yaml`"
        node = spec_schema.schemas()[kind]
        parts.append(f"## {title}\n\n{node['description']}\n")
        parts += _mapping(kind, node, kind if kind != REPOSITORY else "", top=True)
    return "\n".join(parts)


_SPECS = """\
# The fields of specs

A field with a default may be left out; so may one whose default is “none”. In a terminal
`modelway explain Model.spec.serving` says the same; the schemas in
[`policies/schemas`](../../policies/schemas) tell it to editors.
`<name>` stands for any key, `[]` for each entry of a list.
"""
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_HEAD = "| field | type | default | meaning | example |\n|---|---|---|---|---|\n"


def _mapping(kind: str, node: Schema, path: str, *, top: bool = False) -> Iterator[str]:
    """The table of a mapping's fields, then those of the mappings within it."""
    root = spec_schema.schemas()[kind]
    fields = {name: spec_schema.deref(root, field) for name, field in node["properties"].items()}
    required = set(node.get("required", ()))
    rows = [_row(kind, _join(path, name), field, required=name in required) for name, field in fields.items()]
    heading = "" if top else f"### `{path}`\n\n{node['description']}\n\n"
    yield f"{heading}{_HEAD}{''.join(rows)}"
    for name, field in fields.items():
        below, inner = _inner(kind, field, _join(path, name))
        if "properties" in inner:
            yield from _mapping(kind, inner, below)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _inner(kind: str, field: Schema, path: str) -> tuple[str, Schema]:
    """The mapping that a field holds, itself or as its entries, and the path of its fields."""
    root = spec_schema.schemas()[kind]
    if _is_patch(field):
        return path, {}
    entries = field.get("additionalProperties")
    if isinstance(entries, dict):
        return f"{path}.<name>", spec_schema.deref(root, entries)
    if field.get("type") == "array":
        return f"{path}[]", spec_schema.deref(root, field["items"])
    return path, field


def _is_patch(field: Schema) -> bool:
    """Whether a field is a merge patch, or holds some: its fields stand where they are patched."""
    return "merge patch" in field.get("description", "").lower()


def _row(kind: str, path: str, field: Schema, *, required: bool) -> str:
    default = "**required**" if required else _code(field["default"]) if "default" in field else "none"
    if "default" in field and "properties" in field and not _is_patch(field):
        default = "as below"
    examples = field.get("examples") or []
    cells = (
        f"`{path}`",
        _words(kind, field, path),
        default,
        field.get("description", ""),
        _code(examples[0]) if examples else "",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _words(kind: str, field: Schema, path: str = "") -> str:
    """The type of a value, for people; with ``path`` a mapping is linked to its table."""
    if _is_patch(field):
        return "merge patch" if "properties" in field else "merge patches by environment"
    below, inner = _inner(kind, field, path)
    here = f"[mapping](#{_anchor(below)})" if path and "properties" in inner else "mapping"
    if inner is field:
        return here if "properties" in field else _scalar(field)
    entry = here if "properties" in inner else _words(kind, inner)
    if field.get("type") != "array":
        return f"mapping of names to {entry}"
    return f"list{_limits(field)} of: {entry}"


def _limits(field: Schema) -> str:
    """How many entries a list may have: ``, 1 to 16,``."""
    least, most = field.get("minItems"), field.get("maxItems")
    if least is None and most is None:
        return ""
    return f", {least or 0} to {most}," if most is not None else f", {least} or more,"


def _scalar(field: Schema) -> str:
    """``explain``'s words; values as code."""
    for key in ("enum", "const"):
        if key in field:
            options = field[key] if key == "enum" else [field[key]]
            return " or ".join(f"`{option}`" for option in options)
    words = explain.type_name(field).removeprefix("string: ")
    words = words.replace("integer", "whole number").replace("boolean", "`true` or `false`")
    if "maxLength" in field:
        words += f", at most {field['maxLength']} characters"
    return words


def _code(value: Any) -> str:
    """A value as YAML would write it on one line."""
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return f"`{_DIGEST.sub('sha256:…', text)}`"


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives the heading of a mapping."""
    return re.sub(r"[^\w-]", "", heading.lower())


def runtime_commands() -> str:
    """A section for each command of ``modelway-runtime``: what its help says, and its options."""
    parts = [_RUNTIME_COMMANDS]
    for name, command in sorted(runtime_cli.main.commands.items()):
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        usage = " ".join(["modelway-runtime", name, "[OPTIONS]", *(_argument(a) for a in arguments)])
        parts.append(
            f"## `{name}`\n\n{inspect.cleandoc(command.help or '')}\n\n{_fence('text', usage + chr(10))}"
        )
        options = [p for p in command.params if isinstance(p, click.Option)]
        rows = [_option(option) for option in sorted(options, key=lambda option: not option.required)]
        if rows:
            parts.append("| option | value | default | meaning |\n|---|---|---|---|\n" + "".join(rows))
    return "\n".join(parts)


_RUNTIME_COMMANDS = """\
# The commands of the runtime

`modelway-runtime COMMAND --help` says the same. Each command also takes `-h`; `modelway-runtime --version`
prints the version.

| exit code | says |
|---|---|
| 0 | done; for `serve`: ended by SIGTERM or SIGINT |
| 1 | the settings or a file that they name are wrong; for `check`: something cannot be served |
| 2 | the command line is wrong, or a package is missing: the message names the extra to install |
| 4 | a fault of Modelway: the message says how to report it |
| 5 | `serve` could not load a model or open a port; `fetch` could not bring the file |
| 130 | a second signal ended a server that still drained |

Guides: [on a laptop](../guides/serve-on-a-laptop.md), [in a cluster](../guides/serving-in-a-cluster.md).
"""
_DEFAULT_IN_HELP = re.compile(r"\s*\[default: (.+)\]$")


def _argument(argument: click.Argument) -> str:
    return f"{{{_values(argument)}}}"


def _option(option: click.Option) -> str:
    said = _DEFAULT_IN_HELP.search(option.help or "")
    default = said[1] if said else ""
    if option.required:
        default = "**required**"
    elif not option.is_flag and isinstance(option.default, str | int | float | tuple) and not said:
        values = option.default if isinstance(option.default, tuple) else (option.default,)
        default = " ".join(f"`{value}`" for value in values)
    value = "" if option.is_flag else _values(option)
    if option.multiple:
        value += ", repeated"
    cells = (f"`{option.opts[0]}`", value, default, _DEFAULT_IN_HELP.sub("", option.help or ""))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |\n"


def _values(parameter: click.Parameter) -> str:
    """What may be given, for people."""
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return "|".join(kind.choices)
    if isinstance(kind, click.IntRange | click.FloatRange):
        least = f"above {kind.min:g}" if kind.min_open else f"{kind.min:g} or more"
        return least if kind.max is None else f"{kind.min:g} to {kind.max:g}"
    if isinstance(kind, click.Path):
        return "file" if not kind.dir_okay else "folder"
    return "text"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
