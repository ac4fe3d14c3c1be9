"""torch's `pytorch_model.bin`, read without torch and without running anything that the file says.

A pickle is a program for a small stack machine, and one that is free to call what it likes. Here only what torch writes
for a dictionary of tensors is followed, instruction by instruction, and nothing is ever called: a global is a name
looked up in a table of ours, a tensor a record of where its numbers lie. `pickle.Unpickler` with a narrow `find_class`
was the alternative; it leaves a file able to exhaust memory (one LONG_BINPUT of a large index) or the stack (a deep
tuple as a key), and to change what it is given by BUILD. The price is a few milliseconds a file.

Numbers are copied from the mapped file when a tensor is asked for, after its bounds were checked against the file.
"""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError

Floats = npt.NDArray[np.float32]
ByteOrder = Literal["<", ">"]

# numpy's code of each storage type; bfloat16, which numpy lacks, is read as the upper half of a float32.
_FLOATS = {"FloatStorage": "f4", "HalfStorage": "f2", "DoubleStorage": "f8", "BFloat16Storage": "u2"}
_INTEGERS = {"LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1"}
_STORAGES = {f"torch.{name}": code for name, code in (_FLOATS | _INTEGERS | {"BoolStorage": "?"}).items()}
_BFLOAT16 = "torch.BFloat16Storage"
_TENSOR, _PARAMETER = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
_DICT = "collections.OrderedDict"
_GLOBALS = {_DICT, _TENSOR, _PARAMETER, *_STORAGES}

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# A tensor takes about 35 instructions; this many are read in two seconds.
_MOST_STEPS = 2_000_000

_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_TEXTS = {"BINUNICODE", "SHORT_BINUNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _RefusedError(Exception):
    """The file asks for something that is not followed here; the message says what."""


@dataclass(frozen=True)
class _Global:
    """A name that a pickle asks for, one of `_GLOBALS`."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """A row of numbers in the file: its type, its key there, how many."""

    kind: str
    key: str
    count: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(_STORAGES[self.kind])


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage, in its elements: the first, and how many and how far apart along each axis."""

    storage: _Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class PickledTensors:
    """The float tensors of one file by name, read when asked for; close it, or use it in a `with`.

    Whole numbers (`position_ids`) are no weights and are left out.

    Raises:
        UserError: The file is damaged, or asks for anything but a dictionary of tensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _told(path), open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            with _told(path):
                is_zip = self._map[:4] == b"PK\x03\x04"
                tensors, self._starts, self._order = _read_zip(path, self._map) if is_zip else _read_legacy(self._map)
                self._tensors = {name: tensor for name, tensor in tensors.items() if _is_float(tensor)}
        except BaseException:
            self._map.close()
            raise

    def __enter__(self) -> PickledTensors:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def keys(self) -> list[str]:
        """The names."""
        return list(self._tensors)

    def get_tensor(self, name: str) -> Floats:
        """A tensor in float32, a copy of its own.

        Raises:
            UserError: Its bounds are not those of its storage.
        """
        with _told(self._path):
            return self._read(self._tensors[name])

    def _read(self, tensor: _Tensor) -> Floats:
        storage, itemsize = tensor.storage, tensor.storage.dtype.itemsize
        size = math.prod(tensor.shape)
        if not size:
            return np.zeros(tensor.shape, np.float32)
        last = tensor.first + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
        # A view that is larger than what it looks at repeats numbers, and could ask for any amount of memory. Nothing
        # may lie outside: `as_strided` would read whatever is there.
        if last >= storage.count or size > storage.count:
            raise ValueError(f"a tensor of shape {tensor.shape} lies outside its {storage.count} numbers")
        start = self._starts[storage.key]
        data = self._map[start + tensor.first * itemsize : start + (last + 1) * itemsize]
        strides = tuple(step * itemsize * (n > 1) for n, step in zip(tensor.shape, tensor.strides, strict=True))
        flat = np.frombuffer(data, storage.dtype.newbyteorder(self._order))
        assert flat.size == last + 1 - tensor.first
        view = np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
        if storage.kind == _BFLOAT16:
            return np.left_shift(view.astype(np.uint32, order="C"), 16).view(np.float32)
        return np.array(view, np.float32, order="C")


def _is_float(tensor: _Tensor) -> bool:
    return tensor.storage.kind.removeprefix("torch.") in _FLOATS


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What a strange or damaged file raises, in the user's words."""
    try:
        yield
    except _RefusedError as error:
        raise UserError(
            f"pickled weights must be a plain dictionary of tensors; {str(path)!r} asks for {error}, which is not "
            "followed here, since a pickle can run code (nothing was run): convert it to safetensors where you trust it"
        ) from None
    # Besides what is checked here: an unpacked tuple too short, a stack run empty, numbers that no array can have.
    except (
        OSError,
        ValueError,
        ArithmeticError,
        LookupError,
        struct.error,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        raise UserError(
            f"weights must be a whole file of torch's; {str(path)!r} is not ({_line(error)}): download the model again"
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_zip(path: Path, mapped: mmap.mmap) -> tuple[dict[str, _Tensor], dict[str, int], ByteOrder]:
    """The format since torch 1.6: a zip archive of `data.pkl` and one member a storage.

    Returns:
        The tensors by name, each storage's first byte in the file, the byte order.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
    pickles = [name for name in members if PurePosixPath(name).match("*/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"it has {len(pickles)} members data.pkl in place of one")
    folder = pickles[0].removesuffix("data.pkl")
    start, end = _member(mapped, members[pickles[0]])
    tensors = _state_dict(_follow(io.BytesIO(mapped[start:end])))
    order: ByteOrder = "<"
    if f"{folder}byteorder" in members:
        start, end = _member(mapped, members[f"{folder}byteorder"])
        orders: dict[bytes, ByteOrder] = {b"little": "<", b"big": ">"}
        order = orders[mapped[start:end]]
    starts = {}
    for key, storage in _storages(tensors).items():
        starts[key], end = _member(mapped, members[f"{folder}data/{key}"])
        if storage.count * storage.dtype.itemsize > end - starts[key]:
            raise ValueError(f"storage {key} is shorter than its {storage.count} numbers")
    return tensors, starts, order


def _member(mapped: mmap.mmap, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Where an archive's member lies in the file: its first byte and the one behind its last."""
    header = struct.Struct("<4s22xHH")  # signature, the lengths of name and extra field
    signature, name, extra = header.unpack_from(mapped, member.header_offset)
    start = member.header_offset + header.size + name + extra
    if signature != b"PK\x03\x04" or member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise ValueError(f"{member.filename} is not stored as it is")
    if start + member.file_size > len(mapped):
        raise ValueError(f"{member.filename} reaches beyond the end")
    return start, start + member.file_size


def _read_legacy(mapped: mmap.mmap) -> tuple[dict[str, _Tensor], dict[str, int], ByteOrder]:
    """The format before: pickles one after the other, then the storages; see `_read_zip`."""
    if _follow(mapped) != _MAGIC or _follow(mapped) != _PROTOCOL:
        raise ValueError("it begins as none of torch's formats does")
    _follow(mapped)  # of the machine that wrote it; storages are little-endian whatever it was
    tensors, keys = _state_dict(_follow(mapped)), _follow(mapped)
    if not isinstance(keys, list):
        raise ValueError("it has no list of its storages")
    storages, starts = _storages(tensors), {}
    position = mapped.tell()
    for key in map(_text, keys):
        (count,) = struct.unpack_from("<q", mapped, position)
        storage = storages[key]
        starts[key], position = position + 8, position + 8 + count * storage.dtype.itemsize
        if count != storage.count or position > len(mapped):
            raise ValueError(f"storage {key} has not its {storage.count} numbers")
    if set(starts) != set(storages):
        raise ValueError("storages are missing")
    return tensors, starts, "<"


def _state_dict(found: Any) -> dict[str, _Tensor]:
    """What a file holds, if that is tensors by name."""
    if not isinstance(found, dict):
        raise _RefusedError(f"{_kind(found)} in place of a dictionary")
    for name, value in found.items():
        if not isinstance(value, _Tensor):
            raise _RefusedError(f"{_kind(value)} under {name[:80]!r}")
    return found


def _storages(tensors: dict[str, _Tensor]) -> dict[str, _Storage]:
    """The storages of tensors by key, of which each is described alike wherever it is named."""
    storages: dict[str, _Storage] = {}
    for tensor in tensors.values():
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise ValueError(f"storage {tensor.storage.key} is of two types or sizes")
    return storages


def _text(value: Any) -> str:
    text: str = _of(str, value)
    return text


def _kind(value: Any) -> str:
    return value.name if isinstance(value, _Global) else _article(type(value))


def _article(kind: type) -> str:
    name = kind.__name__.lstrip("_").lower()
    return f"an {name}" if name[0] in "aeio" else f"a {name}"


def _follow(file: Any) -> Any:
    """What the next pickle of a file describes: tensors, texts, numbers, and tuples, lists and dictionaries of them.

    The instructions are those of protocol 2, in which torch writes, with the names that protocol 4 gives some of them.

    Args:
        file: Read on from where it stands; one whose `read` takes no more memory than the file has bytes.

    Raises:
        _RefusedError: It asks for something else.
        ValueError, LookupError: It is damaged.
    """
    stack: list[Any] = []
    outer: list[list[Any]] = []  # the stacks below the marks
    memo: dict[int, Any] = {}
    for step, (instruction, given, _) in enumerate(pickletools.genops(file)):
        if step == _MOST_STEPS:
            raise _RefusedError(f"more than {_MOST_STEPS} steps")
        name, argument = instruction.name, cast(Any, given)
        if name in _NUMBERS or name in _TEXTS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name == "MARK":
            outer.append(stack)
            stack = []
        elif name in _TUPLES:
            length = _TUPLES[name]
            stack[len(stack) - length :] = [tuple(_last(stack, length))]
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, outer.pop()
            if name == "TUPLE":
                stack.append(tuple(items))
            elif name == "APPENDS":
                _of(list, stack[-1]).extend(items)
            else:
                _set(stack[-1], items)
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "APPEND":
            item = stack.pop()
            _of(list, stack[-1]).append(item)
        elif name == "SETITEM":
            items = _last(stack, 2)
            del stack[-2:]
            _set(stack[-1], items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                argument = f"{_text(stack.pop(-2))} {_text(stack.pop())}"
            stack.append(_named(argument))
        elif name == "REDUCE":
            arguments = _of(tuple, stack.pop())
            stack.append(_made(stack.pop(), arguments))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "BUILD":
            # torch hangs the versions of modules (`_metadata`) on the dictionary; nothing is done with them.
            stack.pop()
            _of(dict, stack[-1])
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _RefusedError(f"the instruction {name}")
    (result,) = stack
    return result


def _last(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise ValueError("its stack runs empty")
    return stack[len(stack) - count :]


def _of(kind: type, value: Any) -> Any:
    """The value, which must be of that kind."""
    if type(value) is not kind:
        raise _RefusedError(f"{_kind(value)} in place of {_article(kind)}")
    return value


def _set(into: Any, items: list[Any]) -> None:
    # Keys that are texts alone: to hash a tuple is to go as deep as it does.
    for key, value in zip(items[::2], items[1::2], strict=True):
        _of(dict, into)[_text(key)] = value


def _named(argument: str) -> _Global:
    name = ".".join(argument.split(" ", 1))
    if name not in _GLOBALS:
        # On one line, and without what a terminal would obey.
        raise _RefusedError(name[:120] if name.isprintable() else ascii(name[:120]))
    return _Global(name)


def _made(what: Any, arguments: tuple[Any, ...]) -> Any:
    """What a call would give, of the three that torch writes for a dictionary of tensors."""
    name = _of(_Global, what).name
    if name == _DICT and not arguments:
        return {}
    if name == _PARAMETER:
        tensor, _, _ = arguments
        return _of(_Tensor, tensor)
    if name == _TENSOR:
        storage, first, shape, strides, _, _, *marks = arguments
        if any(marks):  # numbers that are negated or conjugated when read
            raise _RefusedError("a tensor with marks")
        whole = (first, *_of(tuple, shape), *_of(tuple, strides))
        if any(_of(int, number) < 0 for number in whole) or len(shape) != len(strides):
            raise ValueError("a tensor has a negative size, or fewer strides than sizes")
        return _Tensor(_of(_Storage, storage), first, shape, strides)
    raise _RefusedError(f"{name} called with {len(arguments)} arguments")


def _storage(said: Any) -> _Storage:
    """The storage that a persistent id names; older files say last whether it is a part of another."""
    word, kind, key, _, count, *part = _of(tuple, said)
    if word != "storage" or any(entry is not None for entry in part) or _of(_Global, kind).name not in _STORAGES:
        raise _RefusedError("a storage of another kind")
    if _of(int, count) < 0:
        raise ValueError("a storage has a negative size")
    return _Storage(kind.name, _text(key), count)
