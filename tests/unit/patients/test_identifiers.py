"""A refusal for an unknown key says the value, the sender, and which of its causes it is."""

import pytest

from broker.config.profile import Feeder, Profile
from broker.model.errors import Rejected
from broker.patients.identifiers import Authorities, GivenId, Sender

HIS = Sender(application="HIS-A", facility="HOSPA")


def given_id(value: str = "A1", namespace: str = "", oid: str = "", other: str = "", place: str = "PID^1^3^1") -> GivenId:
    return GivenId(value=value, namespace=namespace, oid=oid, other=other, at=f"{place}^1", at_authority=f"{place}^4")


CAUSES = {
    "unknown sender": (
        [given_id(oid="2.999.2.1")], Sender(application="X", facility="Y"),
        "X at Y: unknown sender, it may feed no domain"),
    "a device nobody knows": (
        [given_id(oid="2.999.2.1")], Sender(device_oids=("2.999.5",)), "2.999.5: unknown sender, it may feed no domain"),
    "a sender without a name": (
        [given_id(oid="2.999.2.1")], Sender(), "a sender without a name: unknown sender, it may feed no domain"),
    "not its domain": (
        [given_id("B9", "HOSPB", "2.999.3.1")], HIS,
        "HIS-A at HOSPA: may not feed the domain of id B9 of HOSPB 2.999.3.1"),
    "the affinity domain": (
        [given_id("X", "REGION")], HIS, "HIS-A at HOSPA: may not feed the domain of id X of REGION"),
    "unknown namespace": (
        [given_id(namespace="NOBODY")], HIS, "HIS-A at HOSPA: unknown namespace, id A1 of NOBODY"),
    "unknown OID": (
        [given_id(oid="2.999.77")], HIS, "HIS-A at HOSPA: unknown OID, id A1 of 2.999.77"),
    "both unknown": (
        [given_id(namespace="N", oid="2.999.77")], HIS, "HIS-A at HOSPA: unknown OID, id A1 of N 2.999.77"),
    "an id that is no OID": (
        [given_id(other="a.example")], HIS,
        "HIS-A at HOSPA: unknown authority id (no OID), id A1 of a.example"),
    "contradiction": (
        [given_id(namespace="HOSPB", oid="2.999.2.1")], HIS,
        "HIS-A at HOSPA: namespace and OID contradict each other, id A1 of HOSPB 2.999.2.1"),
    "no authority at all": ([given_id()], HIS, "HIS-A at HOSPA: no assigning authority, id A1"),
    "several causes, each once, those without an id left out": (
        [given_id(""), given_id(place="PID^1^3^2"), given_id(place="PID^1^3^3"), given_id("B9", "HOSPB")], HIS,
        "HIS-A at HOSPA: no assigning authority, id A1; may not feed the domain of id B9 of HOSPB"),
    "long values": (
        [given_id("9" * 99, "N" * 99)], HIS,
        f"HIS-A at HOSPA: unknown namespace, id {'9' * 64}... of {'N' * 64}..."),
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_feed_that_is_nobodys_says_why(profile: Profile, name: str) -> None:
    given_ids, sender, text = CAUSES[name]
    with pytest.raises(Rejected) as caught:
        Authorities(profile).for_feed(given_ids, sender, "PID^1^3")
    (problem,) = caught.value.problems
    first = next(one for one in given_ids if one.value)
    assert (problem.code, problem.context, problem.location) == ("204", text, first.at_authority)


@pytest.mark.parametrize(("wanted", "text"), [
    (given_id(namespace="NOBODY"), "unknown namespace, id A1 of NOBODY"),
    (given_id(), "no assigning authority, id A1"),
    (given_id("", oid="2.999.77"), "unknown OID, an id of 2.999.77"),
    (given_id(namespace="IDCARD"), "unknown namespace, id A1 of IDCARD"),
])
def test_a_question_about_what_is_not_shown_says_why(profile: Profile, wanted: GivenId, text: str) -> None:
    """A hidden domain reads as an unknown one."""
    with pytest.raises(Rejected) as caught:
        Authorities(profile).for_query(wanted, "WARD|VIEW")
    assert caught.value.problems[0].context == f"VIEW at WARD: {text}"


SHOWN, OTHER = "9f" * 32, "00" * 32


@pytest.mark.parametrize(("feeder", "address", "certificate", "is_feeder"), [
    ({"address": "10.1.2.3"}, "10.1.2.3", "", True),
    ({"address": "10.1.2.3"}, "10.1.2.4", "", False),
    ({"address": "10.1.0.0/16"}, "10.1.9.9", SHOWN, True),
    ({"address": "10.1.0.0/16"}, "::ffff:10.1.9.9", "", True),
    ({"address": "10.1.0.0/16"}, "fe80::1", "", False),
    ({"address": "fd00::/8"}, "fd00::1", "", True),
    ({"address": "10.1.0.0/16"}, "unknown", "", False),
    ({"certificate": SHOWN}, "10.1.2.3", SHOWN, True),
    ({"certificate": SHOWN.upper()}, "10.1.2.3", SHOWN, True),
    ({"certificate": SHOWN}, "10.1.2.3", OTHER, False),
    ({"certificate": SHOWN}, "10.1.2.3", "", False),
    ({"address": "10.1.2.3", "certificate": SHOWN}, "10.1.2.3", SHOWN, True),
    ({"address": "10.1.2.3", "certificate": SHOWN}, "10.1.2.4", SHOWN, False),
    ({"application": "HIS-A", "facility": "HOSPA"}, "10.1.2.3", SHOWN, False),
    ({"device_oid": "2.999.3.9"}, "10.1.2.3", "", False),
])
def test_a_fhir_sender_is_known_by_address_and_certificate(
    feeder: dict[str, str], address: str, certificate: str, is_feeder: bool,
) -> None:
    sender = Sender(address=address, certificate=certificate)
    assert sender.is_feeder(Feeder(**feeder)) is is_feeder
    assert str(sender) == f"FHIR|{certificate or address}"


def test_a_feeder_by_address_alone_is_nobody_of_the_other_doors() -> None:
    feeder = Feeder(address="10.1.2.3")
    assert not any(sender.is_feeder(feeder) for sender in (HIS, Sender(), Sender(device_oids=("", "2.999.3.9"))))


@pytest.mark.parametrize(("given", "found"), [
    (given_id(other="http://hospital-a.example/mrn"), True), (given_id(oid="2.999.2.99"), True),
    (given_id(namespace="OLD-A"), True),
    (given_id(namespace="OLD-A", oid="2.999.2.1"), True), (given_id(namespace="OLD-A", oid="2.999.3.1"), False),
    (given_id(other="OLD-B"), False), (given_id(), False),
])
def test_a_domain_has_further_names(given: GivenId, found: bool, profile: Profile) -> None:
    aliases = ("http://hospital-a.example/mrn", "2.999.2.99", "OLD-A")
    domains = [domain.model_copy(update={"aliases": aliases}) if domain.oid == "2.999.2.1" else domain
               for domain in profile.domains]
    domain = Authorities(profile.model_copy(update={"domains": tuple(domains)})).domain(given)
    assert (domain.oid if domain else "") == ("2.999.2.1" if found else "")
