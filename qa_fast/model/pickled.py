"""Read torch's `pytorch_model.bin` without torch, and without running anything that the file asks for.

A pickle is a program for a small stack machine, which may call any function. `_Reader` follows only the instructions
that torch writes for a dictionary of tensors, and calls nothing: a tensor becomes a record of where its numbers are in
the file. They are copied on demand, after their bounds were checked.

`_Reader` extends pickle's implementation in Python. The one in C takes any amount of memory for one large memo index,
and overflows its stack when it hashes a deeply nested key.
"""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError

Floats = npt.NDArray[np.float32]
ByteOrder = Literal["<", ">"]

_DICT, _TENSOR, _PARAMETER = (
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
)
# numpy's codes of the storage types. numpy lacks bfloat16, which is read as the upper half of a float32.
_BFLOAT16 = "u2"
_FLOATS = {"Float": "f4", "Half": "f2", "Double": "f8", "BFloat16": _BFLOAT16}
_OTHERS = {"Long": "i8", "Int": "i4", "Short": "i2", "Char": "i1", "Byte": "u1", "Bool": "b1"}
_STORAGES = {f"torch.{name}Storage": code for name, code in (_FLOATS | _OTHERS).items()}
# torch writes protocol 2; protocol 4 gives some of the instructions other forms.
_INSTRUCTIONS = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT),
    *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.EMPTY_TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.TUPLE, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID),
)
# A tensor takes about 200 bytes of pickle. A pickle of this size is read in about two seconds.
_MOST_BYTES = 4 << 20
_MOST_AXES = 128
# Tied tensors share their numbers; of the published models that were seen, none has more than three times its file.
_MOST_SHARED = 16
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Raised by what reads a damaged file, beside the ValueErrors of this module.
_DAMAGE = (
    *(OSError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, EOFError, RecursionError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, NotImplementedError),
)


class _Name(NamedTuple):
    """A name that a pickle asks for, such as "torch.FloatStorage"."""

    name: str


class _Storage(NamedTuple):
    """A row of numbers in the file: numpy's code of their type, the key of the row, and how many numbers it has."""

    code: str
    key: str
    size: int

    @property
    def itemsize(self) -> int:
        return np.dtype(self.code).itemsize


class _Tensor(NamedTuple):
    """A view of a storage, counted in its elements: the first one, and the size and stride of each axis."""

    storage: _Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Dict(dict[str, Any]):
    """A dictionary whose keys are texts: to hash a tuple may take time or stack without bounds."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) is not str:
            raise ValueError(f"it has {_described(key)} as a key")
        super().__setitem__(key, value)


class _Handlers(dict[int, Callable[[Any], None]]):
    """The method that follows each instruction, by the instruction's byte."""

    def __missing__(self, byte: int) -> Callable[[Any], None]:
        names = {ord(instruction.code): instruction.name for instruction in pickletools.opcodes}
        raise ValueError(f"it has the instruction {names.get(byte, byte)}")


class _Reader(pickle._Unpickler):
    """Follows the instructions of a pickle; what torch does not write for tensors by name is a ValueError."""

    stack: list[Any]
    dispatch = _Handlers({code[0]: pickle._Unpickler.dispatch[code[0]] for code in _INSTRUCTIONS})

    def find_class(self, module: str, name: str) -> _Name:
        full = f"{module}.{name}"
        if full not in (_DICT, _TENSOR, _PARAMETER, *_STORAGES):
            raise ValueError(f"it asks for {full}")
        return _Name(full)

    def persistent_load(self, identity: Any) -> _Storage:
        match identity:
            # Older files end with None, or with the position of the storage within another one.
            case "storage", _Name(kind), str(key), _, int(size), *part if kind in _STORAGES and not any(part):
                if size >= 0:
                    return _Storage(_STORAGES[kind], key, size)
        raise ValueError("it has a storage of an unknown form")

    def load_empty_dictionary(self) -> None:
        self.stack.append(_Dict())

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        match self.stack.pop(), arguments:
            case _Name(name), tuple(rest) if name == _DICT and not rest:
                self.stack.append(_Dict())
            case _Name(name), (_Tensor() as tensor, _, _) if name == _PARAMETER:
                self.stack.append(tensor)
            # Marks say that numbers are negated or conjugated when they are read.
            case _Name(name), (_Storage() as storage, first, tuple(shape), tuple(strides), _, _, *marks) if (
                name == _TENSOR and not any(marks)
            ):
                if not all(type(number) is int and number >= 0 for number in (first, *shape, *strides)):
                    raise ValueError("it has a tensor whose sizes are not natural numbers")
                if len(shape) != len(strides) or len(shape) > _MOST_AXES:
                    raise ValueError(f"it has a tensor of {len(shape)} sizes and {len(strides)} strides")
                self.stack.append(_Tensor(storage, first, shape, strides))
            case function, _:
                raise ValueError(f"it calls {_described(function)} with arguments that torch does not write")

    def load_build(self) -> None:
        self.stack.pop()  # the versions of a model's modules
        if type(self.stack[-1]) is not _Dict:
            raise ValueError(f"it sets attributes of {_described(self.stack[-1])}")

    dispatch |= {pickle.EMPTY_DICT[0]: load_empty_dictionary, pickle.REDUCE[0]: load_reduce}
    dispatch[pickle.BUILD[0]] = load_build


def _described(value: Any) -> str:
    return value.name if isinstance(value, _Name) else f"a value of type {type(value).__name__.lstrip('_')}"


def _unpickled(mapped: mmap.mmap, start: int, end: int) -> tuple[Any, int]:
    """Read the pickle at a place in the file, which reaches to `end` at most.

    Returns:
        The value, made of texts, numbers, tensors, tuples, lists and dictionaries; and the first byte after the pickle.
    """
    data = io.BytesIO(mapped[start : min(end, start + _MOST_BYTES)])
    reader = _Reader(data)
    try:
        value = reader.load()
    except _DAMAGE:
        if data.tell() == _MOST_BYTES:
            raise ValueError(f"a pickle has more than {_MOST_BYTES} bytes") from None
        raise
    if reader.stack:
        raise ValueError("a pickle has more than one value")
    return value, start + data.tell()


class PickledTensors:
    """The float tensors of one file by name, read on demand; close it, or use it in a `with`.

    Tensors of integers (`position_ids`) are not weights and are left out.

    Raises:
        UserError: The file is damaged, or asks for anything but a dictionary of tensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _reported(path), contextlib.ExitStack() as stack:
            with open(path, "rb") as file:
                self._map = stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            is_zip = self._map[:4] == b"PK\x03\x04"
            tensors, self._starts, self._order = _read_zip(path, self._map) if is_zip else _read_legacy(self._map)
            self._tensors = {name: item for name, item in tensors.items() if item.storage.code in _FLOATS.values()}
            self._check_total()
            stack.pop_all()

    def _check_total(self) -> None:
        """Refuse tensors that are together out of proportion to the file, such as a thousand views of one storage.

        Tensors that are larger than their storage do not count: they are refused when they are read.
        """
        total = 0
        for storage, _, shape, _ in self._tensors.values():
            size = math.prod(shape)
            total += size * storage.itemsize if size <= storage.size else 0
        if total > _MOST_SHARED * len(self._map):
            raise ValueError(f"its tensors have {total} bytes, the file {len(self._map)}")

    def __enter__(self) -> PickledTensors:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def keys(self) -> list[str]:
        """Return the names."""
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading its numbers."""
        return self._tensors[name].shape

    def get_tensor(self, name: str) -> Floats:
        """Return a copy of a tensor in float32.

        Raises:
            UserError: The tensor reaches beyond its storage.
        """
        with _reported(self._path):
            return self._read(*self._tensors[name])

    def _read(self, storage: _Storage, first: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Floats:
        size, itemsize = math.prod(shape), storage.itemsize
        if not size:
            return np.zeros(shape, np.float32)
        last = first + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        # `as_strided` checks no bounds, and a view that is larger than its storage takes any amount of memory.
        if last >= storage.size or size > storage.size:
            raise ValueError(f"a tensor of shape {shape} reaches beyond its {storage.size} numbers")
        start = self._starts[storage.key]
        data = self._map[start + first * itemsize : start + (last + 1) * itemsize]
        numbers = np.frombuffer(data, np.dtype(storage.code).newbyteorder(self._order))
        assert numbers.size == last + 1 - first
        steps = tuple(stride * itemsize * (length > 1) for length, stride in zip(shape, strides, strict=True))
        view = np.lib.stride_tricks.as_strided(numbers, shape, steps, writeable=False)
        if storage.code == _BFLOAT16:
            return np.left_shift(view.astype(np.uint32, order="C"), 16).view(np.float32)
        return np.array(view, np.float32, order="C")


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Raise what a strange or damaged file causes as a `UserError` that names the file."""
    try:
        yield
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if not reason.isprintable():  # a terminal must not obey a name in the file
            reason = ascii(reason)
        raise UserError(
            f"{path.name} must be an undamaged dictionary of tensors, as torch writes it; {str(path)!r} is not "
            f"({reason}; nothing in it was run): download it again, or convert it to safetensors where you trust it"
        ) from None


def _read_zip(path: Path, mapped: mmap.mmap) -> tuple[dict[str, _Tensor], dict[str, int], ByteOrder]:
    """Read the format since torch 1.6: a zip archive of `data.pkl` and one member for each storage.

    Returns:
        The tensors by name, each storage's first byte in the file, and numpy's code of the byte order.
    """
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
    pickles = [name for name in members if PurePosixPath(name).match("*/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"it has {len(pickles)} members data.pkl instead of one")
    folder = pickles[0].removesuffix("data.pkl")
    value, _ = _unpickled(mapped, *_bounds(mapped, members[pickles[0]]))
    tensors = _state_dict(value)
    order: ByteOrder = "<"
    if f"{folder}byteorder" in members:
        start, end = _bounds(mapped, members[f"{folder}byteorder"])
        orders: dict[bytes, ByteOrder] = {b"little": "<", b"big": ">"}
        order = orders[mapped[start:end]]
    starts = {}
    for key, storage in _storages(tensors).items():
        starts[key], end = _bounds(mapped, members[f"{folder}data/{key}"])
        if storage.size * storage.itemsize > end - starts[key]:
            raise ValueError(f"storage {key} is shorter than its {storage.size} numbers")
    return tensors, starts, order


def _bounds(mapped: mmap.mmap, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Return the first byte of an archive's member in the file, and the byte after its last."""
    header = struct.Struct("<4s22xHH")  # signature, the lengths of name and extra field
    signature, name_length, extra_length = header.unpack_from(mapped, member.header_offset)
    start = member.header_offset + header.size + name_length + extra_length
    if signature != b"PK\x03\x04" or member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise ValueError(f"{member.filename} is compressed or encrypted")
    if start + member.file_size > len(mapped):
        raise ValueError(f"{member.filename} reaches beyond the end")
    return start, start + member.file_size


def _read_legacy(mapped: mmap.mmap) -> tuple[dict[str, _Tensor], dict[str, int], ByteOrder]:
    """Read the format before torch 1.6: five pickles, then the storages; see `_read_zip`."""
    values: list[Any] = []
    position = 0
    while len(values) < 5:
        value, position = _unpickled(mapped, position, len(mapped))
        values.append(value)
        if values[:2] != [_MAGIC, _PROTOCOL][: len(values)]:
            raise ValueError("it begins like none of torch's formats")
    # The third describes the machine that wrote the file; storages are little-endian whatever it was.
    tensors, keys = _state_dict(values[3]), values[4]
    storages, starts = _storages(tensors), {}
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
        raise ValueError("it has no list of its storages")
    for key in keys:
        (count,) = struct.unpack_from("<q", mapped, position)
        starts[key] = position + 8
        position += 8 + count * storages[key].itemsize
        if count != storages[key].size or position > len(mapped):
            raise ValueError(f"storage {key} does not have its {storages[key].size} numbers")
    return tensors, starts, "<"


def _state_dict(value: Any) -> dict[str, _Tensor]:
    """Return what a file holds, which must be tensors by name."""
    if type(value) is not _Dict:
        raise ValueError(f"it holds {_described(value)} instead of a dictionary")
    for name, tensor in value.items():
        if type(tensor) is not _Tensor:
            raise ValueError(f"it holds {_described(tensor)} under {name[:80]!r}")
    return value


def _storages(tensors: dict[str, _Tensor]) -> dict[str, _Storage]:
    """Return the tensors' storages by key; all tensors must describe a storage alike."""
    storages: dict[str, _Storage] = {}
    for tensor in tensors.values():
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise ValueError(f"storage {tensor.storage.key} has two types or sizes")
    return storages
