"""`qa-fast featurize`: turns a source into shards, with a progress bar and a table of the results."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qa_fast.builder.options import RAY, BuildOptions
from qa_fast.cli.bar import showing
from qa_fast.cli.records import with_records
from qa_fast.cli.startup import few_arenas
from qa_fast.cli.stderr import hush_native_notes
from qa_fast.errors import without_secrets
from qa_fast.parallel import processors
from qa_fast.progress import Reporter
from qa_fast.schema import FeatureConfig

if TYPE_CHECKING:
    from qa_fast.builder.job import BuildResult

_COUNTS = ("examples", "features", "impossible", "rejected", "repaired", "tokens")
# How the table names a count that the index and JSON call otherwise.
_WORDS = {"impossible": "without an answer"}


@with_records
def featurize(
    source: Annotated[
        str,
        typer.Argument(help="'squad', a file, folder or URL (SQuAD JSON, JSONL, CSV, Parquet, Arrow), or a Hub id."),
    ],
    *,
    out: Annotated[
        str, typer.Option("--out", help="Folder or URL to write the shards to.", rich_help_panel="Where and how")
    ] = "shards",
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="Model whose tokenizer is used: 'minilm', a local folder, or a Hub id.",
            rich_help_panel="Features",
        ),
    ] = "minilm",
    config: FeatureConfig,
    options: BuildOptions,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON on standard output.")] = False,
) -> None:
    """Turn question-answering data into Arrow shards of model inputs."""
    from qa_fast.builder.job import build

    workers = options.workers or processors()
    limit_rust_threads(workers)
    few_arenas(workers)
    if options.engine == RAY:
        hush_native_notes()
    with nullcontext(Reporter()) if quiet or as_json else showing("examples") as report:
        result = build(source, out, model, config, options, report)
    if as_json:
        typer.echo(json.dumps(summary(result)))
    elif not quiet:
        _print_table(result)


def limit_rust_threads(workers: int) -> None:
    """Set the number of threads of the tokenizers library, which reads it from the environment at its first use."""
    os.environ.setdefault("RAYON_NUM_THREADS", str(workers))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if workers > 1 else "false")


def summary(result: BuildResult) -> dict[str, Any]:
    """Return the results for scripts: counts by split, times, rates and the folder."""
    splits = {}
    for name, facts in result.manifest["splits"].items():
        padded = facts["features"] * result.manifest["config"]["max_length"]
        splits[name] = {
            **{count: facts[count] for count in _COUNTS},
            **{count: facts.get(count, 0) for count in ("unplaced", "unanswerable", "misplaced", "unknown_tokens")},
            "repairs": facts.get("repairs", {}),
            "padding_avoided": round(1 - facts["tokens"] / padded, 4) if padded else 0.0,
            "label_differences": facts["differences"],
        }
    examples = sum(split["examples"] for split in splits.values())
    return {
        "out": without_secrets(str(result.out)),
        "up_to_date": result.up_to_date,
        "seconds": round(result.seconds, 3),
        "fetch_seconds": round(result.fetch_seconds, 3),
        "compile_seconds": round(result.compile_seconds, 3),
        "featurize_seconds": round(result.featurize_seconds, 3),
        "examples_per_second": None if result.up_to_date else round(examples / result.featurize_seconds),
        "stage_seconds": {stage: round(seconds, 4) for stage, seconds in result.stage_seconds.items()},
        "splits": splits,
    }


def _print_table(result: BuildResult) -> None:
    """Print a short table of the results."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    outcome = summary(result)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for split in outcome["splits"]:
        table.add_column(Text(split), justify="right")
    for row in _COUNTS:
        table.add_row(_WORDS.get(row, row), *(f"{split[row]:,}" for split in outcome["splits"].values()))
    table.add_row("padding avoided", *(f"{split['padding_avoided']:.1%}" for split in outcome["splits"].values()))
    console = Console(highlight=False)
    console.print(table)
    state = "already there"
    if not result.up_to_date:
        state = (
            f"{result.seconds:.2f} s: fetching {result.fetch_seconds:.2f}, "
            f"loading kernels {result.compile_seconds:.2f}, featurizing {result.featurize_seconds:.2f} "
            f"({outcome['examples_per_second']:,} examples/s)"
        )
    console.print(f"{without_secrets(str(result.out))}: {state}", markup=False, soft_wrap=True)
