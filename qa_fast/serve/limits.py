"""The limits of a server, each declared here once, and the rule for who may connect to it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import partial

from qa_fast.errors import UserError
from qa_fast.options import check_values, option

KEY_VARIABLE = "QA_FAST_API_KEY"
# Largest size of a request's line and headers together, in bytes.
HEADER_BYTES = 16 * 1024
_DAY = 86_400
_limit = partial(option, group="Limits")
_count = partial(_limit, command=False, least=1)
_time = partial(_limit, command=False, above=0, most=_DAY)


@dataclass(frozen=True)
class Limits:
    """Limits of a server. A request beyond one is refused with a clear message; memory stays bounded.

    Each field declares its meaning and bounds; see `qa_fast.options`. The command line has those that a user may want
    to change.

    Raises:
        UserError: A value is out of bounds.
    """

    seconds: float = _time(
        60.0, "Longest time in seconds from a request's arrival to its answer.", flag="--time-limit", command=True
    )
    characters: int = _limit(
        500_000,
        "Largest number of characters of questions and documents in one request.",
        flag="--max-characters",
        least=1,
    )
    waiting: int = _limit(
        256, "Largest number of waiting requests; any further one gets status 429.", flag="--max-waiting", least=1
    )
    connections: int = _limit(
        512, "Largest number of open connections; any further one gets status 503.", flag="--max-connections", least=1
    )
    window_ms: float = _limit(
        4.0,
        "Time in milliseconds that a request waits for others to be answered together with it. Only the keras engine "
        "uses it.",
        least=0,
        most=1000 * _DAY,
    )
    hosts: str = option(
        "",
        "Host names, separated by commas, at which a server without an API key answers, in addition to localhost and "
        "loopback addresses. Name yours if a proxy passes it on.",
        flag="--allowed-hosts",
        group="Address and access",
    )
    body_bytes: int = _count(4 * 1024 * 1024, "Largest request body in bytes.")
    questions: int = _count(64, "Most questions in one request.")
    top_k: int = _count(100, "Most answers that a request may ask for.")
    windows: int = _count(
        1024, "Most windows that one document may be cut into. Short windows with a large overlap give many."
    )
    header_seconds: float = _time(
        10.0,
        "Longest time in seconds from a connection's opening, or a request's first byte, to the end of its headers.",
    )
    body_seconds: float = _time(30.0, "Longest time in seconds for a request's body to arrive.")
    keep_alive_seconds: float = _time(15.0, "Time in seconds that a connection is kept open between two requests.")
    batch_questions: int = _count(64, "Most questions answered together.")
    batch_tokens: int = _count(16_384, "Most tokens of windows computed together, without padding.")
    turn_tokens: int = _count(
        4096, "Tokens of windows of one request that are computed before other requests have a turn."
    )
    ahead_tokens: int = _count(
        1 << 20,
        "Tokens of windows waiting for the model above which no more requests are cut into windows. Short windows with "
        "a large overlap make many tokens of a short text.",
    )
    cache_bytes: int = _count(
        32 * 1024 * 1024, "Memory in bytes for the tokens of documents that were asked about.", least=0
    )

    def __post_init__(self) -> None:
        check_values(self)

    def serves_host(self, header: str) -> bool:
        """Return whether a request with this Host header may be answered without an API key.

        A page of another site can make its own name resolve to this machine, and then read answers (DNS rebinding). Its
        requests still carry that name.
        """
        name = re.sub(r":\d*$", "", header).strip("[]").lower()
        return is_loopback(name) or name in re.findall(r"[^\s,]+", self.hosts.lower())


def check_listener(host: str, api_key: str | None) -> None:
    """Check that a server without an API key listens on this machine only.

    Args:
        host: Address or name to listen on.
        api_key: The key that requests must send, or None.

    Raises:
        UserError: Other machines can reach the host and no key is set, or the key is empty or not plain ASCII.
    """
    if api_key is None:
        if not is_loopback(host):
            raise UserError(
                f"a server without an API key may listen on this machine only; received --host {host}: set "
                f"{KEY_VARIABLE} (or --api-key), or omit --host"
            )
    elif not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise UserError(
            "an API key must be printable ASCII without spaces; received one that is empty or has other characters: "
            'make one with python -c "import secrets; print(secrets.token_urlsafe())"'
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the host. Names other than localhost count as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
