"""A plain MLLP client, so that tests do not talk to our server with our own codec."""

import socket

from tests.helpers.waiting import PATIENCE


def send(port: int, message: str, encoding: str = "gb18030") -> list[list[str]]:
    """Send one message (segments separated by line ends) and return the answer as fields per segment."""
    data = b"\x0b" + message.strip().replace("\n", "\r").encode(encoding) + b"\r\x1c\r"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(data)
        answer = b""
        while not answer.endswith(b"\x1c\r"):
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
    return [line.split("|") for line in answer[1:-2].decode(encoding).split("\r") if line]


def codes(answer: list[list[str]]) -> list[str]:
    """Return the codes of table 0357 in an answer: of ERR-3 (HL7 v2.5 2.15.5.3), in ERR-1 before version 2.5 (v2.4 2.16.5.1)."""
    errors = [fields for fields in answer if fields[0] == "ERR"]
    if segment(answer, "MSH")[11] >= "2.5":
        return [fields[3].split("^")[0] for fields in errors]
    return [error.split("^")[3].split("&")[0] for fields in errors for error in fields[1].split("~")]


def segment(answer: list[list[str]], name: str) -> list[str]:
    """Return the first segment with this name."""
    return next(fields for fields in answer if fields[0] == name)
