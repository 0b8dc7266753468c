"""``make demo``: compile the reference shop, serve a model, detect a slow one. No cluster, GPU or account."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import detect_demo
import serve_demo

ROOT = Path(__file__).resolve().parents[1]
MODELWAY = str(Path(sys.executable).with_name("modelway"))
WRONG = ("maxRows: 256, maxDelay: 1ms", "maxRow: 256, maxDelay: 1 ms")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="modelway-demo-") as folder:
        output = Path(folder) / "generated"
        heading("1. The specs of a web shop: two teams, five models, four environments")
        for path in sorted((ROOT / "specs").rglob("*.yaml")):
            lines = len(path.read_text(encoding="utf-8").splitlines())
            print(f"  {path.relative_to(ROOT)}  ({lines} lines)")
        modelway("list", "-e", "prod")

        heading("2. modelway compile: what a cluster needs, as files that Git keeps")
        modelway("compile", "--quiet", "--specs", "specs", "--output", str(output))
        summary(output)

        heading("3. One model in prod: the ranker")
        tree(output / "prod" / "search" / "ranker")
        show(output / "prod" / "search" / "ranker" / "scaledobject-ranker.yaml")

        heading("4. A wrong spec: nothing is written, and the place is named")
        specs = Path(folder) / "specs"
        shutil.copytree(ROOT / "specs", specs)
        ranker = specs / "search" / "ranker.yaml"
        ranker.write_text(ranker.read_text(encoding="utf-8").replace(*WRONG), encoding="utf-8")
        code = modelway("compile", "--quiet", "--specs", "specs", "--output", str(output), cwd=Path(folder))
        print(f"  (exit code {code})")

        heading("5. modelway check: generated/ in this repository is what its specs say")
        code = modelway("check", "--quiet")
        print("  up to date" if code == 0 else f"  (exit code {code})")

    heading("6. modelway-runtime serve: a model, a request, its metrics")
    images, trained = serve_demo.main()

    heading("7. modelway-runtime detect: a slower version is found, and what its pull request is told")
    detect_demo.main(images, *trained)
    sys.exit(code)


def modelway(*arguments: str, cwd: Path = ROOT) -> int:
    """Run the command as a user would, after saying so."""
    shown = " ".join(argument if len(argument) < 40 else "DIR" for argument in arguments)
    print(f"\n$ modelway {shown}", flush=True)
    colour = ["--colour", "always" if sys.stdout.isatty() else "never"]
    command = [MODELWAY, *arguments, *colour]
    return subprocess.run(command, cwd=cwd, check=False, stderr=subprocess.STDOUT).returncode


def heading(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}")


def summary(output: Path) -> None:
    """Files and kinds of object by environment."""
    for environment in sorted(path for path in output.iterdir() if path.name != ".index"):
        files = [path for path in environment.rglob("*") if path.is_file()]
        kinds = Counter(path.name.partition("-")[0] for path in files)
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        print(f"  {environment.name:8} {len(files):3} files: {listed}")


def tree(folder: Path) -> None:
    print(f"  {folder.name}/")
    for path in sorted(folder.iterdir()):
        print(f"    {path.name}  ({path.stat().st_size:,} bytes)")


def show(path: Path) -> None:
    print(f"\n  {path.name}:\n")
    print("".join(f"    {line}\n" for line in path.read_text(encoding="utf-8").splitlines()), end="")


if __name__ == "__main__":
    main()
