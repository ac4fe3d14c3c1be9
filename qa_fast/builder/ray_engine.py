"""Makes blocks with Ray: actors read, featurize and write one shard at a time, and the driver holds no rows.

Ray Data does the scheduling: it gives a block to whichever actor is free, restarts an actor that died, and gives its
block to another. Only the description of a block and its facts travel over Ray; rows go from the source through one
actor to the store. qa-fast must be installed where the actors run, and they must be able to reach source and output.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
from collections.abc import Callable, Generator, Iterator
from typing import Any

from qa_fast.builder.assembly import BlockEngine, Job
from qa_fast.builder.blocks import Progress, ShardMaker
from qa_fast.builder.repeats import digest
from qa_fast.builder.staging import not_writable
from qa_fast.errors import MissingExtraError, UnreachableError, UserError, first_line
from qa_fast.parallel import processors
from qa_fast.progress import Reporter
from qa_fast.shards.journal import BlockFacts
from qa_fast.sources.pieces import Block


def ray_engine(
    maker: ShardMaker,
    workers: int | None,
    strict: bool,
    address: str | None,
    report: Reporter,
    progress: Progress | None = None,
) -> BlockEngine:
    """Return an engine that uses actors.

    Args:
        maker: Decides the shards.
        workers: Number of actors, each on one core; None takes all cores of the cluster.
        strict: Make any rejected or repaired example an error.
        address: Address of the cluster; see `connected`.
        report: Receives a message if shards were kept.
        progress: Called for each block.
    """

    def run(jobs: Iterator[Job]) -> Iterator[tuple[Block, BlockFacts]]:
        items = [pickle.dumps(job) for job in jobs]
        if not items:
            return
        kept = 0
        with (
            connected(address, workers) as actors,
            contextlib.closing(mapped(items, _Worker, (maker, strict), min(actors, len(items)))) as results,
        ):
            for result in results:
                block, facts, was_finished = pickle.loads(result)
                kept += was_finished
                if progress:
                    progress(block, facts.rows)
                yield block, facts
        if kept:
            report.say(f"{kept} of {len(items)} shards were finished by an interrupted run and are kept")

    return run


class _Worker:
    """One actor, which makes the shards of the blocks that it receives."""

    def __init__(self, maker: ShardMaker, strict: bool) -> None:
        self.maker, self.strict = maker, strict

    def __call__(self, job: bytes) -> bytes:
        block, left_out = pickle.loads(job)
        facts = self.maker.journal.finished(block)
        # In the first pass repeated ids are not known yet: whether the right rows were left out is checked later.
        kept = facts is not None and (left_out is None or facts.without == digest(left_out))
        if not kept:
            try:
                facts = self.maker.make(block, left_out, self.strict)
            except OSError as error:
                raise not_writable(self.maker.out, error) from None
        return pickle.dumps((block, facts, kept))


@contextlib.contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[int]:
    """Connect to a cluster; one that is started here ends with the context.

    Args:
        address: "auto", "host:port" or "ray://host:port"; None takes the cluster that RAY_ADDRESS names, or starts one
            on this machine.
        workers: Number of actors to use; None takes one for each core of the cluster.

    Yields:
        The number of actors to use.

    Raises:
        UnreachableError: There is no such cluster.
        MissingExtraError: Ray is not installed.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns about a coming change, each time
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError("--engine ray", "ray", error.name or "ray") from None
    was_connected = ray.is_initialized()
    if not was_connected:
        cluster: dict[str, Any] = {"address": address}
        if address is None and not os.environ.get("RAY_ADDRESS"):
            cluster = {"num_cpus": max(workers or processors(), 1), "include_dashboard": False}
        try:
            ray.init(**cluster, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UnreachableError(  # so that what an earlier run finished stays
                f"--address must be a running Ray cluster; received {address or os.environ.get('RAY_ADDRESS')}: "
                f"{first_line(error)[:300]}: start one with 'ray start --head', or leave it out for one on this machine"
            ) from None
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.enable_operator_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if not was_connected:
            ray.shutdown()


def mapped(
    items: list[bytes], worker: Callable[..., Any], arguments: tuple[Any, ...], actors: int, cores: int = 1
) -> Generator[bytes, None, None]:
    """Yield the results of actors, each as soon as it is finished, in any order.

    An actor that dies is restarted and its item done again. A `UserError` in an actor is raised here.

    Args:
        items: Small descriptions of work.
        worker: A class whose objects are called with an item and return bytes.
        arguments: Arguments of the class.
        actors: Number of actors.
        cores: Cores of each actor.
    """
    import ray.data

    data = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
    results = data.map_batches(
        _Caller,
        fn_constructor_args=(worker, pickle.dumps(arguments)),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cores,
    )
    for row in results.iter_rows():
        kind, payload = pickle.loads(row["result"])
        if kind is not None:
            raise kind(payload)
        yield payload


class _Caller:
    """Calls a worker with each item. A `UserError` is returned as a result, which Ray does not retry."""

    def __init__(self, worker: Callable[..., Any], arguments: bytes) -> None:
        self._work = worker(*pickle.loads(arguments))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        results = []
        for item in batch["item"]:
            try:
                results.append(pickle.dumps((None, self._work(item))))
            except UserError as error:
                kind = UnreachableError if isinstance(error, UnreachableError) else UserError
                results.append(pickle.dumps((kind, str(error))))
        return {"result": results}
