"""A plain MLLP client, so that tests do not talk to our server with our own codec."""

import socket


def send(port: int, message: str, encoding: str = "gb18030") -> list[list[str]]:
    """Send one message (segments separated by line ends) and give the answer as fields per segment."""
    data = b"\x0b" + message.strip().replace("\n", "\r").encode(encoding) + b"\r\x1c\r"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        answer = b""
        while not answer.endswith(b"\x1c\r"):
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
    return [line.split("|") for line in answer[1:-2].decode(encoding).split("\r") if line]


def segment(answer: list[list[str]], name: str) -> list[str]:
    """Give the first segment with this name."""
    return next(fields for fields in answer if fields[0] == name)
