"""What a server accepts, and who may listen to it: every bound in one place."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass

from qa_fast.errors import UserError

KEY_VARIABLE = "QA_FAST_API_KEY"
_POSITIVE = (
    *("body_bytes", "characters", "questions", "waiting", "batch_tokens", "turn_tokens", "ahead_tokens", "connections"),
    *("seconds", "header_seconds", "body_seconds", "keep_alive_seconds"),
)


@dataclass(frozen=True)
class Limits:
    """Bounds of a server; each turns into a clear refusal, never into a crash or a growing memory.

    Attributes:
        body_bytes: Largest request body.
        characters: Most characters of questions and documents in one request.
        questions: Most questions in one request.
        top_k: Most answers that may be asked for.
        windows: Most windows that one document may be cut into; small windows with a large overlap make many.
        waiting: Most requests that wait, from their arrival until they are being answered; one more is told to come
            back.
        seconds: Longest time from a request's arrival to its answer.
        header_seconds: Longest time from a connection's opening, or a request's first byte, to the end of its headers.
        body_seconds: Longest time that a request's body may take to arrive.
        keep_alive_seconds: How long a connection is kept between two requests.
        connections: Most connections at a time; one more gets status 503.
        window_ms: How long the first of some requests waits for others to be answered together with, where the engine
            gains from that.
        batch_questions: Most questions answered together.
        batch_tokens: Most tokens of windows answered together, padding not counted.
        turn_tokens: Tokens of windows of one request that are computed before others have their turn.
        ahead_tokens: Tokens of windows that wait for the model, at which no more requests are cut; small windows with a
            large overlap make many of a short text.
        cache_bytes: Memory for the tokens of documents that were asked about before.
    """

    body_bytes: int = 4 * 1024 * 1024
    characters: int = 500_000
    questions: int = 64
    top_k: int = 100
    windows: int = 1024
    waiting: int = 256
    seconds: float = 60.0
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    keep_alive_seconds: float = 15.0
    connections: int = 512
    window_ms: float = 4.0
    batch_questions: int = 64
    batch_tokens: int = 16_384
    turn_tokens: int = 4096
    ahead_tokens: int = 1 << 20
    cache_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:  # NaN, too, is not
                value = getattr(self, name)
                raise UserError(f"{name} must be more than 0 and finite; received {name}={value}: give another")
        if self.window_ms < 0:
            raise UserError(f"window_ms must not be negative; received window_ms={self.window_ms}: 0 waits for nobody")


def check_listener(host: str, api_key: str | None) -> None:
    """Hold that a server without a key listens on this machine alone.

    Args:
        host: Address or name to listen on.
        api_key: The key that requests must bring, or None.

    Raises:
        UserError: The host can be reached from elsewhere and no key is set, or the key is empty or not plain ASCII.
    """
    if api_key is None:
        if not is_loopback(host):
            raise UserError(
                f"a server without an API key may listen on this machine alone; received --host {host}: set "
                f"{KEY_VARIABLE} (or --api-key), or leave --host out"
            )
    elif not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise UserError(
            "an API key must be printable ASCII without spaces; received one that is empty or holds others: make one "
            'with python -c "import secrets; print(secrets.token_urlsafe())"'
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host; names other than localhost count as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
