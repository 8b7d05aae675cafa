"""The protocols in which actors hand each other submissions."""

from dataclasses import dataclass
from typing import Protocol

from broker.model.caller import Call
from broker.model.errors import Problem
from broker.wire.ebxml import Submission


class Registrar(Protocol):
    """The registry as a repository sees it (ITI-42)."""

    def register(self, submission: Submission, call: Call) -> tuple[Problem, ...]:
        """Register durably; return the warnings. When it raises, nothing is stored."""
        ...


@dataclass(frozen=True, slots=True)
class Manifest:
    """A KOS to publish: the Part-10 bytes and the metadata of its submission."""

    document: bytes
    submission: Submission


class Outbound(Protocol):
    """Transactions we initiate over SOAP."""

    def provide_and_register(self, manifest: Manifest) -> None:
        """Send RAD-68 to the configured repository; return when it answered Success. Raise `Rejected` or `Unavailable`."""
        ...
