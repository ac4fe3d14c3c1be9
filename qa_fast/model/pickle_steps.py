"""The instructions of a pickle, followed without running any: what torch writes for a dictionary of tensors.

A pickle is a program for a small stack machine, and one that is free to call what it likes. Here only what torch writes
is followed, instruction by instruction, and nothing is ever called: a global is a name looked up in a table of ours, a
tensor a record of where its numbers lie. `pickle.Unpickler` with a narrow `find_class` was the alternative; it leaves a
file able to exhaust memory (one LONG_BINPUT of a large index) or the stack (a deep tuple as a key), and to change what
it is given by BUILD.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

# numpy's code of each storage type; bfloat16, which numpy lacks, is read as the upper half of a float32.
_FLOATS = {"FloatStorage": "f4", "HalfStorage": "f2", "DoubleStorage": "f8", "BFloat16Storage": "u2"}
_INTEGERS = {"LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1"}
_STORAGES = {f"torch.{name}": code for name, code in (_FLOATS | _INTEGERS | {"BoolStorage": "?"}).items()}
_BFLOAT16 = "torch.BFloat16Storage"
_TENSOR, _PARAMETER = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
_DICT = "collections.OrderedDict"
_GLOBALS = {_DICT, _TENSOR, _PARAMETER, *_STORAGES}
# A tensor takes about 35 instructions; this many are read in two seconds.
_MOST_STEPS = 2_000_000
_MOST_AXES = 128

_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_TEXTS = {"BINUNICODE", "SHORT_BINUNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class RefusedError(Exception):
    """The file asks for something that is not followed here; the message says what."""


@dataclass(frozen=True)
class _Global:
    """A name that a pickle asks for, one of `_GLOBALS`."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A row of numbers in the file: its type, its key there, how many."""

    kind: str
    key: str
    count: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its numbers as they lie there; bfloat16, which numpy lacks, as uint16."""
        return np.dtype(_STORAGES[self.kind])

    @property
    def is_float(self) -> bool:
        """Whether they are no whole numbers."""
        return self.kind.removeprefix("torch.") in _FLOATS

    @property
    def is_bfloat16(self) -> bool:
        """Whether they are the upper halves of float32."""
        return self.kind == _BFLOAT16


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, in its elements: the first, and how many and how far apart along each axis."""

    storage: Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def text_of(value: Any) -> str:
    """The value, which must be a text."""
    text: str = _of(str, value)
    return text


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    return value.name if isinstance(value, _Global) else _article(type(value))


def _article(kind: type) -> str:
    name = kind.__name__.lstrip("_").lower()
    return f"an {name}" if name[0] in "aeio" else f"a {name}"


def follow(file: Any) -> Any:
    """What the next pickle of a file describes: tensors, texts, numbers, and tuples, lists and dictionaries of them.

    The instructions are those of protocol 2, in which torch writes, with the names that protocol 4 gives some of them.

    Args:
        file: Read on from where it stands; one whose `read` takes no more memory than the file has bytes.

    Raises:
        RefusedError: It asks for something else.
        ValueError, LookupError: It is damaged.
    """
    stack: list[Any] = []
    outer: list[list[Any]] = []  # the stacks below the marks
    memo: dict[int, Any] = {}
    for step, (instruction, given, _) in enumerate(pickletools.genops(file)):
        if step == _MOST_STEPS:
            raise RefusedError(f"more than {_MOST_STEPS} steps")
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
                argument = f"{text_of(stack.pop(-2))} {text_of(stack.pop())}"
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
            raise RefusedError(f"the instruction {name}")
    (result,) = stack
    return result


def _last(stack: list[Any], count: int) -> list[Any]:
    if len(stack) < count:
        raise ValueError("its stack runs empty")
    return stack[len(stack) - count :]


def _of(kind: type, value: Any) -> Any:
    """The value, which must be of that kind."""
    if type(value) is not kind:
        raise RefusedError(f"{kind_of(value)} in place of {_article(kind)}")
    return value


def _set(into: Any, items: list[Any]) -> None:
    # Keys that are texts alone: to hash a tuple is to go as deep as it does.
    for key, value in zip(items[::2], items[1::2], strict=True):
        _of(dict, into)[text_of(key)] = value


def _named(argument: str) -> _Global:
    name = ".".join(argument.split(" ", 1))
    if name not in _GLOBALS:
        # On one line, and without what a terminal would obey.
        raise RefusedError(name[:120] if name.isprintable() else ascii(name[:120]))
    return _Global(name)


def _made(what: Any, arguments: tuple[Any, ...]) -> Any:
    """What a call would give, of the three that torch writes for a dictionary of tensors."""
    name = _of(_Global, what).name
    if name == _DICT and not arguments:
        return {}
    if name == _PARAMETER:
        tensor, _, _ = arguments
        return _of(Tensor, tensor)
    if name == _TENSOR:
        storage, first, shape, strides, _, _, *marks = arguments
        if any(marks):  # numbers that are negated or conjugated when read
            raise RefusedError("a tensor with marks")
        whole = (first, *_of(tuple, shape), *_of(tuple, strides))
        if any(_of(int, number) < 0 for number in whole) or len(shape) != len(strides):
            raise ValueError("a tensor has a negative size, or fewer strides than sizes")
        if len(shape) > _MOST_AXES:  # the product of a million sizes takes its time
            raise ValueError(f"a tensor has {len(shape)} sizes")
        return Tensor(_of(Storage, storage), first, shape, strides)
    raise RefusedError(f"{name} called with {len(arguments)} arguments")


def _storage(said: Any) -> Storage:
    """The storage that a persistent id names; older files say last whether it is a part of another."""
    word, kind, key, _, count, *part = _of(tuple, said)
    if word != "storage" or any(entry is not None for entry in part) or _of(_Global, kind).name not in _STORAGES:
        raise RefusedError("a storage of another kind")
    if _of(int, count) < 0:
        raise ValueError("a storage has a negative size")
    return Storage(kind.name, text_of(key), count)
