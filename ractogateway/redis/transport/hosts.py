"""URLs that name several hosts: ``scheme://user:password@h1:1,h2,[::1]:3/path?option=value``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from ractogateway.errors import InvalidValueError

_MAX_PORT = 65_535


class Host(NamedTuple):
    """Where a server listens. An IPv6 address stands without brackets."""

    name: str
    port: int

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True)
class HostsUrl:
    """The parts of such a URL. ``scheme`` is that of the single servers behind it: ``redis`` or ``rediss``."""

    scheme: str
    credentials: str
    hosts: tuple[Host, ...]
    path: tuple[str, ...]
    query: str

    @classmethod
    def parse(cls, url: str, default_port: int) -> HostsUrl:
        """Take a URL apart. urllib does not know lists of hosts, and newer releases of it refuse some of them.

        Raises:
            InvalidValueError: it names no host, or a port is no port. The URL is not shown.
        """
        scheme, _, rest = url.partition("://")
        rest, _, _fragment = rest.partition("#")
        rest, _, query = rest.partition("?")
        authority, _, path = rest.partition("/")
        credentials, _, names = authority.rpartition("@")
        hosts = tuple(dict.fromkeys(_parse_host(name, default_port) for name in names.split(",")))
        segments = tuple(unquote(segment) for segment in path.rstrip("/").split("/")) if path.strip("/") else ()
        return cls(scheme.lower().partition("+")[0], credentials, hosts, segments, query)

    def option(self, name: str) -> str | None:
        """The value of a query option; None without one."""
        return dict(parse_qsl(self.query)).get(name)

    def of_server(self, host: Host, *, database: str = "0") -> str:
        """The URL by which redis-py reaches one of the servers."""
        return self._single(self.credentials, host, database, self._options_without("sentinel_"))

    def of_sentinel(self, host: Host, credentials: str) -> str:
        """The URL by which redis-py reaches a Sentinel: it has no databases, and not every release takes names."""
        return self._single(credentials, host, "0", self._options_without("sentinel_", "db", "client_name"))

    def _single(self, credentials: str, host: Host, database: str, options: str) -> str:
        at = "@" if credentials else ""
        return f"{self.scheme}://{credentials}{at}{host}/{database}?{options}"

    def _options_without(self, *prefixes: str) -> str:
        # As they were written: decoding and encoding them again would be one step more than redis-py expects.
        return "&".join(option for option in self.query.split("&") if not option.startswith(prefixes))


def _parse_host(text: str, default_port: int) -> Host:
    name, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        name, port = text, str(default_port)
    elif not port:
        port = str(default_port)
    bracketed = name.startswith("[") and name.endswith("]")
    name = unquote(name[1:-1] if bracketed else name)
    if not name or ("[" in name or "]" in name) or (":" in name and not bracketed):
        raise InvalidValueError("url must name its hosts as host or host:port, separated by commas, IPv6 in brackets")
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= _MAX_PORT):
        raise InvalidValueError("url has a port that is not between 1 and 65535")
    return Host(name, int(port))
