"""`qa-fast push`: uploads a model folder to a repository on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qa_fast.cli.extras import print_json

if TYPE_CHECKING:
    from qa_fast.hub.push import PushPlan


def push(
    model: Annotated[Path, typer.Argument(help="Model folder that 'qa-fast train' made.")],
    repo: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="Repository on the Hub; created if it does not exist.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch to push to; created if it does not exist.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the files and the card without uploading; needs no network and changes nothing."
        ),
    ] = False,
    leave_out: Annotated[
        bool,
        typer.Option("--leave-out", help="Leave out files that must not be uploaded; without it they stop the push."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on standard output.")] = False,
) -> None:
    """Upload a model and its card to the Hub.

    Log in with 'hf auth login' first.
    """
    from qa_fast.hub.push import plan_push
    from qa_fast.hub.push import push as run

    plan = plan_push(model, repo, leave_out=leave_out)
    if dry_run:
        print_json(_summary(plan)) if as_json else typer.echo(_plan_text(plan))
        plan.check()
        return
    for finding in plan.findings:
        if not finding.must:
            typer.echo(f"warning: {finding.text}", err=True)
    done = run(plan, private=private, revision=revision)
    if as_json:
        print_json({**_summary(plan), "url": done.url})
    else:
        from rich.filesize import decimal

        typer.echo(f"{done.url}: {done.files} files, {decimal(done.size)}")


def _summary(plan: PushPlan) -> dict[str, object]:
    return {
        "repo": plan.repo,
        "files": plan.files.uploaded,
        "stays": plan.files.stays,
        "refused": plan.files.refused,
        "problems": [finding.text for finding in plan.findings if finding.must],
        "warnings": [finding.text for finding in plan.findings if not finding.must],
        "card": plan.card,
    }


def _plan_text(plan: PushPlan) -> str:
    """Return the plan as text: files, problems, then the card."""
    from rich.filesize import decimal

    lines = [f"to {plan.repo}, {decimal(sum(plan.files.uploaded.values()))}:"]
    lines += [f"  {decimal(size):>10}  {name}" for name, size in plan.files.uploaded.items()]
    lines += [f"  {'stays':>10}  {name}" for name in plan.files.stays]
    lines += [f"  {'refused':>10}  {name}: {reason}" for name, reason in plan.files.refused.items()]
    lines += [f"{'error' if finding.must else 'warning'}: {finding.text}" for finding in plan.findings]
    if plan.card:
        lines += ["", f"{'-' * 8} the card {'-' * 8}", plan.card]
    return "\n".join(lines)
