"""A run in several processes, as one of them sees it: who it is, and what all of them have to agree on.

JAX joins the processes (`jax.distributed`) and moves the data. Every process computes the same plan and takes the same
turns, so what is exchanged here is little: which process failed and why, what the first one has measured or read, and
whether somebody was asked to stop. All of it goes through collectives that every process enters in the same order. A
process that fails between two of them cannot tell the others; they then learn it from JAX, see `Job.__exit__`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import keras
import numpy as np

from qa_fast.errors import UserError
from qa_fast.train.config import JobConfig

Value = TypeVar("Value")
Error = TypeVar("Error", bound=BaseException)
SPARE = 60  # seconds that JAX waits longer than we do: it ends the process where we can say what is wrong
_CONNECTION = re.compile(r"gloo|nccl|UNAVAILABLE|DEADLINE_EXCEEDED|CANCELLED|connection|coordination", re.IGNORECASE)
SHUTDOWN = 30  # seconds for the last process to come to the common end


class Job:
    """The processes of a run; a context manager around it.

    Args:
        processes: How many.
        process_id: Which of them this is.
        ours: Whether to leave `jax.distributed` at the end.

    Attributes:
        first: Whether this is the process that measures, reads, writes and prints.
    """

    def __init__(self, processes: int = 1, process_id: int = 0, *, ours: bool = False) -> None:
        self.processes, self.process_id, self.first = processes, process_id, process_id == 0
        self._ours = ours
        self._known: BaseException | None = None
        self._sum: Callable[[bool], Any] | None = None

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave together where all know of the end.

        A process that fails alone leaves without the others, which must not be waited for: they may be in a collective
        that waits for this one. They are told by a broken connection (on CPUs at once) or by JAX, which ends a process
        whose peer has sent no sign of life for `heartbeat_timeout` seconds.
        """
        if self.processes > 1 and error is not None and _lost_peer(error):
            raise UserError(
                "the processes of a job must all live to its end; another one is gone, or the network between them "
                f"failed ({str(error).splitlines()[0][:200]}): see what that one printed, and start all of them again "
                "with --resume"
            ) from error
        if self._ours and (error is None or error is self._known):
            import jax

            jax.distributed.shutdown()
            self._ours = False

    def known(self, error: Error) -> Error:
        """`error`, which every process raises at this point: they leave together."""
        self._known = error
        return error

    def gather(self, value: Any) -> list[Any]:
        """The JSON-ready value of every process, in their order.

        Raises:
            UserError: A process has failed instead of coming here.
        """
        return self._exchange({"value": value})

    def told(self, make: Callable[[], Any]) -> Any:
        """What `make` returns in the first process, told to all; JSON-ready.

        Raises:
            UserError: It failed there; in the first process its own error.
        """
        if self.processes == 1:
            return make()
        value = None
        with self._failing_together():
            value = make() if self.first else None
        return self.gather(value)[0]

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """What each process does for itself: all come out of it, or none.

        Raises:
            UserError: Another process has failed within.
        """
        with self._failing_together():
            yield
            self.gather(None)

    def arrays(self, tree: Value) -> Value:
        """The first process' arrays in all; every one gives arrays of these shapes. None may fail on the way here."""
        if self.processes == 1:
            return tree
        from jax.experimental.multihost_utils import broadcast_one_to_all

        return broadcast_one_to_all(tree)

    def flag(self, raised: bool) -> Any:
        """How many processes raise it; `int()` of it waits for those."""
        if self.processes == 1:
            return int(raised)
        if self._sum is None:
            self._sum = _sum_of_flags()
        return self._sum(raised)

    @contextmanager
    def _failing_together(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self.processes > 1 and error is not self._known and not _lost_peer(error):
                text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                self._exchange({"failed": text}, own=self.known(error))
            raise

    def _exchange(self, message: dict[str, Any], own: BaseException | None = None) -> list[Any]:
        """Raises for the failure of another process, but where this one has failed by itself."""
        if self.processes == 1:
            return [message.get("value")]
        from jax.experimental.multihost_utils import process_allgather

        data = np.frombuffer(json.dumps(message).encode(), np.uint8)
        sizes = process_allgather(np.array([len(data)], np.int32))[:, 0]
        room = 1 << int(sizes.max()).bit_length()  # few shapes: each is compiled once
        padded = np.zeros(room, np.uint8)
        padded[: len(data)] = data
        everyone = process_allgather(padded)
        messages = [json.loads(bytes(row[:size])) for row, size in zip(everyone, sizes, strict=True)]
        for number, one in enumerate(messages):
            if "failed" in one and own is None:
                raise self.known(UserError(f"process {number} of the job failed: {one['failed']}"))
        return [one.get("value") for one in messages]


def _lost_peer(error: BaseException) -> bool:
    # JAX raises everything that goes wrong on devices so; memory that runs out, say, is this process' own affair.
    return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and bool(_CONNECTION.search(str(error)))


def _sum_of_flags() -> Callable[[bool], Any]:
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("rows",))
    by_rows, everywhere = NamedSharding(mesh, PartitionSpec("rows")), NamedSharding(mesh, PartitionSpec())
    total = jax.jit(lambda flags: (flags > 0).sum(), out_shardings=everywhere)

    def one(raised: bool) -> Any:
        mine = np.full(jax.local_device_count(), raised, np.int32)
        return total(jax.make_array_from_process_local_data(by_rows, mine))

    return one


def join(config: JobConfig) -> Job:
    """Meet the other processes of a job; must come before anything is computed on JAX.

    A job that the caller has joined (`jax.distributed.initialize`) is taken as it is, and not left.

    Raises:
        UserError: The options make no job, the backend has none, or the others are not there in time; then JAX has no
            way back either, and the process should end.
    """
    config.check()
    if keras.backend.backend() != "jax":
        if config.requested:
            raise UserError(
                f"a job of several processes needs KERAS_BACKEND=jax; received {keras.backend.backend()!r}, for which "
                "Keras 3 has no keras.distribution over processes: set KERAS_BACKEND=jax, or train in one process"
            )
        return Job()
    import jax

    ours = config.requested and not jax.distributed.is_initialized()
    if ours:
        _initialize(config)
    if not jax.distributed.is_initialized():
        return Job()
    job = Job(jax.process_count(), jax.process_index(), ours=ours)
    if jax.device_count() != job.processes * jax.local_device_count():
        raise UserError(
            "every process of a job must have as many devices as the others; received a job of "
            f"{jax.device_count()} devices in {job.processes} processes, of which process {job.process_id} has "
            f"{jax.local_device_count()}: give each the same number (CUDA_VISIBLE_DEVICES)"
        )
    with _standard_output_for_results():
        job.gather(None)  # connects
    return job


@contextmanager
def _standard_output_for_results() -> Iterator[None]:
    """What native code prints there goes to standard error: Gloo says of every connection that it is one."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _initialize(config: JobConfig) -> None:
    """`jax.distributed.initialize` with an error instead of the end of the process where somebody does not come."""
    import jax

    # Ours is to end with a checkpoint, see `stopping`; JAX's would take SIGTERM away from everybody else.
    jax.config.update("jax_enable_preemption_service", False)
    options: dict[str, Any] = {}
    address = config.address(os.environ)
    if address is not None:
        options = {"coordinator_address": address, "num_processes": config.processes, "process_id": config.process_id}
        options["cluster_detection_method"] = "deactivate"
        if config.process_id:
            _wait_for(address, config.join_timeout)
    failures: list[BaseException] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                initialization_timeout=config.join_timeout + SPARE,
                heartbeat_timeout_seconds=config.heartbeat_timeout,
                shutdown_timeout_seconds=SHUTDOWN,
                **options,
            )
        except Exception as error:  # told by the thread that waits
            failures.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(config.join_timeout)
    if thread.is_alive():
        raise UserError(
            f"all processes of a job must start within --join-timeout; after {config.join_timeout} s not all of "
            f"{config.processes or 'them'} were at {address or 'the coordinator'}: start each with its own "
            "--process-id, and see what the others printed"
        )
    if failures and address is None:
        raise UserError(
            "--coordinator auto needs Slurm, Open MPI, Kubernetes or a TPU pod, which tell JAX of the job; found none "
            f"({failures[0]}): give --coordinator, --processes and --process-id"
        )
    if failures:
        raise UserError(
            f"--coordinator must be an address that process 0 can listen at and the others reach; {address} is not "
            f"({str(failures[0]).splitlines()[0]}): choose a free port of the machine of process 0"
        )


def _wait_for(address: str, seconds: float) -> None:
    """Until somebody listens at HOST:PORT: JAX ends the process if that takes too long."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(1.0, seconds / 10)).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"--coordinator must be the address at which process 0 listens; nobody answered at {address} "
                    f"within {seconds:g} s ({error}): start process 0, and look at host, port and firewall"
                ) from None
            time.sleep(0.1)
