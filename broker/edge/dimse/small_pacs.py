"""A small PACS in a process of its own, for the demonstration where no real one is installed. Not a service of the broker.

It keeps what it is sent as files, answers C-FIND (Study Root, down to IMAGE) and sends by C-MOVE to one destination:

    python -m broker.edge.dimse.small_pacs FOLDER AE_TITLE PORT DESTINATION_AE HOST PORT
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, build_context, evt

from broker.edge.dimse.contexts import STORAGE, STUDY_FIND, STUDY_MOVE, VERIFICATION
from broker.model.ids import is_uid

_LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_SUCCESS, _PENDING, _REFUSED, _NO_LEVEL = 0x0000, 0xFF00, 0xA700, 0xA900


class SmallPacs:
    """The files of one folder, as a storage and query/retrieve SCP."""

    def __init__(self, folder: Path, destination: tuple[str, str, int]) -> None:
        self._folder, self._destination = folder, destination
        self._headers: dict[str, Dataset] = {}

    def serve(self, ae_title: str, port: int) -> None:
        """Listen on loopback until the process ends."""
        entity = AE(ae_title)
        for kind in STORAGE:
            entity.add_supported_context(kind, ALL_TRANSFER_SYNTAXES)
        for kind in (VERIFICATION, STUDY_FIND, STUDY_MOVE):
            entity.add_supported_context(kind)
        entity.start_server(("127.0.0.1", port), evt_handlers=[
            (evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find), (evt.EVT_C_MOVE, self._move)])

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if not is_uid(uid):
            return _REFUSED
        path = self._folder / f"{uid}.dcm"
        path.write_bytes(event.encoded_dataset())
        self._headers[uid] = pydicom.dcmread(path, stop_before_pixels=True)
        return _SUCCESS

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        level = _LEVELS.get(query.get("QueryRetrieveLevel", ""))
        if level is None:
            yield _NO_LEVEL, None
            return
        for header in {str(found[level].value): found for found in self._matching(query)}.values():
            answer = Dataset()
            for element in query:
                answer[element.tag] = header.get_item(element.tag) if element.tag in header else element
            answer.SpecificCharacterSet = header.get("SpecificCharacterSet", "ISO_IR 6")
            answer.QueryRetrieveLevel = query.QueryRetrieveLevel
            yield _PENDING, answer

    def _move(self, event: Any) -> Iterator[Any]:
        name, host, port = self._destination
        if str(event.move_destination).strip() != name:
            yield None, None
            return
        found = self._matching(event.identifier)
        pairs = {(str(header.SOPClassUID), str(header.file_meta.TransferSyntaxUID)) for header in found}
        yield host, port, {"contexts": [build_context(*pair) for pair in sorted(pairs)]}
        yield len(found)
        for header in found:
            yield _PENDING, pydicom.dcmread(self._folder / f"{header.SOPInstanceUID}.dcm")

    def _matching(self, query: Dataset) -> list[Dataset]:
        """Give the headers whose UIDs are those the query names; a list of UIDs matches any of them (PS3.4 C.2.2.2.2)."""
        wanted = {key: set(_uids(query, key)) for key in _LEVELS.values()}
        return [
            header for header in list(self._headers.values())
            if all(not uids or str(header[key].value) in uids for key, uids in wanted.items())]


def _uids(query: Dataset, keyword: str) -> list[str]:
    value = query.get(keyword) or []
    return [value] if isinstance(value, str) else [str(uid) for uid in value]


if __name__ == "__main__":
    folder, ae_title, port, name, host, destination_port = sys.argv[1:]
    SmallPacs(Path(folder), (name, host, int(destination_port))).serve(ae_title, int(port))
