"""Where bytes lie: local paths, and the URLs that fsspec knows (s3://, gs://, hf://, memory://), alike.

A file appears whole or not at all: locally it is written under a temporary name beside its place and renamed, elsewhere
it is written here and uploaded in one piece, which object stores show only when it is whole. Whatever a run that was
killed left under a temporary name is swept by a later write into the same folder. A place is a `Path`, or
universal_pathlib's `UPath`, which has the same methods.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from qa_fast.errors import UnreachableError, UserError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_TEMPORARY = re.compile(r"\..+\.[0-9]+-[0-9a-f]{8}\.tmp")
# A temporary file of this age belongs to nobody: writing one takes seconds, and its process may be of another machine.
_STALE_SECONDS = 24 * 3600.0
# What is read at a time of a file that is only passed on or counted.
_COPY_BYTES = 1 << 22


def is_url(name: str | os.PathLike[str]) -> bool:
    """Whether a name says by which protocol it is to be had."""
    return _URL.match(str(name)) is not None


def is_local(path: Path) -> bool:
    """Whether a place is a path of this machine."""
    return isinstance(path, Path)


def local_path(name: str) -> Path:
    """A name as a path, `~` resolved where there is a home to resolve it to."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user, or no home
        return Path(name)


def is_file(path: Path) -> bool:
    """Whether a file is there; a name that no file can have, or in a folder that may not be looked into, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether a folder is there; as `is_file`."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def place(name: str | os.PathLike[str]) -> Path:
    """What a name means: a local path, or a place that fsspec reaches.

    Args:
        name: A path, or a URL; `file://` ones are local paths.

    Returns:
        A `Path`, or a `UPath`, which is used alike.

    Raises:
        UserError: A protocol that fsspec does not know, or whose package is not installed.
    """
    if not isinstance(name, str):
        return cast(Path, name) if hasattr(name, "joinpath") else Path(name)
    if not is_url(name):
        return local_path(name)
    if name.lower().startswith("file://"):
        return local_path(name[len("file://") :])
    try:
        from upath import UPath

        found = UPath(name)
        _ = found.fs  # the file system's package is imported here
    except ImportError as error:
        raise UserError(f"a URL needs the package of its protocol; {name}: {_first_line(error)}") from None
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"a URL must be one that fsspec knows, such as s3://bucket/name; {name}: {error}") from None
    return cast(Path, found)


@contextlib.contextmanager
def reached(path: Path, what: str = "a URL") -> Iterator[None]:
    """Turn whatever a remote file system raises within into one line; errors on local paths pass.

    Raises:
        UnreachableError: The place is remote and something went wrong there.
    """
    if is_local(path):
        yield
        return
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{what} must name what is there; {path} is not there") from None
    except Exception as error:  # each file system's own: botocore's, aiohttp's, OSError
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise UnreachableError(f"{what} must be one that can be reached and used; {path}: {reason[:300]}") from None


def refusal(error: BaseException) -> str:
    """Why a disk did not take or give a file, in few words: an `OSError`'s, or safetensors', which wraps one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    told = re.search(r"I/O error: (.+?) \(os error \d+\)", str(error))
    return told[1] if told else _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def open_random(path: Path) -> pa.NativeFile:
    """A file for reading here and there, as Arrow's readers do; a local one is not mapped into memory."""
    if is_local(path):
        return pa.OSFile(os.fsencode(path))
    return pa.PythonFile(open_bytes(path), "r")


def read_range(path: Path, begin: int, end: int) -> bytes:
    """Bytes [begin, end) of a file; fewer where it is shorter."""
    with open_bytes(path) as file:
        file.seek(begin)
        return file.read(end - begin)


def open_bytes(path: Path) -> BinaryIO:
    """A file for reading from its start on, or from where one seeks to."""
    if getattr(path, "protocol", "") == "memory":
        return io.BytesIO(path.read_bytes())  # all who open a file there share one position in it
    file: Any = path.open("rb")
    # fsspec's own files have no readline of at most so many bytes.
    return cast(BinaryIO, file if is_local(path) else io.BufferedReader(file, _COPY_BYTES))


def size_of(path: Path) -> int:
    """Bytes of a file."""
    return int(path.stat().st_size)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(path: Path) -> str:
    """What tells whether a file is as it was.

    Returns:
        The SHA-256 of a local file's bytes, in hex; of a remote one, which would have to be fetched for that, a hash of
        what its file system says of it: size, and version, ETag or time.
    """
    if is_local(path):
        return file_sha256(path)
    file_system = cast(Any, path).fs
    info = file_system.info(cast(Any, path).path)
    known = (
        "size",
        "ETag",
        "etag",
        "VersionId",
        "md5Hash",
        "generation",
        "blob_id",
        "sha256",
        "LastModified",
        "created",
    )
    said = {name: str(info[name]) for name in known if info.get(name) is not None}
    return "said-" + hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:40]


@contextlib.contextmanager
def whole_file(path: Path, make_folder: bool = True) -> Iterator[Path]:
    """A local file to write, which is put at `path` when the block ends well and is taken away when it does not.

    Args:
        path: Its place.
        make_folder: Make the folder that it is to be in, where that is missing.

    Raises:
        OSError: As writing does; of a remote place a UserError.
    """
    if is_local(path):
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        return
    with scratch() as folder:
        yield folder / "file"
        put_file(folder / "file", path)


def put_file(local: Path, path: Path) -> None:
    """Move a local file to its place: a rename where that is possible, else an upload.

    Raises:
        UserError: The place is remote and could not be written.
    """
    if is_local(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        local.replace(path)
        return
    remote = cast(Any, path)
    with reached(path):
        remote.fs.makedirs(remote.fs._parent(remote.path), exist_ok=True)
        remote.fs.put_file(str(local), remote.path)
        remote.fs.invalidate_cache(remote.fs._parent(remote.path))
    local.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # A file's name may hold bytes that are no UTF-8; \udcff is how JSON writes them too.
    write_whole(path, text.encode("utf-8", "backslashreplace"))


def read_json(path: Path) -> Any:
    """A JSON file's value, or None where there is none, or none that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def remove(path: Path) -> None:
    """Take a file away, or a link to anything; it may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def remove_folder(path: Path) -> None:
    """Take away a folder and all in it; a link is taken away itself. It may be gone already."""
    if not is_local(path):
        remote = cast(Any, path)
        with contextlib.suppress(FileNotFoundError):
            remote.fs.rm(remote.path, recursive=True)
        return
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def names_in(path: Path) -> list[str]:
    """Names in a folder, in order; none where it is not there."""
    try:
        return sorted({child.name for child in path.iterdir()} - {""})
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """A file of this machine with the same bytes: itself, or a copy that goes when the block ends."""
    if is_local(path):
        yield path
        return
    with scratch() as folder:
        fetch(path, folder / "file")
        yield folder / "file"


def fetch(path: Path, local: Path) -> None:
    """Copy a remote file to a local path.

    Raises:
        UserError: It is not there, or the line broke.
    """
    with reached(path), open_bytes(path) as source, local.open("wb") as target:
        shutil.copyfileobj(source, target, _COPY_BYTES)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A local folder for what is on its way; those that killed processes left are taken away on the way in."""
    base = Path(tempfile.gettempdir())
    for left in base.glob("qa-fast-[0-9]*-*"):
        owner = left.name.split("-")[2]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"qa-fast-{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # somebody else's, so it is there
    return True


def sweep(folder: Path, seconds: float = _STALE_SECONDS) -> None:
    """Take away temporary files that nobody can be writing any more.

    Args:
        folder: A local one.
        seconds: Age from which on that is so; 0 for whoever holds the folder alone.
    """
    now = time.time()
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    if now - entry.stat(follow_symlinks=False).st_mtime >= seconds:
                        os.unlink(entry.path)
