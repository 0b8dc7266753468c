"""The only writing of the output folder (``generated/``): compare, replace, prune, and the index.

The index says which files of the folder are the compiler's. What it does not say is ours is never
overwritten and never removed: it is *foreign*, and nothing is written while it is there. Every step goes
through open folders without following a symbolic link, so that no link leads a write out of the folder.

A compile may be killed between any two steps. So the order is: an index that owns what is there and what
will be there; the files; the removals; the index that owns what is there. Until the last step `compare`
sees a difference, and at every step each file is owned by the index or is what the specs say.
Nothing is flushed to the disk: Git keeps what matters, and after a power cut a second compile repairs.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

INDEX = ".index"
TEMPORARY = ".modelway-tmp-"

_FILE_MODE = 0o644
_FOLDER_MODE = 0o755
# An index of 100,000 files takes 20 MB; what is larger than this was not written here, and is not read.
_LARGEST_INDEX = 64 << 20
# Our own files are four folders deep.
_DEEPEST_FOLDER = 32

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# No segment is empty or begins with a dot: neither `..`, nor the index, nor a temporary file.
_SEGMENT = r"[^/\\.\x00-\x1f\x7f\ud800-\udfff][^/\\\x00-\x1f\x7f\ud800-\udfff]*"
_FILE_PATH = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{2,}}")
_INDEX_LINE = re.compile(rb"^    (\".+\}),?$", re.MULTILINE)
_INDEX_PATH = re.compile(rf"{re.escape(INDEX)}/({_SEGMENT}/{_SEGMENT})\.json")

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class ForeignFiles(Exception):
    """Files that the compiler does not own stand in the output folder; nothing was written."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        super().__init__(f"not the compiler's: {', '.join(paths)}")
        self.paths = paths


class Busy(Exception):
    """Another compile is writing the same output folder; nothing was written."""


@dataclass(frozen=True, slots=True)
class GeneratedFile:
    """A file to be generated: its posix path below the output folder, its bytes, the spec it came from.

    Raises ValueError for a path that is not `<environment>/<team>/…/<file>` in plain segments.
    """

    path: str
    data: bytes
    spec: str

    def __post_init__(self) -> None:
        if not _FILE_PATH.fullmatch(self.path):
            raise ValueError(f"not a path of a generated file: {self.path!r}")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Where the folder differs from what the specs give; sorted paths, index files among them.

    ``stale``: ours, with other bytes. ``missing``: not there. ``extra``: ours, but no spec gives it any
    more (or left behind by a compile that was killed). ``foreign``: not ours; "." is the folder itself.
    """

    stale: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        return not (self.stale or self.missing or self.extra or self.foreign)


@dataclass(frozen=True, slots=True)
class Written:
    """How many files `write` created, changed, removed and left alone, index files among them."""

    created: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0


def index_files(files: Iterable[GeneratedFile]) -> dict[str, bytes]:
    """The index of these files: the path of an index file, one for each environment and team -> its bytes.

    {"files": {"prod/search/ranker/rollout-ranker.yaml": {"digest": "sha256:…", "spec": "Model …"}}}
    """
    return _index({file.path: _Entry(file.spec, _digest(file.data)) for file in files})


def compare(root: Path, files: Sequence[GeneratedFile], *, environments: frozenset[str] | None) -> Comparison:
    """How the folder differs from ``files`` and their index; reads only.

    ``environments`` limits what may be stale, missing or extra; foreign files are found everywhere.
    Raises ValueError if two files claim one place, OSError with the name of what cannot be read.
    """
    wanted = _wanted(files)
    try:
        folder = os.open(root, _OPEN_FOLDER)
    except FileNotFoundError:
        return _judge(_Survey(), wanted, environments)
    except OSError:
        if root.is_symlink():
            return Comparison(foreign=(".",))
        raise
    try:
        return _judge(_survey(folder, root, wanted), wanted, environments)
    finally:
        os.close(folder)


def write(
    root: Path,
    files: Sequence[GeneratedFile],
    *,
    environments: frozenset[str] | None,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Makes the folder what ``files`` and their index say. A file that is right already is not touched.

    ``environments`` limits what is written and removed. ``progress`` is told how many more files are
    done; its calls add up to the counts that are returned.

    Raises ForeignFiles or Busy before anything is touched, ValueError if two files claim one place, and
    OSError with the file's name if the disk is full or refuses; a later call completes the work.
    """
    wanted = _wanted(files)
    with _locked(root) as folder:
        survey = _survey(folder, root, wanted)
        todo = _judge(survey, wanted, environments)
        if todo.foreign:
            raise ForeignFiles(todo.foreign)
        selected = sum(_concerns(path, environments) for path in wanted.files)
        unchanged = selected - len(todo.missing) - len(todo.stale)
        if progress:
            progress(unchanged)
        with closing(_Writer(folder, root)) as writer:
            for finished in _apply(writer, wanted, todo, survey):
                if progress:
                    progress(finished)
            empty = [path for path in survey.empty if _concerns(path, environments)]
            writer.sweep({*empty, *map(_parent, todo.extra)})
        return Written(len(todo.missing), len(todo.stale), len(todo.extra), unchanged)


class _Entry(NamedTuple):
    """What the index says of a file."""

    spec: str
    digest: str


class _Wanted(NamedTuple):
    """Every file that is to be there, the index included, and the folders on the way."""

    files: dict[str, bytes]
    folders: set[str]
    entries: dict[str, _Entry]


def _wanted(files: Sequence[GeneratedFile]) -> _Wanted:
    entries = {file.path: _Entry(file.spec, _digest(file.data)) for file in files}
    if len(entries) < len(files):
        paths = [file.path for file in files]
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"two generated files have the path {twice}")
    data = {file.path: file.data for file in files} | _index(entries)
    folders: set[str] = set()
    for path in data:
        folder = _parent(path)
        while folder and folder not in folders:
            folders.add(folder)
            folder = _parent(folder)
    for path in folders & data.keys():
        raise ValueError(f"the generated file {path} is also a folder")
    return _Wanted(data, folders, entries)


def _index(entries: Mapping[str, _Entry]) -> dict[str, bytes]:
    # A file has one line, so that Git merges and shows the index by files.
    lines: dict[str, list[str]] = {}
    for path in sorted(entries):
        entry = entries[path]
        line = f'    {json.dumps(path)}: {{"digest": "{entry.digest}", "spec": {json.dumps(entry.spec)}}}'
        lines.setdefault(_index_of(path), []).append(line)
    return {
        path: ('{\n  "files": {\n' + ",\n".join(found) + "\n  }\n}\n").encode()
        for path, found in lines.items()
    }


def _read_index(data: bytes, owner: str) -> dict[str, _Entry]:
    """What an index file owns; ``owner`` is its `<environment>/<team>`, and it owns nothing elsewhere.

    Whatever is not as `_index` writes it is not owned. The entries of a file that is not JSON, as after
    a merge conflict, are read line by line.
    """
    try:
        document = json.loads(data)
        found = document.get("files") if isinstance(document, dict) else None
    except (ValueError, RecursionError):
        found = {}
        for line in _INDEX_LINE.findall(data):
            with suppress(ValueError, RecursionError):
                found |= json.loads(b"{" + line + b"}")
    if not isinstance(found, dict):
        return {}
    owned = {}
    for path, entry in found.items():
        if not path.startswith(f"{owner}/") or not _FILE_PATH.fullmatch(path) or not isinstance(entry, dict):
            continue
        spec, digest = entry.get("spec"), entry.get("digest")
        if isinstance(spec, str) and isinstance(digest, str) and _DIGEST.fullmatch(digest):
            owned[path] = _Entry(spec, digest)
    return owned


def _index_of(path: str) -> str:
    environment, team, _ = path.split("/", 2)
    return f"{INDEX}/{environment}/{team}.json"


def _is_index(path: str) -> bool:
    return path.startswith(f"{INDEX}/")


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _concerns(path: str, environments: frozenset[str] | None) -> bool:
    """Does a file or folder belong to one of these environments (None: all)?"""
    return environments is None or path.removeprefix(f"{INDEX}/").partition("/")[0] in environments


@dataclass(slots=True)
class _Survey:
    """What one walk over the folder found; every list but ``foreign`` holds real files or folders.

    ``different``: wanted, with other bytes. ``unknown``: not wanted. ``owned``: what the index files on
    the disk say, but for those that are as wanted already.
    """

    same: set[str] = field(default_factory=set)
    different: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    owned: dict[str, _Entry] = field(default_factory=dict)

    def owns(self, path: str, wanted: _Wanted) -> bool:
        """Is this file the compiler's? An index file is by its name, the others by the index on the disk."""
        if path in wanted.entries and _index_of(path) in self.same:
            return True
        return path in self.owned or _INDEX_PATH.fullmatch(path) is not None


def _survey(folder: int, root: Path, wanted: _Wanted) -> _Survey:
    survey = _Survey()
    try:
        _walk(folder, f"{root}/", "", wanted, survey)
    except OSError as error:
        error.filename = error.filename or str(root)
        raise
    for path in (*survey.different, *survey.unknown):
        if index := _INDEX_PATH.fullmatch(path):
            with suppress(FileNotFoundError), _named(root, path):
                data = _read(folder, path, _LARGEST_INDEX + 1)
                if len(data) <= _LARGEST_INDEX:
                    survey.owned.update(_read_index(data, index[1]))
    return survey


def _walk(
    folder: int, root: str, prefix: str, wanted: _Wanted, survey: _Survey, depth: int = _DEEPEST_FOLDER
) -> None:
    """Looks at everything below an open folder; ``prefix`` is its path with a slash, or empty.

    10,000 files pass here, so a file costs no more than opening, reading and closing it.
    """
    empty = True
    with os.scandir(folder) as entries:
        for entry in entries:
            empty = False
            name = entry.name
            path = prefix + name
            try:
                if entry.is_file(follow_symlinks=False):
                    data = wanted.files.get(path)
                    if data is None:
                        survey.unknown.append(path)
                    elif _read(folder, name, len(data) + 1) == data:
                        survey.same.add(path)
                    else:
                        survey.different.append(path)
                elif not entry.is_dir(follow_symlinks=False) or path in wanted.files or depth == 0:
                    survey.foreign.append(path)
                else:
                    below = os.open(name, _OPEN_FOLDER, dir_fd=folder)
                    try:
                        _walk(below, root, f"{path}/", wanted, survey, depth - 1)
                    finally:
                        os.close(below)
            except FileNotFoundError:
                continue  # removed since the folder was listed
            except OSError as error:
                if error.filename in (name, None):
                    error.filename = root + path
                raise
    if empty and prefix:
        survey.empty.append(prefix[:-1])


def _read(folder: int, name: str, most: int) -> bytes:
    file = os.open(name, _OPEN_FILE, dir_fd=folder)
    try:
        return os.read(file, most)
    finally:
        os.close(file)


def _judge(survey: _Survey, wanted: _Wanted, environments: frozenset[str] | None) -> Comparison:
    extra: list[str] = []
    foreign: list[str] = list(survey.foreign)
    stale = [path for path in survey.different if survey.owns(path, wanted)]
    foreign += set(survey.different).difference(stale)
    for path in survey.unknown:
        ours = survey.owns(path, wanted) or path.rpartition("/")[2].startswith(TEMPORARY)
        (extra if ours and path not in wanted.folders else foreign).append(path)
    missing = wanted.files.keys() - survey.same - set(survey.different) - set(foreign)

    def selected(paths: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(path for path in paths if _concerns(path, environments)))

    # A name that is not UTF-8 must not break whoever prints it.
    shown = (os.fsencode(path).decode("utf-8", "backslashreplace") for path in foreign)
    return Comparison(selected(stale), selected(missing), selected(extra), tuple(sorted(shown)))


def _apply(writer: _Writer, wanted: _Wanted, todo: Comparison, survey: _Survey) -> Iterator[int]:
    """The steps, in the order that a kill between any two of them allows (see the top of this file).

    Yields 1 for each file that is as it should be.
    """
    # The index comes last; what a killed compile left behind may fill the disk, and goes first.
    writes = sorted({*todo.missing, *todo.stale}, key=lambda path: (_is_index(path), path))
    removals = sorted(todo.extra, key=lambda path: (_is_index(path), TEMPORARY not in path, path))
    early = _early_index(writes, removals, wanted, survey)
    for path, data in early.items():
        writer.put(path, data)
    for index in (False, True):
        for path in writes:
            if _is_index(path) is index:
                if early.get(path) != wanted.files[path]:
                    writer.put(path, wanted.files[path])
                yield 1
        for path in removals:
            if _is_index(path) is index:
                writer.remove(path)
                yield 1


def _early_index(
    writes: list[str], removals: list[str], wanted: _Wanted, survey: _Survey
) -> dict[str, bytes]:
    """The index files that must own more before the first file is written: the old and the new."""
    new = {_index_of(path) for path in writes if path in wanted.entries and not survey.owns(path, wanted)}
    union = {path: entry for path, entry in wanted.entries.items() if _index_of(path) in new}
    for path in removals:
        if path in survey.owned and _index_of(path) in new:
            union[path] = survey.owned[path]
    return _index(union)


@contextmanager
def _locked(root: Path) -> Iterator[int]:
    """The folder, made if need be, open and locked against other compiles; not if it is a link."""
    if root.is_symlink():
        raise ForeignFiles((".",))
    root.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
    folder = os.open(root, _OPEN_FOLDER)
    try:
        with _named(root):
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"another compile is writing {root}") from None
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _named(root: Path, path: str = "") -> Iterator[None]:
    """An OSError says which file it is about: without this, its last segment only, or nothing."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(root / path)) from error


class _Writer:
    """Changes files below an open folder, one step through no symbolic link at a time.

    It keeps the folder of the last file open, because files come sorted.
    """

    def __init__(self, folder: int, root: Path) -> None:
        self._top = folder
        self._root = root
        self._path = ""
        self._folder = folder

    def put(self, path: str, data: bytes) -> None:
        """Replaces a file, or makes it, its folders too, in one step: nobody sees half of it."""
        folder = self._enter(_parent(path), make=True)
        temporary = TEMPORARY + os.urandom(8).hex()
        with _named(self._root, path):
            file = os.open(temporary, _CREATE_FILE, _FILE_MODE, dir_fd=folder)
            try:
                try:
                    rest = memoryview(data)
                    while rest:
                        rest = rest[os.write(file, rest) :]
                finally:
                    os.close(file)
                os.replace(temporary, path.rpartition("/")[2], src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
                raise

    def remove(self, path: str) -> None:
        folder = self._enter(_parent(path))
        with _named(self._root, path), suppress(FileNotFoundError):
            os.unlink(path.rpartition("/")[2], dir_fd=folder)

    def sweep(self, folders: Iterable[str]) -> None:
        """Removes those of these folders that are empty, then their parents; never the output folder."""
        for folder in sorted(folders, reverse=True):
            path = folder
            with suppress(OSError):  # not empty, or gone already, or not to be removed: it does no harm
                while path:
                    os.rmdir(path.rpartition("/")[2], dir_fd=self._enter(_parent(path)))
                    path = _parent(path)

    def close(self) -> None:
        if self._folder != self._top:
            os.close(self._folder)
        self._path, self._folder = "", self._top

    def _enter(self, path: str, *, make: bool = False) -> int:
        """The open folder at this path."""
        if path == self._path:
            return self._folder
        self.close()
        walked = ""
        for name in path.split("/") if path else ():
            walked = f"{walked}/{name}" if walked else name
            with _named(self._root, walked):
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(name, _FOLDER_MODE, dir_fd=self._folder)
                below = os.open(name, _OPEN_FOLDER, dir_fd=self._folder)
            self.close()
            self._path, self._folder = walked, below
        return self._folder
