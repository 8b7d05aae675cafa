"""Golden DICOM data sets, manifests, P-DATA streams and associations; containers; announcements."""

import io
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from broker.archive.formats.sdicom import read_index
from broker.archive.formats.sequencefile import Writer
from broker.edge.dimse import pdata
from broker.edge.dimse.pdata import write_command, write_data_set
from broker.files.sources import Octets
from broker.wire import tags
from tests.fuzz.golden.origin import HAND, OURS, Files
from tests.helpers import archive
from tests.helpers.dicom import CT, ct_dataset
from tests.helpers.manifests import kos, study
from tests.helpers.ports import free_port

PYDICOM = "written by pydicom"
RELEASE = b"\5\0\0\0\0\4\0\0\0\0"


def _data_sets() -> dict[str, tuple[int, Dataset]]:
    """Return data sets with the way they are written: 0 explicit, 1 implicit, 2 big endian, 3 deflated (by the reader)."""
    utf8, gb = (ct_dataset("2.25.1", "2.25.1.1", "2.25.1.1.1", size=2, charset=charset) for charset in ("ISO_IR 192", "GB18030"))
    plain = Dataset()
    plain.SOPClassUID, plain.SOPInstanceUID, plain.StudyInstanceUID, plain.SeriesInstanceUID = (
        CT, "2.25.1.1.1", "2.25.1", "2.25.1.1")
    plain.PatientName, plain.PatientID = "YE^XIAODONG", "A-1"
    inner = Dataset()
    inner.CodeValue, inner.ConceptCodeSequence = "1", [Dataset(), Dataset()]
    nested = ct_dataset("2.25.1", "2.25.1.1", "2.25.1.1.1", size=2, charset="ISO_IR 192")
    nested.ProcedureCodeSequence = [inner, inner]
    nested.ReferencedStudySequence = []
    for element in nested.iterall():
        element.is_undefined_length = element.VR == "SQ"
    return {"utf8": (0, utf8), "gb18030-implicit": (1, gb), "big-endian": (2, utf8), "sequences": (0, nested),
            "sequences-implicit": (1, nested), "deflated": (3, gb), "ascii": (0, plain)}


def _written(way: int, dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    bare = Dataset(dataset)
    bare.save_as(buffer, implicit_vr=way == 1, little_endian=way != 2)
    return buffer.getvalue()


def _objects() -> Files:
    """The first byte says how the data set behind it is written."""
    return {f"{name}.dcm": (PYDICOM, bytes([way]) + _written(way, dataset)) for name, (way, dataset) in _data_sets().items()}


def _datasets() -> Files:
    whole = io.BytesIO()
    ct_dataset("2.25.1", "2.25.1.1", "2.25.1.1.1", size=2).save_as(whole, enforce_file_format=True)
    return _objects() | {"part10.dcm": (PYDICOM, b"\4" + whole.getvalue())}


def _manifests() -> Files:
    return {
        "manifest.dcm": (OURS, kos(study())),
        "no-accession.dcm": (OURS, kos(study(accession="", patient_name=""))),
        "nested.dcm": (f"{PYDICOM}: implicit VR, retrieval at the instances, content in two levels", _nested_manifest()),
    }


def _nested_manifest() -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(kos(study())))
    for series in dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence:
        for sop in series.ReferencedSOPSequence:
            sop.RetrieveAETitle, sop.RetrieveLocationUID = series.RetrieveAETitle, series.RetrieveLocationUID
        del series.RetrieveAETitle, series.RetrieveLocationUID
    group = Dataset()
    group.RelationshipType, group.ValueType, group.ContentSequence = "CONTAINS", "CONTAINER", list(dataset.ContentSequence)
    dataset.ContentSequence = [group]
    dataset.file_meta.TransferSyntaxUID = UID(tags.IMPLICIT)
    buffer = io.BytesIO()
    dataset.save_as(buffer, implicit_vr=True, little_endian=True, enforce_file_format=True)
    return buffer.getvalue()


def _store(context: int, number: int, data: bytes) -> bytes:
    command = write_command(context, [
        (pdata.CLASS, CT), (pdata.FIELD, pdata.C_STORE_RQ), (pdata.MESSAGE_ID, number), (pdata.PRIORITY, 0), (pdata.DATA_SET, 1),
        (pdata.INSTANCE, f"2.25.1.1.{number}")])
    return command + write_data_set(context, data, 256)


def _streams() -> Files:
    """The first byte: 0 a raw stream behind it, 1 a script of pieces (context, control, length, content)."""
    echo = write_command(1, [(pdata.CLASS, "1.2.840.10008.1.1"), (pdata.FIELD, pdata.C_ECHO_RQ), (pdata.MESSAGE_ID, 9),
                             (pdata.DATA_SET, pdata.NO_DATA_SET)])
    find = write_command(3, [(pdata.CLASS, "1.2.840.10008.5.1.4.1.2.2.1"), (pdata.FIELD, pdata.C_FIND_RQ | pdata.RESPONSE),
                             (pdata.RESPONDED_TO, 1), (pdata.DATA_SET, 1), (pdata.STATUS, 0xFF00)])
    stream = _store(1, 1, b"x" * 600) + echo + _store(3, 2, b"refuse") + find + write_data_set(3, b"y" * 300, 0) + RELEASE
    script = b"\1" + b"".join(bytes([1, 3, len(piece)]) + piece for piece in (echo[12:], echo[12:])) + b"\1\1\2ab"
    return {"stream.pdu": (OURS, b"\0" + stream), "script.pdu": (HAND, script[:-5])}


def _answers() -> Files:
    """A PACS' answers to C-FINDs at STUDY, SERIES and IMAGE level."""
    study = {"StudyInstanceUID": "2.25.1", "PatientID": "B-1", "PatientName": "葉^曉東", "SpecificCharacterSet": "ISO_IR 192"}
    series = {"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.1.1", "Modality": "CT"}
    images = [{"StudyInstanceUID": "2.25.1", "SeriesInstanceUID": "2.25.1.1", "SOPInstanceUID": f"2.25.1.1.{n}",
               "SOPClassUID": CT} for n in range(3)]
    stream = b"".join(
        _found(0xFF00, row) for rows in ([study], [series], images) for row in (*rows, None))
    return {"study.pdu": (OURS, stream + RELEASE)}


def _found(status: int, row: dict[str, str] | None) -> bytes:
    command = write_command(1, [
        (pdata.CLASS, "1.2.840.10008.5.1.4.1.2.2.1"), (pdata.FIELD, pdata.C_FIND_RQ | pdata.RESPONSE), (pdata.RESPONDED_TO, 1),
        (pdata.DATA_SET, 1 if row else pdata.NO_DATA_SET), (pdata.STATUS, status if row else 0)])
    return command + (write_data_set(1, tags.write_identifier(row), 512) if row else b"")


def _containers() -> Files:
    return {"study-2.seq": (OURS, archive.described_study()), "empty-2.seq": (OURS, archive.packed({})[0])}


def _sequence_files() -> Files:
    sink = io.BytesIO()
    writer = Writer(sink, {"b": "二", "a": "1"}, archive.MARKER, 0)
    for n in range(5):
        writer.append(f"键{n}", Octets(bytes([n]) * n * 20))
    found = {"small.seq": (OURS, sink.getvalue())}
    return found | _hadoop()


def _hadoop() -> Files:
    """A file of Hadoop's own writer, where its jars are at hand."""
    jars = Path("build/hadoop-jars")
    if not shutil.which("java") or not jars.is_dir():
        return {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "hadoop.seq"
        subprocess.run(
            ["java", "-Xmx256m", "-cp", f"{jars}/*", "tests/peers/java/SequenceFiles.java", "write", str(file), "3"],
            check=True, capture_output=True)
        return {"hadoop.seq": ("written by org.apache.hadoop.io.SequenceFile (tests/peers/java)", file.read_bytes())}


def _indexes() -> Files:
    container, _ = archive.packed({f"1.2.3.{n}": bytes([n]) * 50 for n in range(3)})
    length = int.from_bytes(container[-16:-12], "big")
    return {"index-2.json": (f"{OURS}, unpacked", zlib.decompress(container[-16 - length:-16]))}


def _headers() -> Files:
    container = archive.described_study()
    block = read_index(archive.pread_of(container), len(container)).block
    assert block is not None
    body = zlib.decompress(container[block.offset:block.offset + block.size])
    return {"header.json": (f"{OURS}, unpacked", body)}


def _announcements() -> Files:
    return {"landed.json": (OURS, json.dumps(["landed", {"job": 7, "sop": "1.2.3", "none": None}]).encode()),
            "body.json": (OURS, json.dumps({"job": 7, "sop": "1.2.3"}).encode())}


def _associations() -> Files:
    """Everything storescu and echoscu say in one association, from the first byte on."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ct.dcm"
        ct_dataset("2.25.1", "2.25.1.1", "2.25.1.1.1", size=2).save_as(file, enforce_file_format=True)
        return {
            "storescu.pdu": ("said by dcmtk storescu 3.6.7", _said(["storescu", "-R", "-aet", "PACSA", "-aec", "BROKER"], file)),
            "echoscu.pdu": ("said by dcmtk echoscu 3.6.7", _said(["echoscu", "-aet", "PACSA", "-aec", "BROKER"]))}


def _said(command: Sequence[str], *files: Path) -> bytes:
    """Run a client against a listener of dcmtk through a relay; return what it said."""
    port, relay = free_port(), socket.create_server(("127.0.0.1", 0))
    said = bytearray()
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(
            ["storescp", "-aet", "BROKER", "-od", folder, str(port)], env={**os.environ, "TCP_NODELAY": "1"}) as server:
        try:
            client = subprocess.Popen([*command, "127.0.0.1", str(relay.getsockname()[1]), *map(str, files)])
            near, _ = relay.accept()
            far = _connect(port)
            back = threading.Thread(target=_pour, args=(far, near, bytearray()))
            back.start()
            _pour(near, far, said)
            client.wait(30)
            back.join(30)
        finally:
            server.kill()
            relay.close()
    return bytes(said)


def _connect(port: int) -> socket.socket:
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port), 10)
        except ConnectionRefusedError:
            threading.Event().wait(0.05)
    raise TimeoutError("storescp does not answer")


def _pour(source: socket.socket, sink: socket.socket, said: bytearray) -> None:
    while data := source.recv(65536):
        said += data
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


FOLDERS = {
    "dataset": _datasets, "object": _objects, "kos": _manifests, "pdu": _streams, "pacs": _answers, "container": _containers,
    "sequencefile": _sequence_files, "index": _indexes, "header": _headers, "coord": _announcements, "association": _associations}
