"""Kill a small training run at random moments, resume it, and check that its weights equal those of an unbroken run.

    python tools/kill_training.py --kills 20

Each run resumes where the last one was killed, until one finishes; its weights are then compared, bit by bit, with
those of an unbroken run, and the next run begins from the start. The recipe has dropout, accumulation and validation
within epochs, so that it uses everything that a checkpoint must hold. Every second kill waits for a moment at which
files are written. After the last kill the run continues to its end. The program prints one table and ends with 1 if
weights differ, a run fails, a model that a killed run left cannot be opened, or partial files remain at the end.
"""

from __future__ import annotations

import argparse
import json
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

from qa_fast.train.state import checkpoints  # noqa: E402
from tests.small_runs import make_model_folder, make_shards  # noqa: E402

# A folder without a checkpoint is replaced, as its user would do.
RUN = """
import sys
from pathlib import Path
from qa_fast.train import TrainConfig, train
from qa_fast.train.state import checkpoints
started = bool(checkpoints(Path(sys.argv[2]) / "training" / "checkpoints"))
train(sys.argv[1], TrainConfig(
    out=sys.argv[2], epochs=int(sys.argv[3]), batch_size=4, accumulate=2, learning_rate=1e-3, precision="float32",
    jit="off", checkpoint_every=2, validate_every=10, resume=started, overwrite=not started,
))
"""
# What a run is writing, by the temporary names of the files.
WRITING = {
    "a checkpoint": "training/checkpoints/.writing-*",
    "a model": ".out-*",
    "the record": "training/.*.tmp",
}


def weights(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each tensor of a model folder.

    Raises:
        SafetensorError: The file is incomplete.
    """
    with safe_open(folder / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


def start(shards: Path, out: Path, epochs: int) -> subprocess.Popen[bytes]:
    """Start a run that resumes from what `out` holds."""
    command = [sys.executable, "-c", RUN, str(shards), str(out), str(epochs)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def under_way(out: Path) -> str | None:
    """Return what is being written right now, or None."""
    return next((what for what, names in WRITING.items() if any(out.glob(names))), None)


def newest_step(out: Path) -> int:
    """Return the step of the newest checkpoint, 0 without one."""
    saved = checkpoints(out / "training" / "checkpoints")
    return int(saved[-1].name.removeprefix("step-")) if saved else 0


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=40, help="epochs of 3 steps each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, counted = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = make_model_folder(work / "model")
        shards = make_shards(work / "shards", model)
        began = time.monotonic()
        run = start(shards, work / "whole", options.epochs)
        _, errors = run.communicate()
        if run.returncode:
            sys.exit(f"the unbroken run failed: {errors.decode()[-2000:]}")
        whole, seconds = weights(work / "whole"), time.monotonic() - began
        steps = json.loads((work / "whole" / "training" / "metrics.json").read_text())["steps"]
        left = sorted(path.name for path in (work / "whole").iterdir())
        out = work / "out"
        while counted["kills"] < options.kills or out.exists():
            before = newest_step(out)
            run = start(shards, out, options.epochs)
            counted["runs that were resumed" if before else "runs that began from the start"] += 1
            # Only a few steps later, so that most kills hit one and the same run.
            goes_on_to = before + chance.randint(1, max(1, 2 * steps // (options.kills + 1)))
            delay, ends = chance.uniform(0.0, 0.3), None
            at_writing = counted["kills"] % 2 == 1
            while run.poll() is None and counted["kills"] < options.kills:
                if ends is None and newest_step(out) >= goes_on_to:
                    ends = time.monotonic() + delay
                if ends is not None and time.monotonic() > ends and (not at_writing or under_way(out)):
                    run.send_signal(signal.SIGSTOP)  # so that nothing changes between look and kill
                    moment = under_way(out)
                    after = newest_step(out)
                    os.kill(run.pid, signal.SIGKILL)
                    run.wait()
                    counted["kills"] += 1
                    ended = not after and (out / "training" / "metrics.json").exists()
                    when = "before a checkpoint" if not after else "between writes"
                    when = "after its end" if ended else f"while it wrote {moment}" if moment else when
                    counted[f"killed {when}"] += 1
                    print(f"kill {counted['kills']}: started at {before}, checkpoint at {after}, {when}", flush=True)
                    if (out / "model.safetensors").exists():
                        counted["models that a killed run left"] += 1
                        try:
                            weights(out)
                        except SafetensorError:
                            counted["wrong"] += 1
                    if ended:
                        counted["wrong"] += weights(out) != whole
                        shutil.rmtree(out)
                    break
                time.sleep(0.0005)
            _, errors = run.communicate()
            if run.returncode == 0:
                counted["whole runs"] += 1
                counted["wrong"] += weights(out) != whole
                counted["wrong"] += sorted(path.name for path in out.iterdir()) != left
                counted["wrong"] += any(any(out.glob(names)) for names in WRITING.values())
                shutil.rmtree(out)
            elif run.returncode > 0:
                sys.exit(f"a run failed: {errors.decode()[-2000:]}")
    print(f"an unbroken run of {steps} steps takes {seconds:.1f} s; seed {options.seed}")
    for name in sorted(counted.keys() | {"wrong"}):
        print(f"{name:36} {counted[name]:6}")
    sys.exit(bool(counted["wrong"]))


if __name__ == "__main__":
    main()
