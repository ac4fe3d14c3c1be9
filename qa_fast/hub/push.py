"""Uploads a model folder to a repository on the Hub, exactly as listed by a plan that is made first.

The plan is made without a network. A push starts with one short request without retries, so that a missing network or
an invalid token is reported within seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from qa_fast.errors import UserError, some_of
from qa_fast.hub.card import CARD, card_of, read_card
from qa_fast.hub.check import Finding, check_card, files_with_home_path
from qa_fast.hub.facts import check_records
from qa_fast.hub.files import FolderFiles, sort_files
from qa_fast.hub.sections import PLACEHOLDER
from qa_fast.model.folder import readable_config
from qa_fast.sources.hub import is_offline
from qa_fast.store import local_path

_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class PushPlan:
    """The plan of a push.

    Attributes:
        folder: The model folder.
        repo: "ORG/NAME".
        files: What happens to each file; the card's size is that of `card`.
        card: Text of the card to upload, with the repository's name in it; "" without a card.
        findings: Problems of the card and the files.
    """

    folder: Path
    repo: str
    files: FolderFiles
    card: str
    findings: list[Finding]

    def check(self) -> None:
        """Refuse a plan with problems that must be solved.

        Raises:
            UserError: The message names the problems.
        """
        problems = [finding.text for finding in self.findings if finding.must]
        if problems:
            raise UserError("; ".join(problems))


@dataclass(frozen=True)
class Pushed:
    """A finished push.

    Attributes:
        url: Address of the commit.
        files: Number of uploaded files.
        size: Their size in bytes.
    """

    url: str
    files: int
    size: int


def plan_push(model: str | Path, repo: str, *, leave_out: bool = False) -> PushPlan:
    """Plan a push, without a network and without changes.

    Args:
        model: The model folder.
        repo: "ORG/NAME".
        leave_out: Leave out files that must not be uploaded, instead of refusing the push.

    Raises:
        UserError: The folder or the repository's name is not valid, or the card cannot be read.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    folder = local_path(str(model))
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"the repository must be named ORG/NAME; received {repo!r}: {error}") from None
    if repo.count("/") != 1:
        raise UserError(f"the repository must be named ORG/NAME (ORG is a user or an organization); received {repo!r}")
    files = sort_files(folder)
    if leave_out:
        files = FolderFiles(files.uploaded, sorted([*files.stays, *files.refused]), {})
    findings = []
    if files.refused:
        findings.append(Finding(True, _refusal(folder, files.refused)))
    text = ""
    if CARD in files.uploaded:
        written = card_of(folder / CARD)
        card = read_card(written)
        text = _with_repository(card, repo) if PLACEHOLDER in card.text else written
        findings += check_card(card)
        files.uploaded[CARD] = len(text.encode())
    else:
        findings.append(Finding(True, f"a model must have a card; {folder / CARD} does not exist: write one"))
    # Who downloads the model reads with its configuration, and trusts its records.
    for check in (readable_config, check_records):
        try:
            check(folder)
        except UserError as error:
            findings.append(Finding(True, str(error)))
    named = files_with_home_path(folder, files.uploaded)
    if named:
        findings.append(Finding(False, f"{', '.join(named)}: contains the path of your home folder"))
    return PushPlan(folder, repo, files, text, findings)


def _refusal(folder: Path, refused: dict[str, str]) -> str:
    named = some_of([f"{name} ({reason})" for name, reason in refused.items()])
    return (
        f"a folder to push must hold only a model; {folder} also holds {named}: move them away, or push with "
        "--leave-out"
    )


def _with_repository(card: ModelCard, repo: str) -> str:
    """Return the text of a card with the repository's name instead of the placeholder."""
    if card.data.get("eval_results"):
        card.data["model_name"] = repo.split("/")[1]
    card.text = card.text.replace(PLACEHOLDER, repo)
    return str(card)


def push(plan: PushPlan, *, private: bool = False, revision: str | None = None) -> Pushed:
    """Upload what a plan lists in one commit, and create the repository if it does not exist.

    The folder is not changed: its card keeps the place for the repository's name, so that it can go to another one.

    Args:
        plan: From `plan_push`.
        private: Create a private repository.
        revision: Branch to upload to, which is created if it does not exist; None means the default branch.

    Raises:
        UserError: The plan has problems, there is no token or no network, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    plan.check()
    if is_offline():
        raise UserError("pushing needs the Hub, but HF_HUB_OFFLINE is set: unset it, or use --dry-run")
    token = get_token()
    api = HfApi(token=token, library_name="qa-fast")
    if not token:
        raise UserError(
            "pushing needs a Hub token with write access; received none: log in with `hf auth login`, or set HF_TOKEN "
            f"(create one at {api.endpoint}/settings/tokens)"
        )
    _check_access(api, token)
    try:
        _make_repository(api, plan.repo, private, revision)
        # Not `upload_folder`, which may make several commits, so that a model would be incomplete if it is interrupted.
        added = [
            CommitOperationAdd(name, plan.card.encode() if name == CARD else plan.folder / name)
            for name in plan.files.uploaded
        ]
        message = "Upload a question-answering model with qa-fast"
        commit = api.create_commit(plan.repo, added, commit_message=message, revision=revision)
    except UserError:
        raise
    except Exception as error:  # errors of the HTTP library, of the Hub's library or of Xet
        raise _upload_error(error, plan.repo, token) from None
    return Pushed(str(commit.commit_url), len(plan.files.uploaded), sum(plan.files.uploaded.values()))


def _check_access(api: Any, token: str) -> None:
    """Check by one request without retries that the Hub answers and accepts the token."""
    from huggingface_hub.utils import build_hf_headers, get_session

    url = f"{api.endpoint}/api/whoami-v2"
    try:
        status = get_session().get(url, headers=build_hf_headers(token=token), timeout=_TIMEOUT_SECONDS).status_code
    except Exception as error:  # no route, no such host, or a timeout
        raise UserError(
            f"pushing needs the Hub; {api.endpoint} does not answer ({_error_text(error, token)}): check the network "
            "and HF_ENDPOINT, and log in with `hf auth login`; --dry-run works without a network"
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
        existing = api.model_info(repo, timeout=_TIMEOUT_SECONDS)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private or None)
    else:
        if private and not existing.private:
            raise UserError(
                f"--private needs a new or a private repository; {repo} exists and is public: make it private in its "
                "settings, or choose another name"
            )
    if revision is not None and revision != "main" and not revision.startswith("refs/"):
        api.create_branch(repo, branch=revision, exist_ok=True)


def _upload_error(error: Exception, repo: str, token: str) -> UserError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    advice = "check that your token may write to it (`hf auth whoami`)" if status in (401, 403, 404) else "try again"
    return UserError(f"the Hub refused the upload to {repo} ({_error_text(error, token)}): {advice}")


def _error_text(error: Exception, token: str) -> str:
    """Return the first lines of an error without the token."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (" ".join(lines[:3]) or type(error).__name__).replace(token, "***")
