"""How the files go in and come out: C-STORE of bytes as they are, feeds of their patients, RAD-69."""

import io
import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pynetdicom.dimse_primitives as primitives
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context

from broker.client.consult import Consultation
from broker.config import profile as profiles
from broker.model.errors import BrokerError
from broker.model.ids import PatientId
from broker.model.imaging import InstanceRef
from broker.model.people import Demographics, PersonName
from broker.wire import hl7v3
from broker.wire.tags import read_meta
from tests.corpus.files import Specimen, data_set
from tests.helpers.region import Region

DEVICES = {"2.999.2.1": "2.999.2.9", "2.999.3.1": "2.999.3.9"}      # who may feed the ids of hospital A and B
_BATCH = 40


def _any_uid(value: Any, *_: object, **__: object) -> UID | None:
    return None if value is None else UID(value.decode() if isinstance(value, bytes) else value)


def store(one: Specimen, port: int, calling: str) -> str:
    """Send one data set unaltered; return an empty text for success, else what the broker said."""
    with patch.object(primitives, "set_uid", _any_uid), patch.object(_config, "UNRESTRICTED_STORAGE_SERVICE", True):
        link = AE(ae_title=calling).associate(
            "127.0.0.1", port, contexts=[build_context(one.sop_class, one.syntax)], ae_title="BROKER")
        if not link.is_established:
            return f"no presentation context: {UID(one.sop_class).name}, {UID(one.syntax).name}"
        try:
            request = primitives.C_STORE()
            request.MessageID, request.Priority = 1, 0
            request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = one.sop_class, one.sop_uid
            request.DataSet = io.BytesIO(one.data)
            link._reactor_checkpoint.clear()    # the answer is for us
            while not link._is_paused:
                time.sleep(0.001)
            context = link.accepted_contexts[0].context_id
            assert context is not None
            link.dimse.send_msg(request, context)
            _, answer = link.dimse.get_msg(block=True)
            link._reactor_checkpoint.set()
            if answer is None or answer.Status is None:
                return "no answer"
            return "" if answer.Status == 0 else f"0x{answer.Status:04X} {answer.ErrorComment or ''}".strip()
        finally:
            link.release()


@dataclass(frozen=True, slots=True)
class Got:
    """What RAD-69 gave, (transfer syntax, data set) by instance; and why it did not give the rest."""

    data: dict[InstanceRef, tuple[str, bytes]]
    missing: dict[InstanceRef, str]


class Desk:
    """A consultation client of one region."""

    def __init__(self, region: Region, folder: Path) -> None:
        self._region, self._folder, self._numbers = region, folder, count()

    @contextmanager
    def _client(self) -> Any:
        with Consultation(self._region.url, profiles.load(str(self._region.folder / "region"))) as client:
            yield client

    def feed(self, patients: Iterable[PatientId]) -> dict[PatientId, str]:
        """Register patients by ITI-44; return those that were refused, with the reason."""
        refused = {}
        with self._client() as client:
            for number, patient in enumerate(sorted(patients)):
                person = Demographics(names=(PersonName(family=f"Corpus{number}", given="X"),), birth_date="19800101", sex="O")
                message = hl7v3.write_add_patient(patient, person, sender=DEVICES[patient.domain], receiver="2.999.1.4")
                try:
                    client.feed_v3(message)
                except BrokerError as error:
                    refused[patient] = str(error)
        return refused

    def manifests(self, patients: Iterable[PatientId]) -> set[InstanceRef]:
        """Return what the manifests of these patients name, without the classes."""
        named = set[InstanceRef]()
        with self._client() as client:
            for patient in sorted(patients):
                entries = client.documents(client.affinity_id(patient))
                for file in client.manifests(entries, self._folder / f"manifests-{next(self._numbers)}").files:
                    named.update(replace(ref, sop_class="") for ref in file.images)
        return named

    def fetch(self, refs: Sequence[InstanceRef]) -> Got:
        """RAD-69 of these instances, some at a time."""
        got = Got({}, {})
        with self._client() as client:
            for begin in range(0, len(refs), _BATCH):
                batch = refs[begin:begin + _BATCH]
                for some in _apart(batch):
                    answer = client.images(some, self._folder / f"pictures-{next(self._numbers)}")
                    asked = {ref.sop_uid: ref for ref in some}
                    for picture in answer.pictures:
                        whole = picture.path.read_bytes()
                        got.data[asked[picture.sop_uid]] = read_meta(whole).transfer_syntax, data_set(whole)
                    got.missing.update({asked[problem.location]: problem.context for problem in answer.missing})
        return got


def _apart(refs: Sequence[InstanceRef]) -> list[list[InstanceRef]]:
    """Return them so that no SOP Instance UID is asked for twice in one request."""
    rounds: list[dict[str, InstanceRef]] = []
    for ref in refs:
        place = next((one for one in rounds if ref.sop_uid not in one), None)
        if place is None:
            place = {}
            rounds.append(place)
        place[ref.sop_uid] = ref
    return [list(one.values()) for one in rounds]
