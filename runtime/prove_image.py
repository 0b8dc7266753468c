"""Run an image as a pod of ours would, and check what the pod relies on.

    python runtime/prove_image.py run IMAGE
    python runtime/prove_image.py build TAG

`run` needs docker or podman, and takes about ten seconds. `build` makes the image without a registry: a
minimal Debian with Python stands in for the base image, so it proves the Dockerfile, not the base. It
needs root, mmdebstrap and buildah.
"""

# ruff: noqa: S108, S603, T201  # it runs programs and prints; /tmp is the container's

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import http.client
import http.server
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
USER = 65532
DRAIN_S = 5
# What `_CONFINED`, the volumes and the environment of the compiler's pods come to.
CONFINED = [
    "--read-only",
    f"--user={USER}:{USER}",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp",
    "--network=host",
    "--env=HOME=/tmp",
]
PROBE = """
import json, os, sys
def can_write(folder):
    try:
        open(os.path.join(folder, "probe"), "w").close()
    except OSError:
        return False
    return True
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "home": os.path.expanduser("~"),
    "capabilities": int(status["CapEff"], 16), "no_new_privileges": int(status["NoNewPrivs"]),
    "written": [folder for root in sys.argv[1:] for folder, _, _ in os.walk(root) if can_write(folder)],
    "tmp": can_write("/tmp"), "pip": __import__("importlib.util").util.find_spec("pip") is not None,
}))
"""


class Failed(Exception):
    """The image does not do what a pod relies on; the text says what."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="Run an image and check it.")
    run.add_argument("image")
    run.add_argument("--engine", default="docker", help="Command line of docker or podman.")
    run.add_argument("--option", action="append", default=[], help="Another option of the engine's `run`.")
    build = commands.add_parser("build", help="Build an image where no registry is reached.")
    build.add_argument("tag")
    build.add_argument("--flavour", choices=["cpu", "gpu"], default="cpu")
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            build_on_debian(arguments.tag, arguments.flavour)
        else:
            prove(Engine(shlex.split(arguments.engine), arguments.option, arguments.image))
    except (Failed, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


class Engine:
    """One image, and the command that runs it confined."""

    def __init__(self, command: list[str], options: list[str], image: str) -> None:
        self._command, self._options, self._image = command, options, image

    def arguments(self, *arguments: str, mounts: tuple[str, ...] = (), **options: str) -> list[str]:
        volumes = [f"--volume={mount}" for mount in mounts]
        extra = [f"--{name}={value}" for name, value in options.items()]
        return [
            *self._command,
            "run",
            "--rm",
            *CONFINED,
            *self._options,
            *volumes,
            *extra,
            self._image,
            *arguments,
        ]

    def output(self, *arguments: str, mounts: tuple[str, ...] = (), **options: str) -> str:
        done = subprocess.run(
            self.arguments(*arguments, mounts=mounts, **options),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise Failed(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def terminate(self, name: str) -> None:
        """SIGTERM to the first process, as the kubelet sends it."""
        subprocess.run([*self._command, "kill", "--signal=TERM", name], check=True, capture_output=True)


def prove(engine: Engine) -> None:
    """Raises Failed at the first thing that a pod would miss."""
    _say("confined", _confined(engine))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        models = folder / "models"
        models.mkdir()
        os.chown(models, USER, USER) if os.geteuid() == 0 else models.chmod(0o777)
        digest = _fetched(engine, folder, models)
        (folder / "settings.json").write_text(json.dumps(_settings(digest)))
        _say("fetched", digest)
        _served(engine, folder, models)


def _confined(engine: Engine) -> dict[str, Any]:
    folders = ["/opt", "/usr", "/etc", "/var", "/home"]
    found: dict[str, Any] = json.loads(engine.output("-c", PROBE, *folders, entrypoint="python"))
    wanted = {
        "uid": USER, "gid": USER, "home": "/tmp", "capabilities": 0, "no_new_privileges": 1,
        "written": [], "tmp": True, "pip": False,
    }  # fmt: skip
    if found != wanted:
        raise Failed(f"confinement: {found}, not {wanted}")
    return found


def _fetched(engine: Engine, folder: Path, models: Path) -> str:
    """The init container's work: weights over HTTP, refused with a wrong digest, kept with the right one."""
    model = _doubling()
    (folder / "ranker.onnx").write_bytes(model)
    digest = f"sha256:{hashlib.sha256(model).hexdigest()}"
    with _web(folder) as port:
        source = ["fetch", "--source", f"http://127.0.0.1:{port}/ranker.onnx", "--to", "/models", "--digest"]
        mounts = (f"{models}:/models",)
        with contextlib.suppress(Failed):
            engine.output(*source, "sha256:" + "0" * 64, mounts=mounts)
            raise SystemExit("error: fetch took weights of another digest")
        engine.output(*source, digest, mounts=mounts)
    if (models / "ranker.onnx").read_bytes() != model:
        raise Failed("fetch: other bytes than the source's")
    return digest


def _served(engine: Engine, folder: Path, models: Path) -> None:
    name = f"modelway-{uuid.uuid4().hex[:12]}"
    mounts = (f"{models}:/models:ro", f"{folder}:/etc/modelway:ro")
    ports = [f"--{port}-port=0" for port in ("http", "grpc", "metrics")]
    command = engine.arguments(
        "serve",
        "--settings",
        "/etc/modelway/settings.json",
        "--host=127.0.0.1",
        *ports,
        mounts=mounts,
        name=name,
    )
    started = time.monotonic()
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            listening = _announced(process, folder / "log")
            _until_ready(process, listening["http"], folder / "log")
            _say("ready", f"{time.monotonic() - started:.1f} s")
            _answers(listening)
            asked = time.monotonic()
            engine.terminate(name)
            code = process.wait(DRAIN_S + 5)
            if code:
                raise Failed(f"serve: exit code {code} after SIGTERM: {(folder / 'log').read_text()[-2000:]}")
            _say("stopped", f"exit code 0 in {time.monotonic() - asked:.1f} s")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _announced(process: subprocess.Popen[bytes], log: Path) -> dict[str, int]:
    """The ports, from the line of JSON that the server writes."""
    for _ in range(600):
        for line in log.read_text().splitlines():
            if line.startswith('{"listening"'):
                ports: dict[str, int] = json.loads(line)["listening"]
                return ports
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise Failed(f"serve: no ports announced: {log.read_text()[-2000:]}")


def _until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(600):
        if _ask(port, "GET", "/v2/health/ready")[0] == 200:
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise Failed(f"serve: never ready: {log.read_text()[-2000:]}")


def _answers(listening: dict[str, int]) -> None:
    row = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2.0]}
    status, body = _ask(listening["http"], "POST", "/v2/models/ranker/infer", json.dumps({"inputs": [row]}))
    if status != 200 or json.loads(body)["outputs"][0]["data"] != [3.0, -4.0]:
        raise Failed(f"infer: {status} {body!r}")
    status, body = _ask(listening["metrics"], "GET", "/metrics")
    if status != 200 or b'model_ready{model="ranker",version="1"} 1' not in body:
        raise Failed(f"metrics: {status}, or the model is not ready in them")
    _say("answered", "infer and metrics")


def _ask(port: int, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextlib.contextmanager
def _web(folder: Path) -> Iterator[int]:
    """A web server of the folder's files, on a free port of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def _settings(digest: str) -> dict[str, Any]:
    """The example of the schema, with the model of this proof."""
    example = ROOT / "policies/schemas/examples/server-settings-v1.json"
    settings: dict[str, Any] = json.loads(example.read_text())
    served = {**settings["served"][0], "name": "ranker", "version": "1", "format": "onnx", "digest": digest}
    served |= {"source": "file:///models/ranker.onnx", "warm_up": {"rows": [1]}, "instances": 1}
    served |= {name: {tensor: {"datatype": "FP32", "shape": [-1, 2]}}
               for name, tensor in (("inputs", "x"), ("outputs", "y"))}  # fmt: skip
    device = {"providers": ["cpu"], "allow_cpu": True, "threads": 1, "options": {}}
    settings |= {"model": "ranker", "served": [served], "standby": None, "device": device, "drain_s": DRAIN_S}
    return settings | {"auth": {"mode": "none"}, "tls": None}


def _doubling() -> bytes:
    """An ONNX model, ``y = x + x`` over rows of two; written by hand, so that nothing need be installed."""

    def field(number: int, value: int | bytes) -> bytes:
        if isinstance(value, int):
            return bytes([number << 3, value])
        return bytes([number << 3 | 2, len(value)]) + value

    shape = field(1, field(2, b"rows")) + field(1, field(1, 2))
    float_rows = field(2, field(1, field(1, 1) + field(2, shape)))
    node = field(1, b"x") + field(1, b"x") + field(2, b"y") + field(4, b"Add")
    x, y = (field(1, name) + float_rows for name in (b"x", b"y"))
    graph = field(1, node) + field(2, b"doubling") + field(11, x) + field(12, y)
    return field(1, 9) + field(8, field(1, b"") + field(2, 17)) + field(7, graph)


def build_on_debian(tag: str, flavour: str) -> None:
    """``tag`` in the local store of buildah and podman."""
    base = "localhost/modelway-python"
    with tempfile.TemporaryDirectory() as folder:
        archive = f"{folder}/root.tar"
        hook = (
            "python3 -m zipfile -e /usr/share/python-wheels/pip-*.whl /usr/local/lib/python3.11/dist-packages"
            " && rm /usr/lib/python3.11/EXTERNALLY-MANAGED && ln -s /usr/bin/python3 /usr/local/bin/python"
        )
        _call(
            "mmdebstrap", "--quiet", "--variant=minbase",
            "--include=python3,python3-pip-whl,ca-certificates",
            f"--customize-hook=chroot \"$1\" sh -c '{hook}'", "bookworm", archive,
        )  # fmt: skip
        container = _call("buildah", "from", "scratch")
        _call("buildah", "add", "--quiet", container, archive, "/")
        _call("buildah", "config", "--env=PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        _call("buildah", "commit", "--rm", "--quiet", container, base)
    # This machine's certificates and index of packages, for the build only.
    host = [path for path in ("/etc/ssl/certs", "/etc/pip.conf") if os.path.exists(path)]
    _call(
        "buildah", "build", "--isolation=chroot", "--network=host", "--quiet",
            f"--file={ROOT}/runtime/Dockerfile",
        f"--build-arg=PYTHON_IMAGE={base}", f"--build-arg=FLAVOUR={flavour}", f"--tag={tag}",
        *(f"--volume={path}:{path}:ro" for path in host), str(ROOT),
    )  # fmt: skip


def _call(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _say(what: str, detail: object) -> None:
    print(f"{what}: {detail}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
