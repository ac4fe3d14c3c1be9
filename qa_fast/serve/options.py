"""The options of a server besides its limits: where it listens, who may ask, and what it writes to its log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from qa_fast.errors import UserError, shown
from qa_fast.options import check_values, option
from qa_fast.serve.limits import check_listener

LOG_LEVELS = ("debug", "info", "warning", "error")
# Origins as browsers send them: in lower case, without a path, and without the port that the scheme implies.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_IMPLIED_PORT = re.compile(r"http://.*:80|https://.*:443")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_address = partial(option, group="Address and access")
_log = partial(option, group="Log")


@dataclass(frozen=True)
class ServeOptions:
    """The options of a server besides `Limits`. Each field declares its meaning and bounds; see `qa_fast.options`."""

    host: str = _address(
        "127.0.0.1", "Address to listen on. An address that other machines can reach requires an API key."
    )
    port: int = _address(8000, "Port; 0 picks a free one.", least=0, most=65535)
    api_key: str | None = _address(
        None,
        "Key that requests must send as 'Authorization: Bearer KEY'. If you set an environment variable instead, "
        "process lists do not show the key.",
    )
    root_path: str = _address(
        "", "Path at which a proxy shows this server, such as /qa. The proxy may pass this path on or strip it."
    )
    cors_origin: list[str] | None = _address(  # noqa: RUF009
        None, "Origin whose pages may ask from a browser, such as https://app.example.org."
    )
    access_log: bool = _log(
        False, "Write a line for each request to standard error: time, status, milliseconds, tokens, id; never a text."
    )
    log_level: str = _log(
        "info", "Least severity of the server's other messages on standard error.", choices=LOG_LEVELS
    )

    @property
    def origins(self) -> list[str]:
        """The origins of `cors_origin`, each of which may also be several, separated by spaces or commas."""
        return [origin for text in self.cors_origin or () for origin in re.findall(r"[^\s,]+", text)]

    def check(self) -> None:
        """Refuse options that no server can have, and a server that others can reach without a key.

        Raises:
            UserError: A value is not allowed.
        """
        check_values(self)
        check_listener(self.host, self.api_key)
        if not _PATH.fullmatch(self.root_path):
            raise UserError(
                "--root-path must be a path of letters, digits and ._~- that begins with / and does not end with it; "
                f"received {shown(self.root_path)}: give one such as /qa"
            )
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin) or _IMPLIED_PORT.fullmatch(origin):
                raise UserError(
                    "--cors-origin must be an origin as browsers send it: scheme and host in lower case, a port that "
                    f"the scheme does not imply, no path, and no *; received {shown(origin)}: give one such as "
                    "https://app.example.org"
                )
