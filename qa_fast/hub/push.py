"""A model folder to a repository on the Hub: looked through first, then uploaded as it was shown.

The plan is made without a network. A push asks the Hub one short question before it does anything, so that a missing
network or a token that does not work is known within seconds rather than after a row of retries.
"""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from qa_fast.errors import UserError
from qa_fast.hub.card import CARD, read_card
from qa_fast.hub.check import Finding, check_card, names_of_this_machine
from qa_fast.hub.facts import write_text
from qa_fast.hub.files import FolderFiles, sort_files
from qa_fast.hub.usage import PLACEHOLDER
from qa_fast.sources.hub import is_offline

_REACH_SECONDS = 5.0
_SHOWN = 5

Say = Callable[[str], None]


@dataclass(frozen=True)
class PushPlan:
    """What a push would do.

    Attributes:
        folder: The model folder.
        repo: "ORG/NAME".
        files: What becomes of each file; the card's size is that of `card`.
        card: The card's text as it would go, the repository's name in it; "" where there is none.
        findings: About the card and the files.
    """

    folder: Path
    repo: str
    files: FolderFiles
    card: str
    findings: list[Finding]

    def check(self) -> None:
        """Refuse what must not go.

        Raises:
            UserError: Naming the files, or what the card lacks.
        """
        must = [finding.text for finding in self.findings if finding.must]
        if must:
            raise UserError("; ".join(must))


@dataclass(frozen=True)
class Pushed:
    """A finished push.

    Attributes:
        url: Of the commit.
        files: How many were sent.
        size: In bytes.
    """

    url: str
    files: int
    size: int


def plan_push(model: str | Path, repo: str, *, leave_out: bool = False) -> PushPlan:
    """Look a model folder through; no network is used and nothing is changed.

    Args:
        model: The model folder.
        repo: "ORG/NAME".
        leave_out: Leave files that must not go where they are, instead of refusing.

    Raises:
        UserError: The folder or the repository's name is not usable, or the card cannot be read.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    folder = Path(model).expanduser()
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"the repository must be named ORG/NAME; received {repo!r}: {error}") from None
    if repo.count("/") != 1:
        raise UserError(f"the repository must be named ORG/NAME, your own name or an organisation's; received {repo!r}")
    files = sort_files(folder)
    if leave_out:
        files = FolderFiles(files.goes, sorted([*files.stays, *files.refused]), {})
    findings = []
    if files.refused:
        findings.append(Finding(True, _refusal(folder, files.refused)))
    text = ""
    if CARD in files.goes:
        card = read_card((folder / CARD).read_text(encoding="utf-8"))
        text = named(card, repo)
        findings += check_card(card)
        files.goes[CARD] = len(text.encode())
    else:
        findings.append(Finding(True, f"a model must have a card; {folder / CARD} is not there: write one"))
    told = names_of_this_machine(folder, list(files.goes))
    if told:
        findings.append(Finding(False, f"{', '.join(told)}: holds the path of your home folder"))
    return PushPlan(folder, repo, files, text, findings)


def _refusal(folder: Path, refused: dict[str, str]) -> str:
    shown = [f"{name} ({why})" for name, why in list(refused.items())[:_SHOWN]]
    more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    return (
        f"a folder to push must hold a model alone; {folder} holds {', '.join(shown)}{more}: move them away, or push "
        "without them by --leave-out"
    )


def named(card: ModelCard, repo: str) -> str:
    """A card's text with the repository's name where it was left open."""
    if PLACEHOLDER not in card.text:
        return str(card)
    if card.data.get("eval_results"):
        card.data["model_name"] = repo.split("/")[1]
    card.text = card.text.replace(PLACEHOLDER, repo)
    return str(card)


def push(plan: PushPlan, *, private: bool = False, revision: str | None = None) -> Pushed:
    """Upload what a plan lists, in one go; makes the repository if need be.

    The repository's name is written into the folder's card, too.

    Args:
        plan: What `plan_push` gave.
        private: Make the repository private.
        revision: Branch to upload to, made where it is missing; the default one if None.

    Raises:
        UserError: The plan must not go, there is no token or no network, or the Hub refuses.
    """
    from huggingface_hub import HfApi, get_token

    plan.check()
    if is_offline():
        raise UserError("pushing needs the Hub, and HF_HUB_OFFLINE is set: unset it, or look with --dry-run")
    token = get_token()
    api = HfApi(token=token, library_name="qa-fast")
    if not token:
        raise UserError(
            "pushing needs a token of the Hub with write access, and there is none: log in with `hf auth login`, or "
            f"set HF_TOKEN (made at {api.endpoint}/settings/tokens)"
        )
    _reach(api, token)
    try:
        _make_repository(api, plan.repo, private, revision)
        if (plan.folder / CARD).read_text(encoding="utf-8") != plan.card:
            write_text(plan.folder / CARD, plan.card)
        commit = api.upload_folder(
            repo_id=plan.repo,
            folder_path=plan.folder,
            revision=revision,
            allow_patterns=[glob.escape(name) for name in plan.files.goes],
            commit_message="Upload a question-answering model with qa-fast",
        )
    except UserError:
        raise
    except Exception as error:  # of the HTTP library, the Hub's own, Xet's
        raise _refused(error, plan.repo, token) from None
    return Pushed(str(commit.commit_url), len(plan.files.goes), sum(plan.files.goes.values()))


def _reach(api: Any, token: str) -> None:
    """One question, without retries: is the Hub there, and does it know the token?"""
    from huggingface_hub.utils import build_hf_headers, get_session

    url = f"{api.endpoint}/api/whoami-v2"
    try:
        status = get_session().get(url, headers=build_hf_headers(token=token), timeout=_REACH_SECONDS).status_code
    except Exception as error:  # no route, no name, no time
        raise UserError(
            f"pushing needs the Hub; {api.endpoint} does not answer ({_told(error, token)}): check the network and "
            "HF_ENDPOINT, then log in with `hf auth login` if you have not yet; --dry-run works without"
        ) from None
    if status in (401, 403):
        raise UserError(
            f"pushing needs a token that the Hub accepts; {api.endpoint} refused yours ({status}): log in again with "
            "`hf auth login --force`, or set HF_TOKEN"
        )
    if status >= 500:
        raise UserError(f"pushing needs the Hub; {api.endpoint} answered {status}: try again later")


def _make_repository(api: Any, repo: str, private: bool, revision: str | None) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        about = api.model_info(repo, timeout=_REACH_SECONDS)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private or None)
    else:
        if private and not about.private:
            raise UserError(
                f"--private needs a new or a private repository; {repo} is there and public: make it private in its "
                "settings, or choose another name"
            )
    if revision is not None and revision != "main" and not revision.startswith("refs/"):
        api.create_branch(repo, branch=revision, exist_ok=True)


def _refused(error: Exception, repo: str, token: str) -> UserError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    what = "check that your token may write to it (`hf auth whoami`)" if status in (401, 403, 404) else "try again"
    return UserError(f"the Hub must take the upload to {repo}; it did not ({_told(error, token)}): {what}")


def _told(error: Exception, token: str) -> str:
    """The first lines of what an error says, in which no token stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (" ".join(lines[:3]) or type(error).__name__).replace(token, "***")
