"""Files at local paths and at the URLs that fsspec knows (s3://, gs://, hf://, memory://), used alike.

A file appears whole or not at all. A local file is written under a temporary name in the same folder and renamed. A
remote file is written on this machine and uploaded in one piece, which object stores show only when it is complete.
Temporary files of runs that were killed are deleted by a later write into the same folder. A path is a `Path`, or a
`UPath` of universal_pathlib, which has the same methods.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from qa_fast import temporary
from qa_fast.errors import UnreachableError, UserError, first_line, shown

if TYPE_CHECKING:
    import pyarrow as pa

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# A web server that sends nothing for so long is given up.
SILENT_SECONDS = 10.0
# Bytes that are read at a time from a file that is copied.
_COPY_BYTES = 1 << 22


def is_url(name: str | os.PathLike[str]) -> bool:
    """Tell whether a name begins with a protocol."""
    return _URL.match(str(name)) is not None


def is_path(value: object) -> bool:
    """Tell whether a value is the name of a file or folder: a text or a path, also one of universal_pathlib."""
    return isinstance(value, str | os.PathLike) or hasattr(value, "joinpath")


def is_local(path: Path) -> bool:
    """Tell whether a path is on this machine."""
    return isinstance(path, Path)


def local_path(name: str) -> Path:
    """Return a name as a path, with `~` expanded if the user exists and has a home folder."""
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user, or no home
        return Path(name)


def is_file(path: Path) -> bool:
    """Tell whether a path is a file; an impossible name, or one in a folder that cannot be read, is not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; see `is_file`."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def special(path: Path) -> str | None:
    """Return what a path is if it is neither a file nor a folder and may have no end, in words: else None."""
    if str(path) == "-":
        return "standard input"
    try:
        mode = path.stat().st_mode if is_local(path) else stat.S_IFREG
    except (OSError, ValueError):
        return None
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}
    return next((words for is_kind, words in kinds.items() if is_kind(mode)), None)


def place(name: str | os.PathLike[str]) -> Path:
    """Return the path that a name means.

    Args:
        name: A path or a URL; `file://` URLs are local paths.

    Returns:
        A `Path` or a `UPath`, which are used alike.

    Raises:
        UserError: fsspec does not know the protocol, or its package is not installed.
    """
    if not isinstance(name, str):
        return cast(Path, name) if hasattr(name, "joinpath") else Path(name)
    if not is_url(name):
        return local_path(name)
    if name.lower().startswith("file://"):
        return local_path(name[len("file://") :])
    try:
        from upath import UPath

        remote = UPath(name, **_limits(name))
        _ = remote.fs  # imports the package of the file system
    except ImportError as error:
        raise UserError(f"a URL needs the package of its protocol; {name}: {first_line(error)}") from None
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"a URL must be one that fsspec knows, such as s3://bucket/name; {name}: {error}") from None
    return cast(Path, remote)


def _limits(name: str) -> dict[str, Any]:
    """Return options of a file system that limit how long it waits; those of object stores have limits of their own."""
    if not name.lower().startswith(("http://", "https://")):
        return {}
    import aiohttp

    limit = aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)
    return {"client_kwargs": {"timeout": limit}}


@contextlib.contextmanager
def reached(path: Path, what: str = "a URL") -> Iterator[None]:
    """Turn every error of a remote file system into a `UserError`; errors on local paths are not changed.

    Args:
        path: The path that is used in the context.
        what: What the path is, for the message.

    Raises:
        UserError: A remote file does not exist.
        UnreachableError: Another error happened on a remote path.
    """
    if is_local(path):
        yield
        return
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # file systems raise errors of their own, such as botocore's and aiohttp's
        reason = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, FileNotFoundError) and not _is_unreachable(error):
            raise UserError(f"{what} must exist; {path} does not exist") from None
        if isinstance(error.__cause__ or error, TimeoutError) and str(path).lower().startswith("http"):
            reason = f"it was silent for {SILENT_SECONDS:g} s"
        elif isinstance(error, FileNotFoundError):
            reason = f"{type(error.__cause__).__name__}: {error.__cause__}"
        raise UnreachableError(f"{what} must be one that can be reached and used; {path}: {reason[:300]}") from None


def _is_unreachable(error: FileNotFoundError) -> bool:
    """Tell whether fsspec calls a file missing because its web server could not be asked."""
    cause = error.__cause__
    return isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp")


def is_there(path: Path) -> bool:
    """Tell whether a remote file or folder exists.

    Raises:
        FileNotFoundError: The server could not be asked; `reached` says so.
    """
    try:
        path.stat()  # `exists` would say no if the server cannot be asked
    except FileNotFoundError as error:
        if _is_unreachable(error):
            raise
        return False
    return True


def refusal(error: BaseException) -> str:
    """Return a short reason why a file could not be read or written, from an `OSError` or safetensors' own error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    wrapped = re.search(r"I/O error: (.+?) \(os error \d+\)", str(error))
    return wrapped[1] if wrapped else first_line(error)


def open_random(path: Path) -> pa.NativeFile:
    """Open a file for random access by Arrow's readers; a local file is not memory-mapped."""
    import pyarrow as pa

    if is_local(path):
        return pa.OSFile(os.fsencode(path))
    return pa.PythonFile(open_bytes(path), "r")


def read_range(path: Path, begin: int, end: int) -> bytes:
    """Return the bytes [begin, end) of a file; fewer if it is shorter."""
    with open_bytes(path) as file:
        file.seek(begin)
        return file.read(end - begin)


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading; it can seek."""
    if getattr(path, "protocol", "") == "memory":
        return io.BytesIO(path.read_bytes())  # every open file there shares one position
    file: Any = path.open("rb")
    # The files of fsspec have no readline with a limit.
    return cast(BinaryIO, file if is_local(path) else io.BufferedReader(file, _COPY_BYTES))


def size_of(path: Path) -> int:
    """Return the size of a file in bytes."""
    return int(path.stat().st_size)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def identity(path: Path) -> str:
    """Return a hash that changes if a file changes.

    Returns:
        For a local file the SHA-256 of its bytes, in hex. For a remote file, which would have to be fetched for that, a
        hash of its name and of what its file system reports: size, and version, ETag or time. An address may hold a
        secret that is not shown, so that only the hash tells it from another.
    """
    if is_local(path):
        return file_sha256(path)
    file_system = cast(Any, path).fs
    info = file_system.info(cast(Any, path).path)
    names = ("size", "ETag", "etag", "VersionId", "md5Hash", "generation", "blob_id", "sha256", "LastModified",
             "created")  # fmt: skip
    reported = {name: str(info[name]) for name in names if info.get(name) is not None} | {"name": path.name}
    return "said-" + hashlib.sha256(json.dumps(reported, sort_keys=True).encode()).hexdigest()[:40]


def check_output(
    path: Path,
    option: str,
    *,
    reads: Iterable[str | Path] = (),
    overwrite: bool = False,
    made: Callable[[Path], bool] | None = None,
) -> None:
    """Refuse a file to write that the run reads, or that is somebody else's. Every file that a user names passes here.

    Args:
        path: The file, or a file that is written beside it.
        option: The option that named it, for the message.
        reads: Files and folders that the run reads, as the user named them. None of them is ever replaced.
        overwrite: Replace a file that exists.
        made: Tells whether an existing file was made by the same kind of run, which may replace it.

    Raises:
        UserError: The file is among those that are read, or it exists and may not be replaced.
    """
    with reached(path, option):
        if not exists(path):
            above = [folder for folder in path.parents if is_local(folder) and exists(folder)][:1]
            if above and not is_folder(above[0]):
                raise UserError(f"{option} must be in a folder; {str(above[0])!r} is a file: choose another")
            if (problem := _problem_of(path)) is not None:
                raise UserError(f"{option} must have a name that can be written; {shown(str(path))}: {problem}")
            return
    kind = special(path)
    if kind is not None:
        raise UserError(f"{option} must be a file, since it is replaced as a whole; {path} is {kind}: choose another")
    if made is not None and is_file(path) and made(path):
        return
    for read in reads:
        if _shares(place(read), path):
            raise UserError(
                f"{option} must not be among the files that the run reads; {str(path)!r} belongs to {str(read)!r}: "
                "choose another"
            )
    if not overwrite:
        raise UserError(f"{option} must not exist; {str(path)!r} does: choose another, or pass --overwrite")


def _problem_of(path: Path) -> str | None:
    """Return why a local path that does not exist cannot be made, as far as the system says so; None if it may."""
    try:
        if is_local(path):
            path.lstat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def exists(path: Path) -> bool:
    """Tell whether a path is taken, be it by a link that leads nowhere; an impossible name is not."""
    try:
        return os.path.lexists(path) if is_local(path) else path.exists()
    except ValueError:
        return False


def _shares(one: Path, other: Path) -> bool:
    """Tell whether two paths are one file, or one of them is in the other; links are followed."""
    if not (is_local(one) and is_local(other)):
        return str(other).startswith(str(one)) and str(other)[len(str(one)) :][:1] in ("", "/")
    try:
        real, other_real = one.resolve(), other.resolve()
        if real in (other_real, *other_real.parents) or other_real in real.parents:
            return True
        files = [one] if one.is_file() else one.rglob("*")
        return other.exists() and any(file.samefile(other) for file in files if file.exists())
    except (OSError, ValueError, RuntimeError):  # an impossible name, or links in a circle
        return False


def move(local: Path, path: Path, replace: bool) -> None:
    """Rename a local file or folder.

    Raises:
        FileExistsError: There is a file at `path`, possibly since a moment ago, and `replace` is off.
    """
    if replace or local.is_dir():  # a folder replaces nothing but an empty one
        local.replace(path)
        return
    try:
        os.link(local, path)  # which fails where a file exists
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        local.replace(path)
    else:
        local.unlink()


@contextlib.contextmanager
def whole_file(path: Path, make_folder: bool = True, replace: bool = True) -> Iterator[Path]:
    """Yield a local path to write a file to. It is moved to `path` at the end, or deleted if an error is raised.

    Neither a link at `path` nor another name of the file there is written through: the name gets a new file.

    Args:
        path: The final path.
        make_folder: Make its folder if it is missing.
        replace: Replace a file at `path`, even one that was made meanwhile.

    Raises:
        OSError: A local file cannot be written.
        UserError: A remote file cannot be written.
    """
    if is_local(path):
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary.sweep(path.parent)
        name = os.fsencode(path.name)[:200].decode("utf-8", "ignore")  # a name may have 255 bytes
        local = path.with_name(f".{name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
        with temporary.unfinished(local):
            local.touch(exist_ok=False)
            yield local
            move(local, path, replace)
        return
    with temporary.scratch() as folder:
        yield folder / "file"
        put_file(folder / "file", path)


def put_file(local: Path, path: Path) -> None:
    """Move a local file to `path`: rename it, or upload it if `path` is remote.

    Raises:
        UserError: `path` is remote and could not be written.
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


def write_whole(path: Path, data: bytes, replace: bool = True) -> None:
    """Write a file whole or not at all; see `whole_file`."""
    with whole_file(path, replace=replace) as local:
        local.write_bytes(data)


def write_json(path: Path, value: Any, replace: bool = True) -> None:
    """Write JSON whole or not at all; see `whole_file`."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    # The name of a file may contain bytes that are not UTF-8, which JSON writes as \udcff, too.
    write_whole(path, text.encode("utf-8", "backslashreplace"), replace)


def read_json(path: Path) -> Any:
    """Return the value of a JSON file; None if there is no such file or it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def remove(path: Path) -> None:
    """Delete a file or a link, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def remove_folder(path: Path) -> None:
    """Delete a folder and everything in it, if it exists; a link is deleted and not followed."""
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
    """Return the sorted names in a folder; none if it does not exist."""
    try:
        return sorted({child.name for child in path.iterdir()} - {""})
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield a local file with the same bytes: the file itself, or a copy that is deleted at the end."""
    if is_local(path):
        yield path
        return
    with temporary.scratch() as folder:
        fetch(path, folder / "file")
        yield folder / "file"


def fetch(path: Path, local: Path) -> None:
    """Copy a remote file to a local path.

    Raises:
        UserError: It does not exist, or the connection broke.
    """
    with reached(path), open_bytes(path) as source, local.open("wb") as target:
        shutil.copyfileobj(source, target, _COPY_BYTES)
