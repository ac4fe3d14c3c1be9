"""torch's own files: they are read as torch reads them, and nothing that a file asks for is run."""

from __future__ import annotations

import collections
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.errors import UserError
from qa_fast.model import pickled
from qa_fast.model.pickled import PickledTensors

pytestmark = pytest.mark.slow


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global torch
    torch = pytest.importorskip("torch")


FORMATS = {"zip": True, "legacy": False}
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def saved(path: Path, value: Any, form: str = "zip", **options: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=FORMATS[form], **options)
    return path


def read(path: Path) -> dict[str, np.ndarray]:
    with PickledTensors(path) as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118


def assert_as_torch_reads(path: Path, weights_only: bool = True) -> None:
    theirs = torch.load(path, weights_only=weights_only)
    floats = {name: value for name, value in theirs.items() if value.is_floating_point()}
    found = read(path)
    assert list(found) == list(floats)
    for name, value in floats.items():
        assert found[name].dtype == np.float32
        assert found[name].flags.c_contiguous
        np.testing.assert_array_equal(found[name], value.detach().to(torch.float32).numpy(), err_msg=name)


def many_kinds() -> dict[str, Any]:
    torch.manual_seed(0)
    table, flat = torch.randn(7, 5), torch.randn(60)
    return collections.OrderedDict(
        {
            "tied.a": table,
            "tied.b": table,
            "transposed": table.t(),
            "part": table[2:5, 1:4],
            "every second": flat[3:50:2],
            "permuted": flat.view(3, 4, 5).permute(2, 0, 1),
            "scalar": torch.tensor(1.5),
            "empty": torch.empty(0, 3),
            "one": flat[7:8].view(1, 1).t(),
            "parameter": torch.nn.Parameter(torch.randn(4, 4)),
            "half": torch.randn(3, 3).half(),
            "bfloat16": torch.randn(6, 2).bfloat16().t(),
            "double": torch.randn(3).double(),
            "special": torch.tensor([float("inf"), float("-inf"), float("nan"), -0.0, 1e-42]).bfloat16(),
            "embeddings.position_ids": torch.arange(512).expand((1, -1)),
            "count": torch.tensor(3),
            "flag": torch.tensor([True]),
            "small": torch.ones(2, dtype=torch.int8),
            "bytes": torch.ones(2, dtype=torch.uint8),
        }
    )


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("form", FORMATS)
def test_what_torch_wrote_is_read_as_torch_reads_it(tmp_path: Path, form: str, protocol: int) -> None:
    path = saved(tmp_path / "pytorch_model.bin", many_kinds(), form, pickle_protocol=protocol)
    assert_as_torch_reads(path, weights_only=protocol == 2)  # torch's own careful reader knows no other


@pytest.mark.parametrize("form", FORMATS)
def test_a_module_s_own_dictionary(tmp_path: Path, form: str) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    module[1].weight = module[0].bias  # tied
    assert module.state_dict()._metadata
    assert_as_torch_reads(saved(tmp_path / "a.bin", module.state_dict(), form))
    assert_as_torch_reads(saved(tmp_path / "b.bin", dict(module.named_parameters()), form))
    assert read(saved(tmp_path / "c.bin", {}, form)) == {}


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    order=st.randoms(use_true_random=False),
    steps=st.lists(st.integers(1, 3), min_size=4, max_size=4),
    form=st.sampled_from(sorted(FORMATS)),
)
def test_any_view(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], order: Any, steps: list[int], form: str
) -> None:
    whole = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)
    axes = list(range(len(shape)))
    order.shuffle(axes)
    view = whole.permute(axes)[tuple(slice(None, None, step) for step in steps[: len(shape)])]
    path = saved(tmp_path_factory.mktemp("view") / "a.bin", {"whole": whole, "view": view}, form)
    assert_as_torch_reads(path)


def test_a_file_of_a_big_endian_machine(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.bin", {"a": torch.arange(5.0), "b": torch.arange(5.0).bfloat16()})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    sizes = {"a/data/0": "f4", "a/data/1": "u2"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            data = b"big" if name == "a/byteorder" else data
            archive.writestr(name, np.frombuffer(data, sizes[name]).byteswap().tobytes() if name in sizes else data)
    assert_as_torch_reads(path)
    np.testing.assert_array_equal(read(path)["b"], np.arange(5.0))


# ---- Refused files. Each would leave a marker file behind if it ran. ----


class Runs:
    """An object whose pickle calls `call(*arguments)`."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def zip_of(path: Path, pickled_bytes: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled_bytes)
        for name, data in members.items():
            archive.writestr(f"archive/data/{name.removeprefix('_')}", data)
    return path


def legacy_of(path: Path, pickled_bytes: bytes, keys: Any = (), data: bytes = b"") -> Path:
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {"little_endian": True}))
    path.write_bytes(head + pickled_bytes + pickle.dumps(list(keys), 2) + data)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def global_(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def storage(kind: bytes = global_("torch", "FloatStorage"), key: str = "0", count: int = 4, end: bytes = b"") -> bytes:
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(count) + end + b"tQ"


def tuple_of(*numbers: int) -> bytes:
    return b"(" + b"".join(map(number, numbers)) + b"t"


def tensor(
    of: bytes, first: int = 0, shape: bytes = tuple_of(4), strides: bytes = tuple_of(1), end: bytes = b""
) -> bytes:
    arguments = of + number(first) + shape + strides + b"\x89" + global_("collections", "OrderedDict") + b")R" + end
    return global_("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def dictionary(*values: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(text(str(place)) + value for place, value in enumerate(values)) + b"u."


def attacks(marker: str) -> dict[str, tuple[bytes, str]]:
    """Return pickles that run code or do other harm in `pickle.load`, with a text that the refusal must name."""
    write = f"open({marker!r}, 'w').close()"
    ordered, plain = global_("collections", "OrderedDict"), tensor(storage())
    return {
        "system": (pickle.dumps({"a": Runs(__import__("os").system, f"touch {marker}")}, 2), "posix.system"),
        "eval": (pickle.dumps({"a": Runs(eval, write)}, 2), "__builtin__.eval"),
        "eval, protocol 4": (pickle.dumps({"a": Runs(eval, write)}, 4), "builtins.eval"),
        "exec at the top": (pickle.dumps(Runs(exec, write), 2), "__builtin__.exec"),
        "old instruction INST": (b"(S" + repr(write).encode() + b"\nibuiltins\nexec\n.", "the instruction STRING"),
        "OBJ": (b"(" + global_("builtins", "exec") + text(write) + b"o.", "builtins.exec"),
        "OBJ of what is known": (b"(" + ordered + b"o.", "the instruction OBJ"),
        "NEWOBJ": (ordered + b")\x81.", "the instruction NEWOBJ"),
        "an extension's code": (b"\x82\x01.", "the instruction EXT1"),
        "dots": (b"\x80\x04" + text("torch") + text("_utils._rebuild_tensor_v2.__globals__") + b"\x93.", "__globals__"),
        "dots behind what is known": (global_("torch", "FloatStorage.__class__") + b".", "FloatStorage.__class__"),
        "torch's own": (global_("torch", "load") + b"(" + text(marker) + b"tR.", "torch.load"),
        "torch's hub": (global_("torch.hub", "load_state_dict_from_url") + b".", "torch.hub.load_state_dict_from_url"),
        "getattr": (global_("builtins", "getattr") + b"(" + ordered + text("__class__") + b"tR.", "builtins.getattr"),
        "a name that is none": (global_("builtins", "") + b".", "builtins."),
        "a name that is no text": (b"\x80\x04K\x01K\x02\x93.", "STACK_GLOBAL requires str"),
        "BUILD on a global": (ordered + b"}" + text("__init__") + text("x") + b"sb.", "attributes of collections"),
        "BUILD on a function": (
            global_("torch._utils", "_rebuild_tensor_v2") + b"N}" + text("__code__") + b"Ns\x86b.",
            "attributes of torch._utils._rebuild_tensor_v2",
        ),
        "BUILD on a tensor": (dictionary(plain + b"}" + text("shape") + b"Nsb"), "attributes of a value of"),
        "a storage called": (global_("torch", "FloatStorage") + b"(" + number(2**40) + b"tR.", "calls torch.Float"),
        "a dictionary made of something": (ordered + b"(]tR.", "calls collections.OrderedDict with"),
        "a text called": (text("x") + b")R.", "calls a value of type str"),
        "called with no tuple": (ordered + b"]R.", "calls collections.OrderedDict with"),
        "another persistent id": (b"(" + text("module") + b"NNNNtQ.", "storage of an unknown form"),
        "a persistent id that is a text": (b"Pos\n.", "the instruction PERSID"),
        "a storage's type that is a text": (storage(kind=text("torch.FloatStorage")) + b".", "of an unknown form"),
        "a storage's type that is none": (storage(kind=ordered) + b".", "storage of an unknown form"),
        "a part of a storage": (storage(end=b"(K\x00K\x01K\x02t") + b".", "storage of an unknown form"),
        "a storage in place of a tensor": (dictionary(storage()), "a value of type Storage under '0'"),
        "a parameter of none": (global_("torch._utils", "_rebuild_parameter") + b"(N\x89}tR.", "calls torch._utils"),
        "marks": (dictionary(tensor(storage(), end=b"}" + text("neg") + b"\x88s")), "calls torch._utils"),
        "a shape with texts": (dictionary(tensor(storage(), shape=b"(" + text("4") + b"t")), "not natural numbers"),
        "a shape with truths": (dictionary(tensor(storage(), shape=b"(\x88t")), "not natural numbers"),
        "a nested dictionary": (dictionary(dictionary(plain)[2:-1]), "a value of type Dict under '0'"),
        "a list": (b"](" + plain + b"e.", "a value of type list instead of a dictionary"),
        "a key that is no text": (b"}" + tuple_of(1) + plain + b"s.", "a value of type tuple as a key"),
        "a set": (b"\x80\x04\x8f.", "the instruction EMPTY_SET"),
        "a name that a terminal obeys": (
            b"\x80\x04" + text("a\n\x1b[31m") + text("b") + b"\x93.", r"a \x1b[31m.b",
        ),
        "a large place in the memo": (b"]r\xff\xff\xff\x7f0.", "the instruction POP"),
        "a deep tuple as a key": (b"})" + b"\x85" * 300_000 + b"Ns.", "a value of type tuple as a key"),
        "a tuple of 2^100 as a key": (b"})" + b"q\x00h\x00\x86" * 100 + b"Ns.", "a value of type tuple as a key"),
    }  # fmt: skip


NAMES = sorted(attacks(""))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_run(tmp_path: Path, name: str, form: str) -> None:
    marker = tmp_path / "marker"
    data, named = attacks(str(marker))[name]
    path = zip_of(tmp_path / "a.bin", data) if form == "zip" else legacy_of(tmp_path / "a.bin", data)
    with pytest.raises(
        UserError, match=r"must be an undamaged dictionary of tensors, .* is not \(.*; nothing in it was run\)"
    ) as e:
        PickledTensors(path)
    assert named in str(e.value)
    assert str(e.value).isprintable()
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["system", "eval", "eval, protocol 4", "exec at the top", "old instruction INST", "OBJ"]
)
def test_the_attacks_are_real(tmp_path: Path, name: str) -> None:
    """Python's own reader runs them; otherwise the test above would prove nothing."""
    marker = tmp_path / "marker"
    pickle.loads(attacks(str(marker))[name][0])
    assert marker.exists()


def test_the_legacy_file_s_other_pickles_are_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.bin"
    attack = attacks(str(marker))["system"][0]
    parts = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {}, {}, [])]
    for place in range(len(parts)):
        path.write_bytes(b"".join([*parts[:place], attack, *parts[place + 1 :]]))
        with pytest.raises(UserError, match=r"asks for posix.system"):
            PickledTensors(path)
    assert not marker.exists()
    path.write_bytes(b"".join(parts))
    assert read(path) == {}


def test_a_whole_model_is_refused_by_its_class_s_name(tmp_path: Path) -> None:
    for form in FORMATS:
        path = saved(tmp_path / "a.bin", torch.nn.Linear(2, 2), form)
        with pytest.raises(
            UserError, match=r"(asks for torch\.nn\.modules\.linear\.Linear|has a storage of an unknown form)"
        ):
            PickledTensors(path)
        with pytest.raises(UserError, match=r"holds a value of type Dict under 'model'"):
            PickledTensors(saved(path, {"model": {"a": torch.ones(2)}, "epoch": 3}, form))
        with pytest.raises(UserError, match=r"holds a value of type int under 'epoch'"):
            PickledTensors(saved(path, {"a": torch.ones(2), "epoch": 3}, form))
        with pytest.raises(UserError, match=r"asks for torch.ComplexFloatStorage"):
            PickledTensors(saved(path, {"a": torch.ones(2, dtype=torch.complex64)}, form))


def test_a_pickle_has_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "_MOST_BYTES", 20)
    with pytest.raises(UserError, match=r"a pickle has more than 20 bytes"):
        PickledTensors(saved(tmp_path / "a.bin", many_kinds()))


# ---- Damaged files. ----

HUGE = 2**60
DAMAGED = {
    "a huge storage": (dictionary(tensor(storage(count=HUGE), shape=tuple_of(HUGE))), "shorter|does not have"),
    "a storage of a negative size": (dictionary(tensor(storage(count=-1))), "a storage of an unknown form"),
    "a negative shape": (dictionary(tensor(storage(), shape=tuple_of(-4))), "not natural numbers"),
    "a negative start": (dictionary(tensor(storage(), first=-1)), "not natural numbers"),
    "negative strides": (dictionary(tensor(storage(), strides=tuple_of(-1))), "not natural numbers"),
    "too few strides": (dictionary(tensor(storage(), strides=b")")), "1 sizes and 0 strides"),
    "too few arguments": (
        global_("torch._utils", "_rebuild_tensor_v2") + b")R.",
        "arguments that torch does not write",
    ),
    "one storage of two sizes": (dictionary(tensor(storage()), tensor(storage(count=3))), "has two types or sizes"),
    "one storage of two types": (
        dictionary(tensor(storage()), tensor(storage(kind=global_("torch", "LongStorage")))),
        "has two types or sizes",
    ),
    "an odd list of pairs": (b"}(" + text("a") + b"u.", "index out of range"),
    "a reference to nothing": (b"h\x07.", "7"),
    "marks that were not set": (b"t.", "pop from empty list"),
    "a tuple of nothing": (b"\x87.", "index out of range"),
    "two results": (b"NN.", "more than one value"),
    "no end": (b"\x80\x02}", "EOFError|more than one value"),
    "no instruction": (b"\xff.", "the instruction 255"),
    "a text without an end": (b"X\xff\xff\xff\xff" + b"a.", "EOFError|can't decode"),
    "a text of 2^62 bytes": (b"\x8d" + b"\xff" * 7 + b"\x3fa.", "the instruction BINUNICODE8"),
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pickles(tmp_path: Path, name: str, form: str) -> None:
    data, said = DAMAGED[name]
    numbers = np.arange(4, dtype=np.float32).tobytes()
    path = tmp_path / "a.bin"
    path = (
        zip_of(path, data, _0=numbers) if form == "zip" else legacy_of(path, data, "0", struct.pack("<q", 4) + numbers)
    )
    with pytest.raises(
        UserError,
        match=rf"must be an undamaged dictionary of tensors, as torch writes it; .*({said}).*download it again",
    ):
        PickledTensors(path)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("first", "shape", "strides"),
    [(1, [4], [1]), (0, [5], [1]), (0, [2, 2], [3, 1]), (0, [HUGE], [0]), (0, [3, 3], [1, 0]), (0, [2], [HUGE])],
)
def test_views_outside_their_storage(
    tmp_path: Path, first: int, shape: list[int], strides: list[int], form: str
) -> None:
    numbers = np.arange(4, dtype=np.float32).tobytes()
    data = dictionary(tensor(storage(), first, tuple_of(*shape), tuple_of(*strides)), tensor(storage()))
    path = tmp_path / "a.bin"
    path = (
        zip_of(path, data, _0=numbers) if form == "zip" else legacy_of(path, data, "0", struct.pack("<q", 4) + numbers)
    )
    with PickledTensors(path) as tensors:
        with pytest.raises(
            UserError,
            match=r"must be an undamaged dictionary of tensors, as torch writes it; .*reaches beyond its 4 numbers",
        ):
            tensors.get_tensor("0")
        np.testing.assert_array_equal(tensors.get_tensor("1"), np.arange(4))


def test_shapes_that_no_array_can_have(tmp_path: Path) -> None:
    shapes = [(0, 2**70), (1,) * 80, (1, 0, HUGE, HUGE)]
    data = dictionary(*(tensor(storage(), 0, tuple_of(*shape), tuple_of(*shape)) for shape in shapes))
    with PickledTensors(zip_of(tmp_path / "a.bin", data, _0=bytes(16))) as tensors:
        for name in tensors.keys():  # noqa: SIM118
            with pytest.raises(UserError, match=r"must be an undamaged dictionary of tensors, as torch writes it"):
                tensors.get_tensor(name)
    one = dictionary(tensor(storage(), 3, tuple_of(1, 1), tuple_of(2**70, 2**62)))
    assert read(zip_of(tmp_path / "b.bin", one, _0=bytes(16)))["0"].shape == (1, 1)


def test_a_large_memo_index_takes_no_memory(tmp_path: Path) -> None:
    data = dictionary(tensor(storage()))[:-1] + b"r\xff\xff\xff\x7f."
    assert read(zip_of(tmp_path / "a.bin", data, _0=bytes(16)))["0"].shape == (4,)


def deep_tuple() -> list[Any]:
    value: tuple[Any, ...] = ()
    for _ in range(400):
        value = (value,)
    return [value]


def test_damaged_legacy_files(tmp_path: Path) -> None:
    path, plain = tmp_path / "a.bin", dictionary(tensor(storage()))
    numbers = struct.pack("<q", 4) + bytes(16)
    legacy_of(path, plain, "0", numbers)
    assert read(path)["0"].shape == (4,)
    for keys, data, said in (
        ("0", numbers[:-1], "does not have its 4 numbers"),
        ("0", struct.pack("<q", 3) + bytes(12), "does not have its 4 numbers"),
        ("0", struct.pack("<q", -(2**62)) + bytes(12), "does not have its 4 numbers"),
        ("0", b"\x04", "requires a buffer"),
        ("", b"", "no list of its storages"),
        ("1", numbers, "no list of its storages"),
        (deep_tuple(), numbers, "no list of its storages"),
    ):
        with pytest.raises(
            UserError, match=f"must be an undamaged dictionary of tensors, as torch writes it; .*{said}"
        ):
            PickledTensors(legacy_of(path, plain, keys, data))
    with pytest.raises(UserError, match=r"it has no list of its storages"):
        PickledTensors(legacy_of(path, plain, [0], numbers))
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {}, {}, "no list"))
    for data, said in (
        (b"", "empty file"),
        (b"not one at all", "instruction"),
        (pickle.dumps({"a": 1}), "begins like none of torch's formats"),
        (pickle.dumps(MAGIC, 2) + pickle.dumps(1000, 2), "begins like none of torch's formats"),
        (head, "has no list of its storages"),
        (pickle.dumps(MAGIC, 2), "EOFError"),
    ):
        path.write_bytes(data)
        with pytest.raises(
            UserError, match=f"must be an undamaged dictionary of tensors, as torch writes it; .*({said})"
        ):
            PickledTensors(path)
    with pytest.raises(
        UserError, match=r"must be an undamaged dictionary of tensors, as torch writes it; .*No such file"
    ):
        PickledTensors(tmp_path / "none.bin")


def test_damaged_zip_files(tmp_path: Path) -> None:
    path, plain = tmp_path / "a.bin", dictionary(tensor(storage()))
    for members, method, said in (
        ({"a/version": b"3"}, zipfile.ZIP_STORED, "has 0 members data.pkl"),
        ({"a/data.pkl": plain, "b/data.pkl": plain}, zipfile.ZIP_STORED, "has 2 members data.pkl"),
        ({"a/data.pkl": plain}, zipfile.ZIP_STORED, "a/data/0"),
        ({"a/data.pkl": plain, "a/data/0": bytes(15)}, zipfile.ZIP_STORED, "storage 0 is shorter than its 4 numbers"),
        ({"a/data.pkl": plain, "a/data/0": bytes(16)}, zipfile.ZIP_DEFLATED, "a/data.pkl is compressed or encrypted"),
        ({"a/data.pkl": plain, "a/data/0": bytes(16), "a/byteorder": b"odd"}, zipfile.ZIP_STORED, "odd"),
    ):
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        with pytest.raises(
            UserError, match=f"must be an undamaged dictionary of tensors, as torch writes it; .*{said}"
        ):
            PickledTensors(path)
    # The directory at the end says more than there is.
    whole = bytearray(zip_of(path, plain, _0=bytes(16)).read_bytes())
    entry = whole.rindex(b"PK\x01\x02")
    struct.pack_into("<II", whole, entry + 20, 1000, 1000)
    path.write_bytes(whole)
    with pytest.raises(UserError, match="archive/data/0 reaches beyond the end"):
        PickledTensors(path)
    path.write_bytes(saved(path, many_kinds()).read_bytes()[:-30])
    with pytest.raises(
        UserError, match=r"must be an undamaged dictionary of tensors, as torch writes it; .*not a zip file"
    ):
        PickledTensors(path)


@pytest.mark.parametrize("form", FORMATS)
def test_no_damage_is_a_traceback(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "a.bin", {"a": torch.randn(3, 4).t(), "b": torch.ones(2)}, form)
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        data = bytearray(whole[: generator.integers(len(whole))] if generator.random() < 0.1 else whole)
        for place in generator.integers(0, max(len(data), 1), generator.integers(1, 4)):
            data[place:place] = b"" if generator.random() < 0.9 else bytes([generator.integers(256)])
            if place < len(data):
                data[place] = generator.integers(256)
        path.write_bytes(data)
        try:
            read(path)
        except UserError:
            refused += 1
    assert refused > 200
