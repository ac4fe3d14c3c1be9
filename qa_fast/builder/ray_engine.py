"""Ray: blocks are shared out over actors, which read, featurize and write each a shard; the driver holds no rows.

Ray Data does the scheduling: it hands a block to whichever actor is free, starts an actor again that died, and gives
its block to another. What goes over Ray is a block's description one way and its facts the other; rows go from the
source through one actor to the store. qa-fast must be installed where the actors run, and source and output be places
that they reach.
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
from qa_fast.errors import MissingExtraError, UnreachableError, UserError
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
    """An engine of actors.

    Args:
        maker: The recipe of a shard.
        workers: Actors, a core each; None takes all cores of the cluster.
        strict: Make any rejected example an error.
        address: Of the cluster, as `connected` takes it.
        report: Told how many shards were there already.
        progress: Told of each block.
    """

    def run(jobs: Iterator[Job]) -> Iterator[tuple[Block, BlockFacts]]:
        listed = list(jobs)
        if not listed:
            return
        kept = 0
        with (
            connected(address, workers) as cores,
            contextlib.closing(
                mapped([pickle.dumps(job) for job in listed], _Worker, (maker, strict), min(cores, len(listed)))
            ) as results,
        ):
            for result in results:
                block, facts, was_there = pickle.loads(result)
                kept += was_there
                if progress:
                    progress(block, facts.rows)
                yield block, facts
        if kept:
            report.say(f"{kept} of {len(listed)} shards were there from an interrupted run, and are whole")

    return run


class _Worker:
    """One actor: makes the shards of the blocks that it is given."""

    def __init__(self, maker: ShardMaker, strict: bool) -> None:
        self.maker, self.strict = maker, strict

    def __call__(self, job: bytes) -> bytes:
        block, left_out = pickle.loads(job)
        facts = self.maker.journal.finished(block)
        # In a first pass nothing is known of repeated ids: whether the right ones were left out is seen later.
        kept = facts is not None and (left_out is None or facts.without == digest(left_out))
        if not kept:
            try:
                facts = self.maker.make(block, left_out, self.strict)
            except OSError as error:
                raise not_writable(self.maker.out, error) from None
        return pickle.dumps((block, facts, kept))


@contextlib.contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[int]:
    """A connection to a cluster; one that is started here ends with the block.

    Args:
        address: "auto", "host:port" or "ray://host:port"; None takes the cluster that RAY_ADDRESS names, or starts one
            on this machine.
        workers: Actors wanted; None takes a core each of all there are.

    Yields:
        How many actors to have.

    Raises:
        UserError: No such cluster.
        MissingExtraError: Ray is not installed.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a line about a change to come, each time
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError("--engine ray", "ray", error.name or "ray") from None
    was_connected = ray.is_initialized()
    if not was_connected:
        where: dict[str, Any] = {"address": address}
        if address is None and not os.environ.get("RAY_ADDRESS"):
            where = {"num_cpus": max(workers or processors(), 1), "include_dashboard": False}
        try:
            ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"--address must be a Ray cluster that runs; received {address or os.environ.get('RAY_ADDRESS')}: "
                f"{reason[:300]}: start one with 'ray start --head', or leave it out for one on this machine"
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
    """What actors make of items, each as soon as it is done.

    An actor that dies is started again and its item done anew; a `UserError` within one is raised here.

    Args:
        items: Descriptions of work, small.
        worker: A class whose objects are called with an item and return bytes.
        arguments: Of the class.
        actors: How many.
        cores: Of each.
    """
    import ray.data

    data = ray.data.from_items([{"item": item} for item in items], override_num_blocks=len(items))
    done = data.map_batches(
        _Caller,
        fn_constructor_args=(worker, pickle.dumps(arguments)),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cores,
    )
    for row in done.iter_rows():
        kind, payload = pickle.loads(row["result"])
        if kind is not None:
            raise kind(payload)
        yield payload


class _Caller:
    """Calls a worker with each item; the user's mistakes are results, which Ray does not try again."""

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
