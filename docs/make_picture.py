"""Draws ``docs/pictures/diagnostic.svg``: what a wrong spec looks like in a terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

from modelway.pipeline import compile_specs
from modelway.report.text import render_text
from modelway.sources import read_specs

ROOT = Path(__file__).resolve().parents[1]
WRONG = (b"maxRows: 256, maxDelay: 1ms", b"maxRow: 256, maxDelay: 1 ms")


def main() -> None:
    sources, unread = read_specs(ROOT / "specs", shown="specs")
    sources = [type(source)(source.path, source.data.replace(*WRONG)) for source in sources]
    found = compile_specs(sources, unread).diagnostics
    found = tuple(one for one in found if one.span.path.endswith("ranker.yaml"))
    text = render_text(found, {source.path: source.data for source in sources}, colour=True, width=84)
    nowhere = io.StringIO()
    console = Console(record=True, width=88, file=nowhere, force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi("$ modelway compile\n" + text))
    svg = console.export_svg(title="modelway compile", unique_id="diagnostic")
    # No font from elsewhere: the picture is whole by itself.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    target = ROOT / "docs" / "pictures" / "diagnostic.svg"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
