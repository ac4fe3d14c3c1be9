"""Interrupt each command at random moments from its first millisecond on, and check how it ends.

    python tools/interrupt_commands.py --moments 100
    python tools/interrupt_commands.py --moments 10 --only train,serve

SIGINT, SIGTERM and SIGHUP take turns. A command must end within 5 s, print "stopped" once and nothing that looks like a
traceback, exit with 128 + the signal's number, and leave neither a process nor a temporary file behind. A server that
accepts requests already must end with 0. Data and model are generated and small. Three more outcomes are counted: the
command had ended by itself; the signal ended Python before it had read our code; or it came before the first
instructions of our code were done, which Python reports in its own way. Prints one table, which stands in SECURITY.md;
the exit code is 1 if anything is wrong.
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

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests import sample  # noqa: E402
from tests.small_runs import make_model_folder, make_shards  # noqa: E402

MOST_SECONDS = 5.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SMALL = "--model model --max-length 48 --doc-stride 12"
COMMANDS = {
    "featurize": f"featurize data --out out {SMALL}",
    "featurize, cold": f"featurize data --out out {SMALL}",  # the kernels are compiled
    "show": f"show data --html out/page.html {SMALL}",
    "train": "train shards --model model --out out --epochs 2",
    "sweep": "sweep shards --model model --out out --trials 1 --max-examples 8 --validation-examples 4",
    "evaluate": "evaluate shards trained --out out --report out.html",
    "quantize": "quantize trained shards --max-loss 100",
    "answer": "answer trained --input data/train-1.json --output out.jsonl",
    "answer, folder": "answer trained --input data --output out",
    "serve": "serve trained --port 0",
    "push": "push trained a/b --dry-run",
    "export": "export trained --format onnx --out out.onnx",
    "models": "models",
    "warmup": "warmup",
}
KINDS = ("stopped", "before our code", "in Python's start", "it had ended")
# What a command may leave: its whole output, or the folder from which the next run continues.
OUTPUTS = {"out", "out.html", "out.jsonl", "out.rejected.jsonl", "out.onnx"}


def start(work: Path, name: str) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, whose processes can be found later."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TMPDIR": str(work / "tmp")}
    environment |= {"QA_FAST_CACHE": str(work / "cache"), "NUMBA_CACHE_DIR": str(work / "kernels")}
    environment["PYTHONPYCACHEPREFIX"] = str(work / "bytecode")
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling would prolong the time until signals are handled
    if name.endswith("cold"):
        shutil.rmtree(work / "cold", ignore_errors=True)
        environment["NUMBA_CACHE_DIR"] = str(work / "cold")
    command = [sys.executable, "-m", "qa_fast.cli", *COMMANDS[name].split()]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True,
        preexec_fn=heed_signals,
    )  # fmt: skip


def heed_signals() -> None:
    """Undo that a shell or nohup let this process ignore signals, since commands go on ignoring them."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def clear(work: Path, name: str) -> None:
    """Remove what the last run of a command wrote."""
    for output in (*OUTPUTS, "trained/quantization.safetensors"):
        path = work / output
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if name == "show":
        (work / "out").mkdir()


def names(work: Path) -> set[str]:
    """Return the names of all files that a run may not add to: temporary ones anywhere, others beside the outputs."""
    found = set()
    for path in work.rglob("*"):
        name = str(path.relative_to(work))
        top = name.split("/")[0]
        if top in ("bytecode", "cache", "kernels", "cold") or name == "trained/quantization.safetensors":
            continue
        is_temporary = path.name.endswith(".tmp") or path.name.startswith((".out", "qa-fast-"))
        if top not in OUTPUTS or is_temporary or (path.is_dir() and not any(path.iterdir())):
            found.add(name)
    return found


def left_processes(session: int) -> list[psutil.Process]:
    """Return the processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess, PermissionError):
            continue
    return found


def problem(name: str, number: int, run: subprocess.Popen[bytes], errors: str, serving: bool) -> str:
    """Return what is wrong with the end of a command, or how it ended well."""
    lines = errors.splitlines()
    if run.returncode == -number and not errors.strip():
        return "before our code"
    early = str(ROOT / "qa_fast") not in errors or "import hold_in_a_command" in errors
    if "KeyboardInterrupt" in errors and early:
        return "in Python's start"
    if any(word in errors for word in ("Traceback", "Exception ignored", "Aborted", "error:")):
        return "WRONG: a traceback"
    if run.returncode == 0 and "stopped" not in lines and not serving:
        return "it had ended"
    if run.returncode != (0 if serving else 128 + number):
        return f"WRONG: exit code {run.returncode}"
    return "stopped" if lines.count("stopped") == 1 and lines[-1] == "stopped" else "WRONG: not one line"


def interrupt(work: Path, name: str, number: int, moment: float) -> tuple[str, float, str]:
    """Interrupt one run.

    Args:
        work: The folder of inputs and outputs.
        name: The command.
        number: The signal.
        moment: Seconds after the start.

    Returns:
        The outcome, the seconds until the end, and what was printed on standard error.
    """
    clear(work, name)
    before = names(work)
    run = start(work, name)
    time.sleep(moment)
    ended = run.poll() is not None
    began = time.monotonic()
    if not ended:
        run.send_signal(number)
    try:
        _, printed = run.communicate(timeout=MOST_SECONDS)
        outcome = ""
    except subprocess.TimeoutExpired:
        outcome = "WRONG: did not end"
    seconds = time.monotonic() - began
    # A process that was killed needs a moment to give its memory back.
    left = psutil.wait_procs(left_processes(run.pid), timeout=1)[1]
    for process in left:
        process.kill()
    if outcome:
        _, printed = run.communicate()
    errors = printed.decode(errors="replace")
    outcome = outcome or ("it had ended" if ended else problem(name, number, run, errors, "answers at" in errors))
    if left and not outcome.startswith("WRONG"):
        outcome = "WRONG: a process is left"
    added = names(work) - before
    if added and not outcome.startswith("WRONG"):
        outcome, errors = "WRONG: files are left", f"{sorted(added)} {errors}"
    return outcome, seconds, errors


def duration(work: Path, name: str) -> float:
    """Return the seconds of an uninterrupted run, or of a server until it accepts requests and a little more."""
    clear(work, name)
    began = time.monotonic()
    run = start(work, name)
    if name == "serve":
        assert run.stderr is not None
        while b"answers at" not in run.stderr.readline():
            if run.poll() is not None:
                sys.exit("the server did not start")
        seconds = time.monotonic() - began
        run.terminate()
        run.communicate()
        return seconds + 0.5
    _, errors = run.communicate()
    if run.returncode:
        sys.exit(f"{name} failed: {errors.decode()[-2000:]}")
    return time.monotonic() - began


def main() -> None:
    """Interrupt all commands and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=100, help="interruptions of each command")
    parser.add_argument("--only", default=",".join(COMMANDS), help="commands, as in the table")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, wrong, rows = random.Random(options.seed), 0, []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "tmp").mkdir()
        for number in (1, 2):
            rows_of_file = [
                {**row, "id": f"{number}-{copy}-{row['id']}"} for copy in range(40) for row in sample.rows()
            ]
            sample.write(work / "data" / f"train-{number}.json", rows_of_file)
        make_shards(work / "shards", make_model_folder(work / "model"))
        train = [sys.executable, "-m", "qa_fast.cli", *COMMANDS["train"].replace("--out out", "--out trained").split()]
        subprocess.run(train, cwd=work, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
        asked = set(options.only.split(","))
        for name in [name for name in COMMANDS if {name, name.partition(",")[0]} & asked]:
            duration(work, name)  # fills the caches
            whole = duration(work, name)
            counted, slowest = Counter[str](), 0.0
            for turn in range(options.moments):
                number = SIGNALS[turn % len(SIGNALS)]
                moment = 0.001 if turn < len(SIGNALS) else chance.uniform(0.001, whole)
                outcome, seconds, errors = interrupt(work, name, number, moment)
                counted[outcome] += 1
                slowest = max(slowest, seconds)
                if outcome.startswith("WRONG"):
                    wrong += 1
                    print(
                        f"{name}, {number.name} after {moment:.3f} s: {outcome}\n{errors}", file=sys.stderr, flush=True
                    )
            told = [counted[kind] for kind in KINDS]
            bad = sum(count for kind, count in counted.items() if kind.startswith("WRONG"))
            rows.append([name, f"{whole:.1f} s", options.moments, *told, f"{slowest:.1f} s", bad])
            print(f"done: {rows[-1]}", file=sys.stderr, flush=True)
    heads = ("command", "runs for", "signals", *KINDS, "slowest end", "wrong")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
