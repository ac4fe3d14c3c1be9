"""Ways in which a file of a cache can be damaged."""

from __future__ import annotations

from pathlib import Path

DAMAGES = ("empty", "cut", "zeroed in the middle", "one bit turned", "half written")


def damage(path: Path, kind: str) -> None:
    """Damage a file. A process that was killed while it wrote leaves a temporary file and no other."""
    data = bytearray(path.read_bytes())
    third = len(data) // 3
    if kind == "empty":
        data.clear()
    elif kind == "cut":
        del data[-third - 1 :]
    elif kind == "zeroed in the middle":
        data[third : 2 * third] = bytes(third)
    elif kind == "one bit turned":
        data[len(data) // 2] ^= 1
    else:
        path.with_name(f".{path.name}.1-0123abcd.tmp").write_bytes(data[: 2 * third])
        path.unlink()
        return
    path.write_bytes(data)
