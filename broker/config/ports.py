"""The protocol in which actors ask a hospital of the profile."""

from collections.abc import Callable
from typing import Protocol

from broker.config.profile import Hospital
from broker.model.ports import Retrieved, StudyRows, Want


class Mover(Protocol):
    """DICOM query/retrieve SCU towards a hospital."""

    def echo(self, hospital: Hospital) -> None:
        """C-ECHO; return when it succeeded, else raise `Unavailable`."""
        ...

    def find_study(self, hospital: Hospital, study_uid: str) -> StudyRows:
        """C-FIND down to IMAGE level; no row = the study is not known there."""
        ...

    def retrieve(self, hospital: Hospital, want: Want, progress: Callable[[], bool]) -> Retrieved:
        """C-GET where the hospital's routes say so, else C-MOVE to our own AE title; return what the final response says.

        `progress()` is asked at least once a second and gives False to cancel. Raise `RetrieveFailed` for a failed final
        status and an association that breaks off, `Unavailable` for one that is refused or silent.
        """
        ...
