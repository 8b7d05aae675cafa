"""What senders, readers and checks share: whose a picture is asked for, and whether it is the one that was sent."""

import time
from collections.abc import Mapping

from tests.chaos import studies
from tests.chaos.doors import Answer, Ref
from tests.chaos.journal import Picture
from tests.helpers import mllp

OURS, THEIRS = "2.999.1.3", "2.999.3.3"             # imaging sources: the broker itself, hospital B
DOMAIN_A, DOMAIN_B = "2.999.2.1", "2.999.3.1"
B_PATIENT = "B-77"
NO_ANSWER = (OSError, AssertionError)               # of the plain MLLP client
LATER = {"XDSRegistryBusy", "XDSRepositoryBusy", "XDSRegistryNotAvailable", "XDSRegistryOutOfResources",
         "XDSRepositoryOutOfResources"}

_PAUSE = 0.3
_PIX = """
MSH|^~\\&|VIEW|CONS|BROKER|REGION|20261101103000||QBP^Q23^QBP_Q21|{control}|P|2.5
QPD|IHE PIX Query|tag-1|{value}^^^&{domain}&ISO
RCP|I
"""


def affinity_id(port: int, value: str, domain: str = DOMAIN_A, *, seconds: float = 20.0) -> str:
    """Return the CX of a hospital's patient in the affinity domain, by ITI-9; empty when there is none."""
    message = _PIX.format(control=f"q-{time.monotonic_ns():x}", value=value, domain=domain)
    until = time.monotonic() + seconds
    while True:
        try:
            answer = mllp.send(port, message, "ascii")
            break
        except NO_ANSWER:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE)
    for segment in answer:
        if segment[0] == "PID":
            for found in segment[3].split("~"):
                parts = found.split("^")
                if parts[3].split("&")[1:2] == ["2.999.1.1"]:
                    return f"{parts[0]}^^^&2.999.1.1&ISO"
    return ""


def refs(pictures: Mapping[str, Picture], source: str) -> list[Ref]:
    """Return pictures as RAD-69 asks for them."""
    return [Ref(picture.study, picture.series, picture.sop, source) for picture in pictures.values()]


def differences(pictures: Mapping[str, Picture], answer: Answer) -> list[str]:
    """Return the SOP Instance UIDs whose bytes are not those that were sent, or that nobody asked for."""
    return [sop for sop, data in answer.documents.items()
            if sop not in pictures or studies.sha256_of(data) != pictures[sop].sha256]
