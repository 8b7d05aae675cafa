"""Reads the HTTP body of a SOAP request: media types, packaging, limits; attachments go to the spool folder."""

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.edge.soap import faults
from broker.edge.soap.faults import SoapFault
from broker.files.sources import CHUNK, Spooled
from broker.files.spool import spool
from broker.model.errors import TooLarge, Unavailable
from broker.wire.mime import (
    SOAP_TYPE,
    XOP_TYPE,
    BadMultipart,
    Multipart,
    content_id,
    content_type_parameters,
    limited,
)

_DECLARED = re.compile(rb"\s*<\?xml[^>]*\sencoding\s*=\s*[\"']([^\"'>]*)")
_ENCODING = re.compile(r"(\s*<\?xml[^>]*?)\sencoding\s*=\s*(?:\"[^\"]*\"|'[^']*')")
_TRANSFER = {"", "7bit", "8bit", "binary"}
# Charsets as senders spell them, in lower case with hyphens. A table: Python knows codecs that are no charsets, or are slow,
# and remembers every name it is asked for.
_CODECS = {
    **dict.fromkeys(("utf-8", "utf8", "us-ascii", "ascii"), ""),
    **dict.fromkeys(("gb18030", "gbk", "gb2312", "cp936"), "gb18030"),
    **dict.fromkeys(("big5", "cp950"), "cp950"),
    **{f"iso-8859-{n}": f"iso8859-{n}" for n in (*range(1, 12), 13, 14, 15, 16)}, "latin1": "iso8859-1",
    **{f"windows-{n}": f"cp{n}" for n in range(1250, 1259)},
    **{name: name for name in ("shift-jis", "euc-jp", "euc-kr", "koi8-r")},
    **dict.fromkeys(("utf-16", "utf16", "utf-16le", "unicode", "ucs-2", "iso-10646-ucs-2", "csunicode"), "utf-16-le"),
    **dict.fromkeys(("utf-16be", "unicodefffe"), "utf-16-be"),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of the envelope and of the whole body, parts of a multipart body: settings of section [server]."""

    max_request: int
    max_body: int
    max_parts: int


@dataclass(slots=True)
class Intake:
    """A request as it is being read: also after an error it names every file that must be dropped."""

    root: bytes = b""
    is_mtom: bool = False
    attachments: dict[str, Spooled] = field(default_factory=dict)
    full: Unavailable | None = None     # the disk took no more: the rest was read and dropped

    def read(self, environ: Mapping[str, Any], limits: Limits, folder: Path | None) -> None:
        """Take the whole body in. `folder` None: this endpoint takes no attachments.

        Raise `SoapFault`, `BadMultipart`, `TooLarge`, or `Unavailable` when the spool folder cannot be written. A full disk
        is no error here: `full` then has the transaction answer in its own words.
        """
        coding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
        if coding not in {"", "identity"}:
            raise SoapFault("Sender", f"content coding {coding[:40]!r} is not taken", status=faults.UNSUPPORTED)
        kind, parameters = content_type_parameters(environ.get("CONTENT_TYPE", ""))
        if kind == SOAP_TYPE:
            body = _body(environ, limits.max_request, "server.max_request")
            self.root = _decoded(b"".join(body), parameters)
        elif kind == "multipart/related" and folder is not None:
            self.is_mtom = True
            self._read_parts(_body(environ, limits.max_body, "server.max_body"), parameters, limits, folder)
        elif kind == "multipart/related":
            raise SoapFault("Sender", "this endpoint takes plain SOAP (application/soap+xml)", status=faults.UNSUPPORTED)
        elif kind == "text/xml":
            raise faults.version_mismatch("SOAP 1.1 is not served; SOAP 1.2 travels as application/soap+xml")
        else:
            raise SoapFault("Sender", f"media type {kind[:80]!r} is not served", status=faults.UNSUPPORTED)

    def _read_parts(self, chunks: Iterable[bytes], parameters: Mapping[str, str], limits: Limits, folder: Path) -> None:
        if parameters.get("type", "").lower() != XOP_TYPE:
            raise SoapFault("Sender", f"multipart/related must have type={XOP_TYPE}", status=faults.UNSUPPORTED)
        start, names, found = content_id(parameters.get("start", "")), set[str](), False
        for headers, body in Multipart(chunks, parameters.get("boundary", ""), limits.max_parts):
            if headers.get("content-transfer-encoding", "").lower() not in _TRANSFER:
                raise BadMultipart("parts must have Content-Transfer-Encoding binary")
            name = content_id(headers.get("content-id", ""))
            if name and name in names:
                raise BadMultipart("a Content-ID is used twice")
            names.add(name)
            if not found and (not start or name == start):
                found = True
                root = b"".join(limited(body, limits.max_request, "server.max_request"))
                self.root = _decoded(root, content_type_parameters(headers.get("content-type", ""))[1])
            elif name:
                self._keep(name, headers.get("content-type", "application/octet-stream"), body, folder)
        if not found:
            raise BadMultipart("there is no root part")

    def _keep(self, name: str, media_type: str, body: Iterable[bytes], folder: Path) -> None:
        if self.full is None:
            try:
                self.attachments[name] = spool(media_type, body, folder)
            except Unavailable as error:
                if not error.full:
                    raise
                self.full = error


def _body(environ: Mapping[str, Any], limit: int, setting: str) -> Iterator[bytes]:
    """Return the body in pieces. Over `limit` it ends with `TooLarge`, before the first byte where a length is announced."""
    text = environ.get("CONTENT_LENGTH")
    # Without a length and without chunks there is no body (RFC 9112 6.3).
    left = int(text) if text else None if environ.get("wsgi.input_terminated") else 0
    if left is not None and left > limit:
        raise TooLarge(f"{setting} = {limit} bytes")
    return limited(_pieces(environ["wsgi.input"], left), limit, setting)


def _pieces(stream: Any, left: int | None) -> Iterator[bytes]:
    while left is None or left > 0:
        try:
            data: bytes = stream.read(CHUNK if left is None else min(CHUNK, left))
        except TimeoutError as error:
            raise SoapFault("Sender", "the request body did not go on in time", status=faults.TIMEOUT) from error
        except OSError as error:
            raise _cut() from error
        if not data:
            if left is not None:
                raise _cut()
            return
        if left is not None:
            left -= len(data)
        yield data


def _cut() -> SoapFault:
    return SoapFault("Sender", "the request body was cut short")


def _decoded(data: bytes, parameters: Mapping[str, str]) -> bytes:
    """Return the document in an encoding its parser finds by itself: the media type's charset decides (RFC 7303 3.2)

    unless the document declares one of its own, which senders get right more often.
    """
    charset = parameters.get("charset", "utf-8")
    said = _CODECS.get(charset.strip().lower().replace("_", "-"))
    if said is None:
        raise SoapFault("Sender", f"charset {charset[:40]!r} is not known", status=faults.UNSUPPORTED)
    codec = _codec(data, said)
    if not codec:
        return data
    try:
        text = data.decode(codec)
    except UnicodeError as error:
        raise SoapFault("Sender", f"the document is not in charset {charset[:40]!r}") from error
    return _ENCODING.sub(r"\1", text.removeprefix("\ufeff"), count=1).encode()


def _codec(data: bytes, said: str) -> str:
    """Return how to decode the document, empty where its parser finds out by itself. `said` is the media type's codec.

    The bytes themselves tell whether it is UTF-16, whatever is said of it (RFC 7303 3.3, XML 1.0 appendix F).
    """
    first = data[:2]
    if first == codecs.BOM_UTF16_LE or first[1:] == b"\0":
        return "utf-16-le"
    if first == codecs.BOM_UTF16_BE or first[:1] == b"\0":
        return "utf-16-be"
    labelled = "" if said.startswith("utf-16") else said
    declared = _DECLARED.match(data[:200].removeprefix(codecs.BOM_UTF8))
    if declared is None:
        return labelled
    # .NET's StringWriter declares UTF-16 in any text.
    return labelled or "utf-8" if declared[1].lower().startswith((b"utf-16", b"unicode")) else ""
