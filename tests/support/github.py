"""A GitHub to test against: the stateful emulator from npm behind a small proxy of ours.

The proxy adds what the emulator lacks (wrong tokens are refused, a second pull request of a branch is,
``/commits/SHA/pulls``, the tar file of a commit, the head of an open pull request that follows its branch) and, where a test asks for it, what goes wrong:

    with emulator(folder) as running, running.repository() as github:
        github.faults.append(Fault(r"POST .*/comments", status=502, times=2))
"""

from __future__ import annotations

import base64
import http.client
import io
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.tools import missing

PACKAGE = "emulate@0.11.2"
ORGANISATION = "shop"
DETECTOR, OTHER = "detector", "mallory"
TOKENS = 200
"""The emulator allows each token 5,000 requests an hour, so each repository has one of its own."""
APP_ID, INSTALLATION_ID, APP_SLUG = 4711, 100, "modelway-detector"
STARTS_IN_S = 30.0
Json = Any
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Fault:
    """What goes wrong with requests whose ``VERB /path`` matches, so many times.

    ``after``: the request is carried out, and then its answer is lost. ``change`` makes another answer of
    the right one. ``delay_s`` alone only makes it slow.
    """

    match: str
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"message": "injected"}'
    after: bool = False
    delay_s: float = 0.0
    change: Callable[[str, Answer], Answer] | None = None
    cut: bool = False


def package() -> Path:
    """The emulator's folder; it is installed once, outside the tree.

    Where it cannot be, the test is skipped with the reason; with ``CI`` set it fails.
    """
    default = Path.home() / ".cache" / "modelway-tests" / PACKAGE.replace("@", "-")
    folder = Path(os.environ.get("MODELWAY_EMULATE", default))
    entry = folder / "node_modules" / "emulate" / "dist" / "index.js"
    if shutil.which("node") is None:
        missing("node is not installed (Debian: apt-get install nodejs)")
    if not entry.is_file():
        _install(folder)
    return entry


def _install(folder: Path) -> None:
    """Into a folder beside it, then renamed: of several processes one wins, all find it whole."""
    if shutil.which("npm") is None:
        missing("npm is not installed (Debian: apt-get install npm)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".emulate-"))
    command = [
        "npm",
        "install",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        "--prefix",
        str(fresh),
        PACKAGE,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=90)
        if done.returncode != 0:
            missing(f"npm cannot install {PACKAGE}: {done.stderr[-300:]}")
        try:
            fresh.rename(folder)
        except OSError:
            assert (folder / "node_modules").is_dir(), f"{folder} is there, but it is not {PACKAGE}"
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@dataclass
class Emulator:
    """A running emulator; repositories in it do not see each other."""

    port: int
    private_key: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def repository(self) -> Iterator[GitHub]:
        """A repository with one commit, behind a proxy of its own."""
        number = next(self._numbers)
        github = GitHub(self.port, f"models-{number}", _token(DETECTOR, number), _token(OTHER, number))
        github.ask("POST", f"/orgs/{ORGANISATION}/repos", {"name": github.short_name, "auto_init": True})
        with _serving(github):
            yield github


@contextmanager
def emulator(folder: Path) -> Iterator[Emulator]:
    """``folder`` is for the seed and the log."""
    entry = package()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    (folder / "seed.yaml").write_text(yaml.safe_dump(_seed(private)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = ["node", str(entry), "start", "--service", "github", "--port", str(port), "--seed", "seed.yaml"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            _await(port, process, folder / "log")
            yield Emulator(port, private)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _seed(private_key: str) -> Json:
    tokens = {_token(login, n): {"login": login} for login in (DETECTOR, OTHER) for n in range(TOKENS)}
    rights = dict.fromkeys(("contents", "issues", "pull_requests", "checks"), "write")
    app = {
        "app_id": APP_ID,
        "slug": APP_SLUG,
        "name": "Modelway's detector",
        "permissions": {**rights, "metadata": "read"},
        "private_key": private_key,
        "installations": [
            {"installation_id": INSTALLATION_ID, "account": ORGANISATION, "repository_selection": "all"}
        ],
    }
    members = [{"login": login, "role": "admin"} for login in (DETECTOR, OTHER)]
    return {
        "tokens": tokens,
        "github": {
            "users": [{"login": login} for login in (DETECTOR, OTHER)],
            "orgs": [{"login": ORGANISATION, "members": members}],
            "apps": [app],
        },
    }


def _token(login: str, number: int) -> str:
    return f"ghp_{login}{number:030d}"


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + STARTS_IN_S
    while time.monotonic() < end:
        assert process.poll() is None, f"the emulator ended: {log.read_text()}"
        try:
            _forward(port, "GET", "/rate_limit", {}, b"")
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the emulator does not answer: {log.read_text()}")


def _forward(port: int, verb: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
    connection = http.client.HTTPConnection("localhost", port, timeout=30)
    try:
        connection.request(verb, path, body or None, dict(headers))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@dataclass
class GitHub:
    """One repository: ``api_url`` and ``token`` are for what is tested, the methods for the tests."""

    emulator_port: int
    short_name: str
    token: str
    other_token: str
    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    archive: bytes | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return f"{ORGANISATION}/{self.short_name}"

    @property
    def api_url(self) -> str:
        """As of GitHub Enterprise Server."""
        return f"http://localhost:{self.port}/api/v3"

    def ask(self, verb: str, path: str, body: Json = None, token: str = "") -> Json:
        """Straight to the emulator; ``path`` begins with a slash, or is below the repository."""
        url = path if path.startswith("/") else f"/repos/{self.name}/{path}"
        headers = {"Authorization": f"Bearer {token or self.token}", "Content-Type": "application/json"}
        status, _, data = _forward(
            self.emulator_port, verb, url, headers, b"" if body is None else json.dumps(body).encode()
        )
        assert status < 300, f"{verb} {url}: {status} {data[:300]!r}"
        return json.loads(data) if data else None

    def head(self, branch: str = "main") -> str:
        return str(self.ask("GET", f"git/ref/heads/{branch}")["object"]["sha"])

    def commit(
        self, files: Mapping[str, str | None], *, on: str = "main", date: str = "2026-11-21T09:00:00Z"
    ) -> str:
        """A commit on a branch, which is made from main if it is new; None removes a file."""
        branches = {each["name"] for each in self.ask("GET", "branches?per_page=100")}
        parent = self.head(on if on in branches else "main")
        base = self.ask("GET", f"git/commits/{parent}")["tree"]["sha"]
        entries = [
            {"path": path, "mode": "100644", "type": "blob", **_blob(text)} for path, text in files.items()
        ]
        tree = self.ask("POST", "git/trees", {"base_tree": base, "tree": entries})["sha"]
        who = {"name": "dev", "email": "dev@shop.example", "date": date}
        body = {
            "message": f"change {min(files)}",
            "tree": tree,
            "parents": [parent],
            "author": who,
            "committer": who,
        }
        sha = str(self.ask("POST", "git/commits", body)["sha"])
        if on in branches:
            self.ask("PATCH", f"git/refs/heads/{on}", {"sha": sha})
        else:
            self.ask("POST", "git/refs", {"ref": f"refs/heads/{on}", "sha": sha})
        return sha

    def pull(self, head: str, title: str = "a change") -> int:
        return int(self.ask("POST", "pulls", {"title": title, "head": head, "base": "main"})["number"])

    def merge(self, number: int, method: str = "squash") -> str:
        return str(self.ask("PUT", f"pulls/{number}/merge", {"merge_method": method})["sha"])

    def comment(self, number: int, body: str, token: str = "") -> int:
        return int(self.ask("POST", f"issues/{number}/comments", {"body": body}, token)["id"])

    def comments(self, number: int) -> list[Json]:
        return self._all(f"issues/{number}/comments?per_page=100")

    def pulls(self) -> list[Json]:
        return self._all("pulls?state=all&per_page=100")

    def labels(self, number: int) -> set[str]:
        return {each["name"] for each in self.ask("GET", f"issues/{number}/labels")}

    def checks(self, sha: str) -> list[Json]:
        return list(self.ask("GET", f"commits/{sha}/check-runs?filter=all")["check_runs"])

    def files(self, ref: str) -> dict[str, str]:
        """Path -> text of a commit or branch."""
        tree = self.ask("GET", f"git/trees/{quote(ref, safe='')}?recursive=1")["tree"]
        return {each["path"]: self._text(each["sha"]) for each in tree if each["type"] == "blob"}

    def _all(self, path: str) -> list[Json]:
        found: list[Json] = []
        for page in itertools.count(1):
            more = self.ask("GET", f"{path}&page={page}")
            found += more
            if len(more) < 100:
                return found
        raise AssertionError

    def _text(self, sha: str) -> str:
        return base64.b64decode(self.ask("GET", f"git/blobs/{sha}")["content"]).decode()

    def tar(self, sha: str) -> bytes:
        """What GitHub gives as the archive of a commit."""
        if self.archive is not None:
            return self.archive
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for path, text in self.files(sha).items():
                member = tarfile.TarInfo(f"{self.short_name}-{sha[:7]}/{path}")
                member.size = len(text.encode())
                tar.addfile(member, io.BytesIO(text.encode()))
        return buffer.getvalue()

    def pulls_of(self, sha: str) -> list[Json]:
        """Pull requests that hold a commit, as GitHub answers; the latest first."""
        return [
            pull for pull in self.pulls() if sha == pull["merge_commit_sha"] or sha in self._brought(pull)
        ]

    def _brought(self, pull: Json) -> set[str]:
        ends = f"{pull['base']['sha']}...{pull['head']['sha']}"
        return {each["sha"] for each in self.ask("GET", f"compare/{ends}")["commits"]}


def _blob(text: str | None) -> Json:
    return {"sha": None} if text is None else {"content": text}


@contextmanager
def _serving(github: GitHub) -> Iterator[None]:
    class Handler(_Proxy):
        state = github

    server = ThreadingHTTPServer(("localhost", 0), Handler)
    server.daemon_threads = True
    github.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class _Proxy(BaseHTTPRequestHandler):
    state: GitHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.removeprefix("/api/v3")
        fault = self._fault(f"{self.command} {path}")
        if fault and fault.delay_s:
            time.sleep(fault.delay_s)
        if fault and fault.status and not fault.after:
            self._send((fault.status, dict(fault.headers), fault.body))
            return
        answer = self._respond(path, body)
        if fault and fault.cut:
            self.close_connection = True
            return
        if fault and fault.status:
            answer = (fault.status, dict(fault.headers), fault.body)
        if fault and fault.change:
            answer = fault.change(path, answer)
        self._send(answer)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _answer  # noqa: N815

    def _fault(self, request: str) -> Fault | None:
        with self.state.lock:
            self.state.requests.append(request)
            fits = (each for each in self.state.faults if each.times > 0 and re.match(each.match, request))
            fault = next(fits, None)
            if fault:
                fault.times -= 1
            return fault

    def _respond(self, path: str, body: bytes) -> Answer:
        if found := re.fullmatch(r"/_archive/([0-9a-f]{40})", path):
            refused = "Authorization" in self.headers
            return (400 if refused else 200, {}, b"" if refused else self.state.tar(found[1]))
        token = re.sub(r"^(Bearer|token) ", "", self.headers.get("Authorization", ""))
        if not re.match(rf"ghp_({DETECTOR}|{OTHER})\d{{30}}$|ghs_|eyJ", token):
            return _json(401, {"message": f"Bad credentials {token}"})
        if found := re.fullmatch(r"/repos/[^/]+/[^/]+/tarball/([0-9a-f]{40})", path):
            return 302, {"location": f"http://localhost:{self.state.port}/_archive/{found[1]}"}, b""
        if found := re.fullmatch(r"/repos/[^/]+/[^/]+/commits/([0-9a-f]+)/pulls", urlsplit(path).path):
            return _json(200, self.state.pulls_of(found[1]))
        headers = {
            name: self.headers[name] for name in ("Authorization", "Content-Type") if name in self.headers
        }
        if path.endswith("/access_tokens"):
            body = b""  # GitHub takes empty permissions for all of the App's, the emulator for none
        if self.command == "POST" and re.fullmatch(r"/repos/[^/]+/[^/]+/pulls", path):
            return self._open(path, headers, body)
        answer = _forward(self.state.emulator_port, self.command, path, headers, body)
        if self.command == "GET" and re.fullmatch(r"/repos/[^/]+/[^/]+/pulls", urlsplit(path).path):
            return self._with_heads(answer)
        return answer

    def _with_heads(self, answer: Answer) -> Answer:
        status, headers, body = answer
        pulls = json.loads(body)
        for pull in pulls if status == 200 else ():
            if pull["state"] == "open":
                pull["head"]["sha"] = self.state.head(pull["head"]["ref"])
        return status, headers, json.dumps(pulls).encode()

    def _open(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """GitHub refuses a second open pull request of one branch."""
        with self.state.lock:
            head = json.loads(body)["head"]
            opened = {pull["head"]["ref"] for pull in self.state.pulls() if pull["state"] == "open"}
            if head in opened:
                message = f"A pull request already exists for {ORGANISATION}:{head}."
                return _json(422, {"message": "Validation Failed", "errors": [{"message": message}]})
            return _forward(self.state.emulator_port, "POST", path, headers, body)

    def _send(self, answer: Answer) -> None:
        status, headers, body = answer
        self.send_response(status)
        for name, value in headers.items():
            if name not in ("content-length", "transfer-encoding", "connection", "date", "keep-alive"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _json(status: int, value: Json) -> Answer:
    return status, {"content-type": "application/json"}, json.dumps(value).encode()
