"""A run in several processes, as one of them sees it: its number, and what all of them must agree on.

JAX joins the processes (`jax.distributed`) and moves the data. Every process computes the same plan and takes the same
decisions, so little is exchanged here: which process failed and why, what the first one measured or read, and whether
one was asked to stop. All of it goes through collectives that every process enters in the same order. A process that
fails between two of them cannot tell the others, which then learn of it from JAX, see `Job.__exit__`.
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
SPARE = 60  # seconds that JAX waits longer than this module, because JAX would end the process without an error
_CONNECTION = re.compile(r"gloo|nccl|UNAVAILABLE|DEADLINE_EXCEEDED|CANCELLED|connection|coordination", re.IGNORECASE)
SHUTDOWN = 30  # seconds to wait for the last process at the end


class Job:
    """The processes of a run; a context manager around the run.

    Args:
        processes: Number of processes.
        process_id: Number of this process, from 0.
        ours: Whether to shut `jax.distributed` down at the end.

    Attributes:
        first: Whether this is process 0, which measures, reads, writes and prints.
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
        """Shut down together if all processes end here.

        A process that fails alone must not wait for the others, which may be in a collective that waits for this one.
        They notice a broken connection (on CPUs at once), or JAX ends them when this one has sent no heartbeat for
        `heartbeat_timeout` seconds.
        """
        if self.processes > 1 and error is not None and _lost_peer(error):
            raise UserError(
                "all processes of a job must run until its end; another one ended, or the network between them failed "
                f"({str(error).splitlines()[0][:200]}): read what the others printed, and start all of them again with "
                "--resume"
            ) from error
        if self._ours and (error is None or error is self._known):
            import jax

            jax.distributed.shutdown()
            self._ours = False

    def known(self, error: Error) -> Error:
        """Return `error` and note that every process raises it at this point, so that all shut down together."""
        self._known = error
        return error

    def gather(self, value: Any) -> list[Any]:
        """Return the JSON-ready values of all processes, in their order.

        Raises:
            UserError: A process failed before it came here.
        """
        return self._exchange({"value": value})

    def from_first(self, make: Callable[[], Any]) -> Any:
        """Call `make` in the first process and return its JSON-ready result in all.

        Raises:
            UserError: The call failed. The first process raises its own error.
        """
        if self.processes == 1:
            return make()
        value = None
        with self._failing_together():
            value = make() if self.first else None
        return self.gather(value)[0]

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Run a block in each process and wait for the others; if one of them fails, all do.

        Raises:
            UserError: Another process failed in the block.
        """
        with self._failing_together():
            yield
            self.gather(None)

    def arrays(self, tree: Value) -> Value:
        """Return the arrays of the first process in all; each passes arrays of these shapes, and none may fail here."""
        if self.processes == 1:
            return tree
        from jax.experimental.multihost_utils import broadcast_one_to_all

        return broadcast_one_to_all(tree)

    def flag(self, raised: bool) -> Any:
        """Return the number of processes that raise the flag; `int()` of it waits for them."""
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
        """Return the values of all processes; raise if another one failed, unless this one did (`own`)."""
        if self.processes == 1:
            return [message.get("value")]
        from jax.experimental.multihost_utils import process_allgather

        data = np.frombuffer(json.dumps(message).encode(), np.uint8)
        sizes = process_allgather(np.array([len(data)], np.int32))[:, 0]
        padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)  # few shapes: each is compiled once
        padded[: len(data)] = data
        rows = process_allgather(padded)
        messages = [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]
        for number, received in enumerate(messages):
            if "failed" in received and own is None:
                raise self.known(UserError(f"process {number} of the job failed: {received['failed']}"))
        return [received.get("value") for received in messages]


def _lost_peer(error: BaseException) -> bool:
    # JAX raises these for all errors of devices; running out of memory, for example, concerns this process alone.
    return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and bool(_CONNECTION.search(str(error)))


def _sum_of_flags() -> Callable[[bool], Any]:
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("rows",))
    by_rows, everywhere = NamedSharding(mesh, PartitionSpec("rows")), NamedSharding(mesh, PartitionSpec())
    total = jax.jit(lambda flags: (flags > 0).sum(), out_shardings=everywhere)

    def add_up(raised: bool) -> Any:
        own = np.full(jax.local_device_count(), raised, np.int32)
        return total(jax.make_array_from_process_local_data(by_rows, own))

    return add_up


def join(config: JobConfig) -> Job:
    """Join the other processes of a job; this must come before JAX computes anything.

    A job that the caller has joined (`jax.distributed.initialize`) is used as it is, and not shut down.

    Raises:
        UserError: The options contradict each other, the backend has no jobs, or the other processes did not start in
            time. The process should then end, because JAX cannot be initialized again.
    """
    config.check()
    if keras.backend.backend() != "jax":
        if config.requested:
            raise UserError(
                f"a job of several processes needs KERAS_BACKEND=jax; received {keras.backend.backend()!r}: set "
                "KERAS_BACKEND=jax, or train in one process"
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
            f"all processes of a job must have the same number of devices; received {jax.device_count()} devices in "
            f"{job.processes} processes, and process {job.process_id} has {jax.local_device_count()}: give each the "
            "same number (CUDA_VISIBLE_DEVICES)"
        )
    with _standard_output_for_results():
        job.gather(None)  # connects
    return job


@contextmanager
def _standard_output_for_results() -> Iterator[None]:
    """Send what native code prints to standard error: Gloo reports every connection on standard output."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _initialize(config: JobConfig) -> None:
    """Call `jax.distributed.initialize`, but raise an error where JAX would end the process.

    Raises:
        UserError: A process did not start in time, or the address cannot be used.
    """
    import jax

    # SIGTERM ends a run with a checkpoint, see `stopping`; JAX's service would take the signal away.
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
        except Exception as error:  # the waiting thread reports it
            failures.append(error)

    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(config.join_timeout)
    if thread.is_alive():
        raise UserError(
            f"all processes of a job must start within --join-timeout; after {config.join_timeout} s not all of "
            f"{config.processes or 'them'} had joined {address or 'the coordinator'}: start each with its own "
            "--process-id, and read what the others printed"
        )
    if failures and address is None:
        raise UserError(
            "--coordinator auto needs Slurm, Open MPI, Kubernetes or a TPU pod; JAX found none of them "
            f"({failures[0]}): give --coordinator, --processes and --process-id"
        )
    if failures:
        raise UserError(
            f"--coordinator must be an address at which process 0 can listen and which the others reach; {address} is "
            f"not ({str(failures[0]).splitlines()[0]}): choose a free port of the machine of process 0"
        )


def _wait_for(address: str, seconds: float) -> None:
    """Wait until process 0 listens at HOST:PORT, because JAX ends the process if that takes too long.

    Raises:
        UserError: It did not within `seconds`.
    """
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
                    f"within {seconds:g} s ({error}): start process 0, and check host, port and firewall"
                ) from None
            time.sleep(0.1)
