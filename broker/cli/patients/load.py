"""`broker patients load`: feeds of a file, as if their senders had sent them by MLLP."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from broker.app import patients
from broker.app.core import Core
from broker.cli import _config, _log, _progress
from broker.cli._config import AsJson, ConfigFile
from broker.config.profile import Profile
from broker.config.settings import Settings
from broker.edge.mllp.server import MllpServer
from broker.model.errors import TooLarge
from broker.wire.hl7v2 import Message, parse
from broker.wire.hl7v2_batch import messages

_ADDRESS = "127.0.0.1"      # whom the audit names as the sender's machine


@dataclass(frozen=True, slots=True)
class _Answered:
    """What became of a message: its number in the file, its control id, MSA-1, and why it was refused."""

    number: int
    control_id: str
    code: str
    text: str


def load(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a batch file, or messages one after the other")],
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Feed the patient index from a file of HL7 v2 messages: a batch (FHS, BHS) or one message after the other.

    Each is judged, carried out and audited as if its sender had sent it by MLLP; one that is refused stops no other. A file may
    be loaded again: what is known already changes nothing. Exit status 1 when any was refused, 2 when the file holds none.
    """
    settings, profile = _config.load(config)
    _log.configure("patients")
    counted: Counter[bool] = Counter()
    with (
        file.open("rb") as stream, closing(Core(settings, profile)) as core,
        _progress.transfer("feeding", Console(stderr=True), quiet=as_json) as told,
    ):
        for one in _loaded(messages(stream, settings.server.max_message), _door(core, settings, profile)):
            told(stream.tell(), file.stat().st_size)
            counted[one.code == "AA"] += 1
            if one.code != "AA":
                typer.echo(json.dumps(asdict(one), ensure_ascii=False) if as_json else _line(one))
    if as_json:
        typer.echo(json.dumps({"accepted": counted[True], "refused": counted[False]}))
    else:
        typer.echo(f"{counted.total()} messages: {counted[True]} accepted, {counted[False]} refused")
    if not counted:
        typer.echo(f"broker: {file} holds no HL7 v2 message", err=True)
        raise typer.Exit(2)
    raise typer.Exit(1 if counted[False] else 0)


def _door(core: Core, settings: Settings, profile: Profile) -> MllpServer:
    """Return the MLLP door, which listens to nobody: it answers what it is given."""
    served = patients.served_by_mllp(core, patients.pix_manager(core))
    node = profile.region.application, profile.region.facility
    return MllpServer(served, core.gate, settings, node)


def _loaded(found: Iterable[bytes | TooLarge], door: MllpServer) -> Iterator[_Answered]:
    for number, message in enumerate(found, 1):
        if isinstance(message, TooLarge):
            yield _Answered(number, "", "AR", str(message))
        elif answer := door.answer(message, _ADDRESS):
            yield _answered(number, parse(answer))
        else:
            yield _Answered(number, "", "AR", "an acknowledgement is no feed")


def _answered(number: int, answer: Message) -> _Answered:
    msa = answer.need("MSA")
    told = msa.get(3) or next((error.get(8) for error in answer.all("ERR")), "")     # MSA-3 is withdrawn in 2.7
    return _Answered(number, msa.get(2), msa.get(1), told)


def _line(one: _Answered) -> str:
    return f"message {one.number} ({one.control_id or 'no control id'}): {one.code} {one.text}"
