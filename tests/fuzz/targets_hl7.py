"""HL7 v2 and V3: frames, messages, what the transactions read of them, and that every answer is a message itself."""

import itertools
from pathlib import Path
from typing import Any

from broker.app import whole as broker_app
from broker.config import profile as profiles
from broker.config.settings import Settings
from broker.db import schema as database_schema
from broker.edge.mllp.server import MllpServer
from broker.edge.soap import schema
from broker.model.caller import AuditFacts
from broker.model.errors import BrokerError, Rejected
from broker.model.ids import PatientId
from broker.model.message_id import MessageId
from broker.model.transaction import Transaction
from broker.patients import iti8_feed, iti9_query, iti44_feed, iti45_query
from broker.wire import hl7v3
from broker.wire.hl7v2 import Deframer, Message, parse, parse_header, write_ack, write_broken
from broker.wire.hl7v2_pix import read_pix_answer, write_pix_reply
from broker.wire.soap import SoapReply, SoapRequest
from broker.wire.xml import local_name
from broker.wire.xml import parse as parse_xml
from tests.fuzz.columns import misfits
from tests.fuzz.harness import Reader, Target
from tests.fuzz.targets_soap import XML_WORDS, cut

_LIMIT = 1 << 15
_MESSAGE_ID = MessageId("20260301101501+0800", "r1")
OURS = "2.999.1.4"
_IDS = ((PatientId("2.999.1.1", "区^1"), "REGION"), (PatientId("2.999.2.1", "A&1"), ""))
V2_WORDS = (
    b"MSH|^~\\&|", b"\rPID|", b"\rMRG|", b"\rQPD|", b"\rEVN|", b"^^^HOSPA&2.999.2.1&ISO", b"\x1c\r\x0bMSH", b"\x0bMSH",
    b"\\X0D\\", b"\\F\\", b"\\X80\\", b"\\H\\", b"\\.br\\", b"GB 18030-2000", b"UNICODE UTF-8", b"BIG5", b"8859/1", b"ASCII",
    b"2.3.1", b"20260230", b"\n", b"\nPV1|", b"\nABC|", b"\rMSH|^~|", b"\rBHS|", b"\x1c\0\r", b"M\0S\0H\0|\0", b"CP936",
    b'""~', b'^""', b'""', b"ADT^A40", b"QBP^Q23", b"|||||||||", b"~~~~", b"^^^^", b"&&&&",
)


def _frames(pieces: list[bytes]) -> "list[bytes] | BrokerError":
    frames, found = Deframer(_LIMIT), list[bytes]()
    try:
        for piece in pieces:
            frames.feed(piece)
            while (message := frames.take()) is not None:
                found.append(message)
    except BrokerError as error:
        frames.head.decode("latin-1")
        return error
    return found


def _v2(_scratch: Path) -> Reader:
    def read(data: bytes) -> str:
        found = _frames([data])
        cuts = _frames(list(cut(data)))
        if isinstance(found, BrokerError) or isinstance(cuts, BrokerError):
            # how much of a stream is looked at before it is too long depends on its pieces, that it is does not
            raise next(error for error in (found, cuts) if isinstance(error, BrokerError))
        assert found == cuts, "another chunking gives another answer"
        kinds = [_message(message) for message in found or [data]]
        if not any(kinds):
            raise Rejected("100", "no message in it")
        return " ".join(filter(None, kinds))[:200]
    return read


def _message(data: bytes) -> str:
    header = parse_header(data)
    if header is not None:
        parse(write_ack(header, _MESSAGE_ID, Rejected("102", "no", "PID^1^7")))
    try:
        message = parse(data)
    except BrokerError:
        return ""
    for reply in (write_ack(message, _MESSAGE_ID), write_broken(message, _MESSAGE_ID)):
        _check_reply(message, reply)
    row = iti9_query.ROW if message.name == "QBP^Q23" else iti8_feed.ROW if message.msh.get(9, 2) in iti8_feed.KINDS else None
    if row is None:
        return "another message"
    try:
        row.read(message, AuditFacts())
    except BrokerError as error:
        _check_reply(message, row.refuse(message, error))
        return f"{row.code} {error.problems[0].code if isinstance(error, Rejected) else 'large'}"
    if row is iti9_query.ROW:
        reply = write_pix_reply(message, _MESSAGE_ID, _IDS)
        _check_reply(message, reply)
        assert read_pix_answer(parse(reply)) == tuple(patient for patient, _ in _IDS), "the ids do not come back"
    return row.code


def _check_reply(message: Message, reply: bytes) -> None:
    answer = parse(reply)
    assert answer.need("MSA").get(2) == message.control_id, "the reply names another control id"
    assert answer.msh.field(12).startswith("2."), "the reply has no version"    # as it stands: a dot may be a delimiter


def _mllp(scratch: Path) -> Reader:
    """The server's answers, with a PIX manager and its store behind it. `@N@` in an input is a fresh number."""
    settings = Settings(data=scratch / "data")
    settings.data.mkdir()
    centre = broker_app.App(settings, profiles.load("demo"))
    database_schema.upgrade(centre.database)
    rows = [served for served in centre.served if served.row.endpoint == "mllp"]
    server = MllpServer(rows, centre.gate, settings, ("BROKER", "REGION"))
    count = itertools.count(1)

    def read(data: bytes) -> str:
        number = next(count)
        if number % 500 == 0:
            for file in settings.audit_folder.glob("*"):
                with file.open("r+b") as trail:
                    trail.truncate(0)
        reply = server.answer(data.replace(b"@N@", b"%d" % number), "10.0.0.7")
        if number % 25 == 0:
            assert not misfits(centre.database)
        if not reply:
            return "an acknowledgement"
        answer = parse(reply)
        codes = [segment.get(3) or segment.get(1, 4) for segment in answer.all("ERR")]
        return f"{answer.msh.get(9)} {answer.need('MSA').get(1)} {codes[:2]}"
    return read


def _v3(_scratch: Path) -> Reader:
    """Where a request is valid by its schema its answer must be, too."""
    rows = {local_name(parse_xml(f"<a:{name} xmlns:a='urn:hl7-org:v3'/>".encode())): row for row, names in (
        (iti44_feed.row(OURS), iti44_feed.KINDS), (iti45_query.row(OURS), (hl7v3.QUERY,))) for name in names}

    def read(data: bytes) -> str:
        body = parse_xml(data)
        name = local_name(body)
        if name == hl7v3.ANSWER:
            return f"{len(hl7v3.read_pix_answer(body))} ids"
        if name == hl7v3.ACK:
            hl7v3.read_ack(body)
            return "ack"
        row = rows.get(name)
        if row is None:
            raise Rejected("200", "another message")
        return f"{name} {_v3_request(row, SoapRequest(body=body, message=row.messages[0]))}"
    return read


def _v3_request(row: Transaction[Any, SoapRequest, Any, Any, SoapReply], request: SoapRequest) -> str:
    try:
        schema.check(row.schema, request.body)
        valid = ""
    except Rejected as error:
        valid = error.problems[0].context[:60]
    replies = [row.refuse(request, error) for error in (Rejected("204", "unknown", "/x[1]"), Rejected("101", "<&>\u533a"))]
    try:
        found = row.read(request, AuditFacts())
        if row.code == "ITI-45":
            replies.append(row.write(found, _IDS))
        else:
            replies.append(row.write(found, None))
        outcome = "read"
    except BrokerError as error:
        replies.append(row.refuse(request, error))
        outcome = str(error)[:60]
    for reply in replies:
        answer = parse_xml(b"".join(reply.fragments))
        if not valid:
            schema.check(row.schema, answer)
    if valid:
        raise Rejected("SchemaInvalid", valid)
    return outcome


TARGETS = (
    Target(name="hl7v2", make=_v2, golden=("hl7v2",), words=V2_WORDS, slope=1e-5),
    Target(name="mllp", make=_mllp, golden=("mllp",), words=V2_WORDS, slope=2e-5),
    Target(name="hl7v3", make=_v3, golden=("hl7v3",), words=XML_WORDS),
)
