"""What a REST transaction's row reads and writes, and how its messages name method and path."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.model.transaction import Message

# Key of the peer's `Certificate` in a WSGI environment; absent where it showed none.
PEER_CERTIFICATE = "broker.peer_certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestRequest:
    """A request whose media types were found good.

    `line` is its first line as it came, without the version. `base` is the public address of the endpoint it came to,
    `arguments` what its path says, `query` its parameters in order, those of a posted form behind those of the address.
    `headers` have names in lower case. `body_format` and `answer_format` are names of the endpoint's own for media types;
    the first one is empty where there is no body.
    """

    line: str
    base: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    body_format: str = ""
    answer_format: str = ""

    def values(self, name: str) -> tuple[str, ...]:
        """Return the values of a parameter, in order."""
        return tuple(value for one, value in self.query if one == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestReply:
    """A reply: status, media type (empty: there is no body), body, further headers."""

    status: int
    media_type: str = ""
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def method_and_path(message: Message) -> tuple[str, str]:
    """Return the method and the path below the row's endpoint of a message named `GET /Patient/<id>`."""
    method, _, path = message.name.partition(" ")
    return method, path
