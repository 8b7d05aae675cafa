"""A refusal for an unknown key says the value, the sender, and which of its causes it is."""

import pytest

from broker.config.profile import Profile
from broker.model.errors import Rejected
from broker.patients.claims import Authorities, Claim, Sender

HIS = Sender(application="HIS-A", facility="HOSPA")


def claim(value: str = "A1", namespace: str = "", oid: str = "", other: str = "", place: str = "PID^1^3^1") -> Claim:
    return Claim(value=value, namespace=namespace, oid=oid, other=other, at=f"{place}^1", at_authority=f"{place}^4")


CAUSES = {
    "unknown sender": (
        [claim(oid="2.999.2.1")], Sender(application="X", facility="Y"),
        "X at Y: unknown sender, it may feed no domain"),
    "a device nobody knows": (
        [claim(oid="2.999.2.1")], Sender(device_oids=("2.999.5",)), "2.999.5: unknown sender, it may feed no domain"),
    "a sender without a name": (
        [claim(oid="2.999.2.1")], Sender(), "a sender without a name: unknown sender, it may feed no domain"),
    "not its domain": (
        [claim("B9", "HOSPB", "2.999.3.1")], HIS,
        "HIS-A at HOSPA: may not feed the domain of id B9 of HOSPB 2.999.3.1"),
    "the affinity domain": (
        [claim("X", "REGION")], HIS, "HIS-A at HOSPA: may not feed the domain of id X of REGION"),
    "unknown namespace": (
        [claim(namespace="NOBODY")], HIS, "HIS-A at HOSPA: unknown namespace, id A1 of NOBODY"),
    "unknown OID": (
        [claim(oid="2.999.77")], HIS, "HIS-A at HOSPA: unknown OID, id A1 of 2.999.77"),
    "both unknown": (
        [claim(namespace="N", oid="2.999.77")], HIS, "HIS-A at HOSPA: unknown OID, id A1 of N 2.999.77"),
    "an id that is no OID": (
        [claim(other="a.example")], HIS,
        "HIS-A at HOSPA: unknown authority id (no OID), id A1 of a.example"),
    "contradiction": (
        [claim(namespace="HOSPB", oid="2.999.2.1")], HIS,
        "HIS-A at HOSPA: namespace and OID contradict each other, id A1 of HOSPB 2.999.2.1"),
    "no authority at all": ([claim()], HIS, "HIS-A at HOSPA: no assigning authority, id A1"),
    "several causes, each once, those without an id left out": (
        [claim(""), claim(place="PID^1^3^2"), claim(place="PID^1^3^3"), claim("B9", "HOSPB")], HIS,
        "HIS-A at HOSPA: no assigning authority, id A1; may not feed the domain of id B9 of HOSPB"),
    "long values": (
        [claim("9" * 99, "N" * 99)], HIS,
        f"HIS-A at HOSPA: unknown namespace, id {'9' * 64}... of {'N' * 64}..."),
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
    (claim(namespace="NOBODY"), "unknown namespace, id A1 of NOBODY"),
    (claim(), "no assigning authority, id A1"),
    (claim("", oid="2.999.77"), "unknown OID, an id of 2.999.77"),
    (claim(namespace="IDCARD"), "unknown namespace, id A1 of IDCARD"),
])
def test_a_question_about_what_is_not_shown_says_why(profile: Profile, wanted: Claim, text: str) -> None:
    """A hidden domain reads as an unknown one."""
    with pytest.raises(Rejected) as caught:
        Authorities(profile).shown(wanted, "WARD|VIEW")
    assert caught.value.problems[0].context == f"VIEW at WARD: {text}"
