"""A refusal for an unknown key says the value, the sender, and which of its causes it is."""

import pytest

from broker.config.profile import Profile
from broker.model.errors import Rejected
from broker.patients.claims import Authorities, Claim, Sender

HIS = Sender(application="HIS-A", facility="HOSPA")
FED = "; fed by sender 'HIS-A' at 'HOSPA'"


def claim(value: str = "A1", namespace: str = "", oid: str = "", other: str = "", place: str = "PID^1^3^1") -> Claim:
    return Claim(value=value, namespace=namespace, oid=oid, other=other, at=f"{place}^1", at_authority=f"{place}^4")


CAUSES = {
    "unknown sender": (
        [claim(oid="2.999.2.1")], Sender(application="X", facility="Y"),
        "unknown sender: sender 'X' at 'Y' is a feeder of no domain"),
    "a device nobody knows": (
        [claim(oid="2.999.2.1")], Sender(device_oid="2.999.5"), "unknown sender: sender '2.999.5' is a feeder of no domain"),
    "a sender without a name": (
        [claim(oid="2.999.2.1")], Sender(), "unknown sender: a sender that names itself nowhere is a feeder of no domain"),
    "not its domain": (
        [claim("B9", "HOSPB", "2.999.3.1")], HIS,
        f"id 'B9' of 'HOSPB&2.999.3.1&ISO' is of a domain this sender may not feed{FED}"),
    "the affinity domain": (
        [claim("X", "REGION")], HIS, f"id 'X' of 'REGION' is of a domain this sender may not feed{FED}"),
    "unknown namespace": (
        [claim(namespace="NOBODY")], HIS, f"unknown namespace of the assigning authority: id 'A1' of 'NOBODY'{FED}"),
    "unknown OID": (
        [claim(oid="2.999.77")], HIS, f"unknown OID of the assigning authority: id 'A1' of '&2.999.77&ISO'{FED}"),
    "both unknown": (
        [claim(namespace="N", oid="2.999.77")], HIS, f"unknown OID of the assigning authority: id 'A1' of 'N&2.999.77&ISO'{FED}"),
    "an id that is no OID": (
        [claim(other="a.example")], HIS,
        f"unknown kind of id (no OID) of the assigning authority: id 'A1' of '&a.example'{FED}"),
    "contradiction": (
        [claim(namespace="HOSPB", oid="2.999.2.1")], HIS,
        f"namespace and OID of the assigning authority contradict each other: id 'A1' of 'HOSPB&2.999.2.1&ISO'{FED}"),
    "no authority at all": ([claim()], HIS, f"no assigning authority at all: id 'A1'{FED}"),
    "several causes, each once, those without an id left out": (
        [claim(""), claim(place="PID^1^3^2"), claim(place="PID^1^3^3"), claim("B9", "HOSPB")], HIS,
        f"no assigning authority at all: id 'A1'; id 'B9' of 'HOSPB' is of a domain this sender may not feed{FED}"),
    "long values": (
        [claim("9" * 99, "N" * 99)], HIS,
        f"unknown namespace of the assigning authority: id '{'9' * 64}…' of '{'N' * 64}…'{FED}"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_feed_that_is_nobodys_says_why(profile: Profile, name: str) -> None:
    claims, sender, text = CAUSES[name]
    with pytest.raises(Rejected) as caught:
        Authorities(profile).fed(claims, sender, "PID^1^3")
    (problem,) = caught.value.problems
    first = next(one for one in claims if one.value)
    assert (problem.code, problem.context, problem.location) == ("204", text, first.at_authority)


@pytest.mark.parametrize(("wanted", "text"), [
    (claim(namespace="NOBODY"), "unknown namespace of the assigning authority: id 'A1' of 'NOBODY'"),
    (claim(), "no assigning authority at all: id 'A1'"),
    (claim("", oid="2.999.77"), "unknown OID of the assigning authority: an id of '&2.999.77&ISO'"),
    (claim(namespace="IDCARD"), "unknown namespace of the assigning authority: id 'A1' of 'IDCARD'"),
])
def test_a_question_about_what_is_not_shown_says_why(profile: Profile, wanted: Claim, text: str) -> None:
    """A hidden domain reads as an unknown one."""
    with pytest.raises(Rejected) as caught:
        Authorities(profile).shown(wanted, "WARD|VIEW")
    assert caught.value.problems[0].context == f"{text}; asked by 'WARD|VIEW'"
