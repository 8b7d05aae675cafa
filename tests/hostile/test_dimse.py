"""Broken and hostile objects at the DICOM port of a running broker: storescu, and a peer that says what no toolkit says."""

import hashlib
import io
import struct
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID

from broker.edge.dimse import pdata
from broker.model.ids import new_oid
from broker.model.imaging import InstanceRef
from broker.wire import tags
from tests.helpers import dicom, dimse
from tests.helpers.dicom import CT
from tests.helpers.dimse import Parrot, store_request
from tests.helpers.site import OURS, A, Site, ref
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.peer("dcmtk")]

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
GROUP_LENGTH = b"\x08\x00\x00\x00UL\x04\x00"
MR = "1.2.840.10008.5.1.4.1.1.4"
PRIVATE = "1.2.826.0.1.3680043.2.1.99"      # no storage class anybody knows


def dataset(sop: str, sop_class: str = CT) -> Dataset:
    made = dicom.ct_dataset(new_oid(), new_oid(), sop, number=1, patient=dicom.Patient(id=A.value))
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    return made


def encoded(made: Dataset) -> bytes:
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    data = file.getvalue()
    return data[tags.read_meta(data).end:]


def ref_of(made: Dataset) -> InstanceRef:
    return InstanceRef(
        str(made.StudyInstanceUID), str(made.SeriesInstanceUID), str(made.SOPInstanceUID), CT, OURS)


def results(accept: bytes) -> dict[int, int]:
    """Return the result of each presentation context of an A-ASSOCIATE-AC."""
    found, at = {}, 68
    while at < len(accept):
        if accept[at] == 0x21:
            found[accept[at + 4]] = accept[at + 6]
        at += 4 + int.from_bytes(accept[at + 2:at + 4], "big")
    return found


def store(site: Site, sop: str, data: bytes, *, sop_class: str = CT) -> int:
    """Return the status of one object, which leaves nothing; the same association then stores a good one."""
    with Parrot(site.region.dicom_port) as peer:
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        with site.unchanged():
            peer.say(store_request(1, sop_class, sop, data))
            status = peer.answer().number(pdata.STATUS)
        good = new_oid()
        peer.say(store_request(1, CT, good, encoded(dataset(good))))
        assert peer.answer().number(pdata.STATUS) == 0
        peer.release()
    eventually(lambda: site.known(good))
    assert escaped(site) == []
    return status


def escaped(site: Site) -> list[Path]:
    """Return what an evil UID left anywhere around the region: from its folders `../../../tmp` is a place of the tests' own."""
    found = [*site.region.folder.parent.rglob(f"*{EVIL}*"), *Path("/tmp").glob(f"*{EVIL}*")]
    return [path for path in found if path.exists()]


EVIL = "climbs-out"
SOP = "2.999.77.1"
GOOD = encoded(dataset(SOP))
AT = GOOD.index(b"\x10\x00\x20\x00LO")        # Patient ID
LENGTH = AT + 6
BAD = {
    "no data set": (SOP, b"", 0xC000),
    "rubbish": (SOP, b"\xde\xad" * 500, 0xC000),
    "cut in the header": (SOP, GOOD[:AT + 3], 0xC000),
    "an element longer than the object": (SOP, GOOD[:LENGTH] + b"\xff\xff" + GOOD[LENGTH + 2:], 0xC000),
    "no Study Instance UID": (SOP, GOOD.replace(b"\x20\x00\x0d\x00UI", b"\x20\x00\x0f\x00UI"), 0xC000),
    "another instance than announced": ("2.999.77.2", GOOD, 0xA900),
    "an evil SOP UID": (f"../../../tmp/{EVIL}", GOOD, 0x0117),
    "an empty SOP UID": ("", GOOD, 0x0117),
    "a SOP UID with a NUL": ("2.999\0/../x", GOOD, 0x0117),
    "a SOP UID of 70 digits": ("2.999." + "1" * 70, GOOD, 0x0117),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_object_is_refused_and_the_association_goes_on(site: Site, name: str) -> None:
    sop, data, status = BAD[name]
    refused = site.audited("C-STORE", "4")
    assert store(site, sop, data) == status
    eventually(lambda: site.audited("C-STORE", "4") == refused + 1)


# What the sender hears, as Error Comment and Offending Element (PS3.7 annex C), of the kinds above.
REASONS = {
    "no data set": ("no readable SOPInstanceUID", "(0008,0018)"),
    "rubbish": ("no readable SOPInstanceUID", "(0008,0018)"),
    "no Study Instance UID": ("no readable StudyInstanceUID", "(0020,000D)"),
    "another instance than announced": ("SOP Class or Instance UID of data set and request differ", ""),
    "an evil SOP UID": ("is not a UID", ""),
    "an empty SOP UID": ("is not a UID", ""),
    "a SOP UID of 70 digits": ("is not a UID", ""),
}


@pytest.mark.parametrize("name", REASONS)
def test_a_refused_object_is_answered_and_logged_with_its_reason(site: Site, name: str) -> None:
    sop, data, status = BAD[name]
    words, offending = REASONS[name]
    before = len(site.region.logs())
    with Parrot(site.region.dicom_port) as peer:
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        peer.say(store_request(1, CT, sop, data))
        answer = peer.answer()
        peer.release()
    assert (answer.number(pdata.STATUS), answer.tag(pdata.OFFENDING)) == (status, offending)
    comment = answer.text(pdata.COMMENT)
    assert len(comment) <= 64
    assert words in comment or (comment.endswith("...") and comment[:-3] in _logged(site, before))
    line = _logged(site, before)
    assert words in line
    assert (sop if sop == SOP else "(no UID)" if status == 0x0117 else sop) in line
    assert A.value not in line
    assert EVIL not in line or line.isascii()


def _logged(site: Site, before: int) -> str:
    """Return the one log line about a refused object since then."""
    eventually(lambda: "object refused" in site.region.logs()[before:])
    (line,) = [line for line in site.region.logs()[before:].splitlines() if "object refused" in line]
    return line


def test_an_evil_study_uid_stays_inside(site: Site) -> None:
    sop = new_oid()
    made = dataset(sop)
    uid = str(made.StudyInstanceUID).encode()
    data = encoded(made)
    assert data.count(uid) == 1
    assert store(site, sop, data.replace(uid, f"../../../{EVIL}".encode().ljust(len(uid), b"\0"))) == 0xC000


@pytest.mark.parametrize("lie", [0, 8, 0xFFFFFFFF])
def test_a_group_length_lie_misleads_nobody(site: Site, tmp_path: Path, lie: int) -> None:
    """Group lengths are retired in data sets (PS3.5 7.2): kept as sent, never believed."""
    sop = new_oid()
    made = dataset(sop)
    data = encoded(made)
    lying = GROUP_LENGTH + struct.pack("<L", lie) + data
    with Parrot(site.region.dicom_port) as peer:
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        peer.say(store_request(1, CT, sop, lying))
        assert peer.answer().number(pdata.STATUS) == 0
        peer.release()
    eventually(lambda: site.known(sop))
    with site.client() as client:
        got = client.images([ref_of(made)], tmp_path)
    assert dicom.body(got.pictures[0].path) == lying


@pytest.mark.parametrize("lie", [0, 6, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_command_group_length_lie_misleads_nobody(site: Site, lie: int) -> None:
    sop = new_oid()
    request = bytearray(store_request(1, CT, sop, encoded(dataset(sop))))
    place = request.index(b"\0\0\0\0\4\0\0\0", 12) + 8
    request[place:place + 4] = struct.pack("<L", lie)
    with Parrot(site.region.dicom_port) as peer:
        assert peer.associate([(CT, EXPLICIT)])[0] == 2
        peer.say(bytes(request))
        assert peer.answer().number(pdata.STATUS) == 0
        peer.release()
    eventually(lambda: site.known(sop))


def test_an_unsupported_class_is_not_negotiated(site: Site, tmp_path: Path) -> None:
    with site.unchanged(), Parrot(site.region.dicom_port) as peer:
        kind, body = peer.associate([(PRIVATE, EXPLICIT), (dimse.VERIFICATION, IMPLICIT)])
        assert kind == 2
        assert results(body) == {1: 3, 3: 0}    # abstract syntax not supported (PS3.8 9.3.3.2); accepted
        peer.say(store_request(1, PRIVATE, SOP, GOOD))
        assert peer.hear()[0] == 7
    site.goes_on(tmp_path)


# The class that is announced in a context for CT, and the one of the object.
CLASSES = {
    "announced as another class": (MR, CT, 0xA900),
    "announced as a class nobody knows": (PRIVATE, CT, 0x0122),
    "of a class nobody knows": (PRIVATE, PRIVATE, 0x0122),
    "of a class nobody knows, announced as CT": (CT, PRIVATE, 0xA900),
    "announced as no class": ("", CT, 0x0122),
}


@pytest.mark.parametrize("name", CLASSES)
def test_another_class_than_its_context_has_is_refused(site: Site, name: str) -> None:
    announced, own, status = CLASSES[name]
    sop = new_oid()
    assert store(site, sop, encoded(dataset(sop, own)), sop_class=announced) == status


def test_the_same_object_again_is_fine_and_other_bytes_are_kept_aside_and_reported(site: Site, tmp_path: Path) -> None:
    (file,) = site.store(tmp_path)
    sop = ref(file).sop_uid
    eventually(lambda: site.known(sop))
    with site.unchanged():
        assert dicom.store([file], site.region.dicom_port, "PACSA").returncode == 0
    assert site.rows("conflict", "sop_uid").count((sop,)) == 0
    other = pydicom.dcmread(file)
    other.PixelData = b"\1" * len(other.PixelData)
    changed = tmp_path / "other.dcm"
    other.save_as(changed)
    assert dicom.store([changed], site.region.dicom_port, "PACSA").returncode == 0
    eventually(lambda: site.rows("conflict", "sop_uid").count((sop,)) == 1)
    (path,) = [path for found, path in site.rows("conflict", "sop_uid, path") if found == sop]
    assert dicom.body(site.region.data / "online" / path) == dicom.body(changed)
    lines = [line for line in site.region.logs().splitlines() if "kept aside" in line]
    assert any(sop in line for line in lines)
    assert not any(A.value in line for line in lines)
    with site.client() as client:
        got = client.images([ref(file)], tmp_path / "got")
    assert hashlib.sha256(dicom.body(got.pictures[0].path)).digest() == hashlib.sha256(dicom.body(file)).digest()


@pytest.mark.parametrize("say", [
    b"\4\0\xff\xff\xff\xf0\xff\xff\xff\xec\1\3", b"\x63\0\0\0\0\4abcd", b"\4\0\0\0\0\6\0\0\0\1\1\3", b"\1\0\0\0\0\4\0\0\0\0",
    pdata.write_command(1, [(pdata.CLASS, CT), (pdata.FIELD, pdata.C_STORE_RQ), (pdata.DATA_SET, 1)])[:-9],
    pdata.write_command(1, [    # a message in two contexts
        (pdata.CLASS, CT), (pdata.FIELD, pdata.C_STORE_RQ), (pdata.MESSAGE_ID, 1), (pdata.INSTANCE, "1.2.3.4"),
        (pdata.DATA_SET, 1)]) + pdata.write_data_set(3, b"x" * 100, 0),
    pdata.write_command(1, [(pdata.CLASS, CT), (pdata.FIELD, pdata.C_ECHO_RQ), (pdata.DATA_SET, 1)])
    + pdata.write_data_set(3, b"x" * 100, 0),
])
def test_a_broken_pdu_ends_its_association_only(site: Site, say: bytes) -> None:
    with site.unchanged(), Parrot(site.region.dicom_port) as broken, Parrot(site.region.dicom_port) as other:
        for peer in (broken, other):
            assert peer.associate([(CT, EXPLICIT), (dimse.VERIFICATION, IMPLICIT)])[0] == 2
        broken.say(say)
        assert broken.hear()[0] == 7
        assert broken.hear()[0] == 0
        other.say(pdata.write_command(3, [
            (pdata.CLASS, dimse.VERIFICATION), (pdata.FIELD, pdata.C_ECHO_RQ), (pdata.MESSAGE_ID, 3),
            (pdata.DATA_SET, pdata.NO_DATA_SET)]))
        assert other.answer().number(pdata.STATUS) == 0
        other.release()
