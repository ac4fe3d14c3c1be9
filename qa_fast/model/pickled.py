"""torch's `pytorch_model.bin`, read without torch and without running anything that the file says.

What its pickle describes is for `pickle_steps` to say; here are torch's two formats around it, and the numbers, which
are copied from the mapped file when a tensor is asked for, after its bounds were checked against the file.
"""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError
from qa_fast.model.pickle_steps import RefusedError, Storage, Tensor, follow, kind_of, text_of

Floats = npt.NDArray[np.float32]
ByteOrder = Literal["<", ">"]

# Tensors that are tied share their numbers; of published models none has more in its tensors than thrice its file.
_MOST_SHARED = 16
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


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
                self._tensors = {name: tensor for name, tensor in tensors.items() if tensor.storage.is_float}
                _check_total(self._tensors, len(self._map))
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

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, as the pickle says it: its numbers are not read."""
        return self._tensors[name].shape

    def get_tensor(self, name: str) -> Floats:
        """A tensor in float32, a copy of its own.

        Raises:
            UserError: Its bounds are not those of its storage.
        """
        with _told(self._path):
            return self._read(self._tensors[name])

    def _read(self, tensor: Tensor) -> Floats:
        storage, itemsize = tensor.storage, tensor.storage.dtype.itemsize
        size = math.prod(tensor.shape)
        if not size:
            return np.zeros(tensor.shape, np.float32)
        last = _last(tensor)
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
        if storage.is_bfloat16:
            return np.left_shift(view.astype(np.uint32, order="C"), 16).view(np.float32)
        return np.array(view, np.float32, order="C")


def _last(tensor: Tensor) -> int:
    """The last of its storage's numbers that a tensor with any shows."""
    return tensor.first + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))


def _check_total(tensors: dict[str, Tensor], size: int) -> None:
    """Refuse tensors that together are out of all proportion to `size` bytes of file, as a thousand views of one are.

    Those that are larger than their storage do not count here; to read one is refused.
    """
    sizes = [(math.prod(tensor.shape), tensor.storage) for tensor in tensors.values()]
    total = sum(numbers * storage.dtype.itemsize for numbers, storage in sizes if numbers <= storage.count)
    if total > _MOST_SHARED * size:
        raise ValueError(f"its tensors have {total} bytes, the file {size}")


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What a strange or damaged file raises, in the user's words."""
    try:
        yield
    except RefusedError as error:
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
        EOFError,
        RecursionError,
        struct.error,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        raise UserError(
            f"weights must be a whole file of torch's; {str(path)!r} is not ({_line(error)}): download the model again"
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_zip(path: Path, mapped: mmap.mmap) -> tuple[dict[str, Tensor], dict[str, int], ByteOrder]:
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
    tensors = _state_dict(follow(io.BytesIO(mapped[start:end])))
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


def _read_legacy(mapped: mmap.mmap) -> tuple[dict[str, Tensor], dict[str, int], ByteOrder]:
    """The format before: pickles one after the other, then the storages; see `_read_zip`."""
    if follow(mapped) != _MAGIC or follow(mapped) != _PROTOCOL:
        raise ValueError("it begins as none of torch's formats does")
    follow(mapped)  # of the machine that wrote it; storages are little-endian whatever it was
    tensors, keys = _state_dict(follow(mapped)), follow(mapped)
    if not isinstance(keys, list):
        raise ValueError("it has no list of its storages")
    storages, starts = _storages(tensors), {}
    position = mapped.tell()
    for key in map(text_of, keys):
        (count,) = struct.unpack_from("<q", mapped, position)
        storage = storages[key]
        starts[key], position = position + 8, position + 8 + count * storage.dtype.itemsize
        if count != storage.count or position > len(mapped):
            raise ValueError(f"storage {key} has not its {storage.count} numbers")
    if set(starts) != set(storages):
        raise ValueError("storages are missing")
    return tensors, starts, "<"


def _state_dict(found: Any) -> dict[str, Tensor]:
    """What a file holds, if that is tensors by name."""
    if not isinstance(found, dict):
        raise RefusedError(f"{kind_of(found)} in place of a dictionary")
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise RefusedError(f"{kind_of(value)} under {name[:80]!r}")
    return found


def _storages(tensors: dict[str, Tensor]) -> dict[str, Storage]:
    """The storages of tensors by key, of which each is described alike wherever it is named."""
    storages: dict[str, Storage] = {}
    for tensor in tensors.values():
        if storages.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise ValueError(f"storage {tensor.storage.key} is of two types or sizes")
    return storages
