"""Kill a small run of training at random moments, resume it, and see that its weights are an unbroken run's.

    python tools/kill_training.py --kills 20

Each run resumes where the last one was killed, until one gets to its end; then its weights are compared, bit by bit,
with an unbroken run's, and the next begins anew. The recipe has dropout, accumulation, an average of the weights and a
validation within epochs, so that all that a checkpoint must hold is in it. Prints one table; ends with 1 if anything
differs, or if a folder that a killed run left has a model that does not open.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from safetensors import SafetensorError, safe_open  # noqa: E402

from tests.small_runs import make_model_folder, make_shards  # noqa: E402

RUN = """
import sys
from qa_fast.train import TrainConfig, train
train(sys.argv[1], TrainConfig(
    out=sys.argv[2], epochs=int(sys.argv[3]), batch_size=4, accumulate=2, learning_rate=1e-3, precision="float32",
    jit="off", checkpoint_every=4, average="ema", validate_every=10, resume=True,
))
"""


def weights(folder: Path) -> dict[str, bytes]:
    """Each tensor's bytes of a model folder.

    Raises:
        SafetensorError: The file is not whole.
    """
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def start(shards: Path, out: Path, epochs: int) -> subprocess.Popen[bytes]:
    """A run that resumes what is there."""
    command = [sys.executable, "-c", RUN, str(shards), str(out), str(epochs)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, counted = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = make_model_folder(work / "model")
        shards = make_shards(work / "shards", model)
        began = time.monotonic()
        run = start(shards, work / "whole", options.epochs)
        _, told = run.communicate()
        if run.returncode:
            sys.exit(f"the unbroken run failed: {told.decode()[-2000:]}")
        whole, seconds = weights(work / "whole"), time.monotonic() - began
        out = work / "out"
        while counted["kills"] < options.kills:
            run = start(shards, out, options.epochs)
            ends = time.monotonic() + chance.uniform(0.3, 1.0) * seconds
            while run.poll() is None and time.monotonic() < ends:
                time.sleep(0.005)
            if run.poll() is None:
                os.kill(run.pid, signal.SIGKILL)
                counted["kills"] += 1
                counted["checkpoints that a killed run left"] += len(list(out.glob("training/checkpoints/step-*")))
                if (out / "model.safetensors").exists():
                    counted["models that a killed run left"] += 1
                    try:
                        weights(out)
                    except SafetensorError:
                        counted["wrong"] += 1
            _, told = run.communicate()
            if run.returncode == 0:
                counted["whole runs"] += 1
                counted["wrong"] += weights(out) != whole
                shutil.rmtree(out)
            elif run.returncode > 0:
                counted["wrong"] += 1
                print(told.decode()[-500:], file=sys.stderr)
    print(f"an unbroken run takes {seconds:.1f} s, seed {options.seed}")
    for what in sorted(counted.keys() | {"wrong"}):
        print(f"{what:36} {counted[what]:6}")
    sys.exit(bool(counted["wrong"]))


if __name__ == "__main__":
    main()
