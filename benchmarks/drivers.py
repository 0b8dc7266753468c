"""The programs that are timed beside modelway: drivers.py NAME ARGUMENT...

    helm-render CHART VALUES      Helm's template engine and nothing else
    helm-template CHART VALUES    the way of `helm template`: one release, rendered, parsed and sorted
    jsonnet PROGRAM               rjsonnet; its output is JSON
    kcl PROGRAM                   kcl-lib; its output is a stream of YAML documents
    write ARCHIVE FOLDER          the floor of creating files: the bytes are there, only write them

They run in the interpreters of the peers, so they import what they run and nothing else.
"""

import json
import sys
from collections.abc import Callable


def helm_render(chart_folder: str, values_file: str) -> None:
    """All models in one release, rendered only."""
    import helm_python  # type: ignore[import-not-found, unused-ignore]

    with open(values_file, encoding="utf-8") as file, helm_python.Chart.load(chart_folder) as chart:
        for text in chart.render(json.load(file), name="models", namespace="default").values():
            sys.stdout.write(f"---\n{text}\n")


def helm_template(chart_folder: str, values_file: str) -> None:
    """All models in one release, as an installation that is not carried out."""
    import helm_python  # type: ignore[import-not-found, unused-ignore]

    nowhere = helm_python.Config(namespace="default", storage_driver="memory", kubeconfig_content="")
    with open(values_file, encoding="utf-8") as file, helm_python.Chart.load(chart_folder) as chart, nowhere:
        sys.stdout.write(nowhere.install(chart, "models", json.load(file), dry_run="client")["manifest"])


def jsonnet(program: str) -> None:
    """The value of a program as JSON."""
    import rjsonnet  # type: ignore[import-not-found, unused-ignore]

    sys.stdout.write(rjsonnet.evaluate_file(program))


def kcl(program: str) -> None:
    """The documents that a program prints."""
    from kcl_lib import api  # type: ignore[import-not-found, unused-ignore]

    result = api.API().exec_program(api.ExecProgramArgs(k_filename_list=[program]))
    if result.err_message:
        sys.exit(result.err_message)
    sys.stdout.write(result.yaml_result or result.log_message)


def write(archive: str, folder: str) -> None:
    """Plain files, one after the other."""
    import os
    import pickle

    with open(archive, "rb") as file:
        contents = pickle.load(file)
    made = set()
    for path, data in contents.items():
        target = os.path.join(folder, path)
        parent = os.path.dirname(target)
        if parent not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        with open(target, "wb") as out:
            out.write(data)


DRIVERS: dict[str, Callable[..., None]] = {
    "helm-render": helm_render,
    "helm-template": helm_template,
    "jsonnet": jsonnet,
    "kcl": kcl,
    "write": write,
}

if __name__ == "__main__":
    DRIVERS[sys.argv[1]](*sys.argv[2:])
