"""What consumers are told of changed ids (ITI TF-2 3.10, 3.46, 3.64), in which order, and what becomes of what is not taken."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from broker.config.profile import Consumer, Domain, Profile
from broker.db import Database
from broker.edge.soap import schema
from broker.model.caller import AuditFacts, Call, Caller
from broker.model.errors import Unavailable
from broker.model.ids import PatientId
from broker.model.people import PersonName
from broker.patients import iti44_feed
from broker.patients.desk import Desk, Wish
from broker.patients.notifier import KEPT_SECONDS, Notifier, Ways
from broker.patients.outbox import Outbox
from broker.wire.xml import parse
from tests.helpers.patients import CLINIC, HOSPA, HOSPB, HOSPC, NS, OURS, WEI, XAD, Bench, plain, region

VIEWER = Consumer(
    key="viewer", transaction="ITI-10", host="viewer.example", port=2575, application="VIEW", facility="CONS",
    domains=(HOSPA, HOSPB))
PORTAL = Consumer(
    key="portal", transaction="ITI-46", url="http://portal.example/pix", device_oid="2.999.77.1", domains=(HOSPA, HOSPB))
ARCHIVE = Consumer(key="archive", transaction="ITI-64", host="archive.example", port=2575, application="REG", facility="ELSE")
OTHER = replace(WEI, names=(PersonName("李", "雷"),))


@dataclass
class Consumers:
    """What each of them got, and how it answers (MSA-1, the answer itself, or an error that its connection raises)."""

    got: dict[str, list[bytes]] = field(default_factory=dict)
    answers: dict[str, list[str | bytes | Exception]] = field(default_factory=dict)

    def way(self, key: str) -> Callable[[bytes], bytes]:
        def exchange(message: bytes) -> bytes:
            self.got.setdefault(key, []).append(message)
            waiting = self.answers.get(key) or ["CA" if message.startswith(b"<") else "AA"]
            answer = waiting.pop(0)
            if isinstance(answer, Exception):
                raise answer
            if not isinstance(answer, str):
                return answer
            return _v3(answer) if message.startswith(b"<") else _v2(answer, message.split(b"|")[9])
        return exchange

    def told(self, key: str) -> list[str]:
        """Return the ids of each message: `A1 B1`; of a link change those of PID-3 and, behind a bar, of MRG-1."""
        return [_ids(message) for message in self.got.get(key, [])]


def _v2(code: str, about: bytes) -> bytes:
    error = b"" if code == "AA" else b"ERR||PID^1^3|204^Unknown key identifier^HL70357|E\r"
    return b"MSH|^~\\&|VIEW|CONS|BROKER|REGION|20260301||ACK^A31|a1|P|2.5\rMSA|" + code.encode() + b"|" + about + b"\r" + error


def _v3(code: str) -> bytes:
    return (f'<MCCI_IN000002UV01 xmlns="urn:hl7-org:v3"><acknowledgement><typeCode code="{code}"/></acknowledgement>'
            "</MCCI_IN000002UV01>").encode()


def _ids(message: bytes) -> str:
    if message.startswith(b"<"):
        ids = parse(message).iterfind(".//h:subject1//h:patient//h:id", NS)
        return " ".join(one.get("extension") or "" for one in ids if one.get("extension"))
    lines = dict(line.split("|", 1) for line in plain(message.decode()).split("\r") if line)
    values = [" ".join(cx.split("^")[0] for cx in field.split("~"))
              for field in (lines["PID"].split("|")[2], lines.get("MRG", "").split("|")[0])]
    event = lines["MSH"].split("|")[7].split("^")[1]
    return " | ".join(filter(None, values)) if event == "A31" else f"{event} {' | '.join(filter(None, values))}"


@dataclass
class Region:
    """The bench with consumers."""

    bench: Bench
    consumers: Consumers
    now: float = 1000.0

    @property
    def notifier(self) -> Notifier:
        ways = Ways({one.key: self.consumers.way(one.key) for one in self.profile.consumers}, "http://broker/pix")
        return Notifier(self.bench.database, self.profile, self.bench.gate, self.bench.coord, ways, lambda: self.now)

    @property
    def profile(self) -> Profile:
        return self.bench.manager.profile

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.bench.database, lambda: self.now)

    def run(self) -> None:
        for consumer in self.profile.consumers:
            self.notifier.run(consumer)

    def told(self, key: str) -> list[str]:
        """Send what waits; return what this consumer heard since it was asked for last."""
        self.run()
        told = self.consumers.told(key)
        self.consumers.got.pop(key, None)
        return told


Make = Callable[..., Region]


@pytest.fixture
def make(database: Database, profile: Profile, tmp_path: Path) -> Make:
    def made(*consumers: Consumer) -> Region:
        changed = region(profile).model_copy(update={"consumers": consumers})
        made = Region(Bench(database, changed, tmp_path), Consumers())
        made.bench.manager._clock = lambda: made.now    # noqa: SLF001 - due at the time of the test
        return made
    return made


@pytest.mark.parametrize("consumer", [VIEWER, PORTAL], ids=["v2", "v3"])
def test_one_message_for_each_resulting_person(make: Make, consumer: Consumer) -> None:
    """The table of section 1.6 of the page: new, joined, apart, merged."""
    world = make(consumer)
    bench = world.bench
    bench.feed("A04", "A1")
    assert world.told(consumer.key) == ["A1"]
    bench.add("B1")
    assert world.told(consumer.key) == ["A1 B1"]
    bench.add("B1", OTHER, revise=True)
    assert sorted(world.told(consumer.key)) == ["A1", "B1"]
    bench.add("B7", replace(WEI, birth_date="19800203"))
    bench.feed("A04", "A9", replace(WEI, birth_date="19800203"))
    assert world.told(consumer.key) == ["B7", "A9 B7"]
    bench.feed("A40", "A1", retired="A9")
    assert world.told(consumer.key) == ["A1", "B7"], "who stays behind is another person than it was"


def test_what_changes_nothing_for_a_consumer_tells_it_nothing(make: Make) -> None:
    world = make(VIEWER)
    world.bench.feed("A04", "A1")
    assert world.told("viewer") == ["A1"]
    world.bench.feed("A08", "A1", replace(WEI, phones=("0591 8811",)))
    world.bench.add("C1", domain=HOSPC)     # the same person, by an id of no interest
    assert world.bench.who("A1") == {"A1", "C1"}
    assert world.told("viewer") == []


def test_who_knew_a_retired_id_hears_of_its_survivor(make: Make) -> None:
    world = make(VIEWER)
    world.bench.feed("A04", "A1")
    world.bench.feed("A04", "A9", OTHER)
    world.told("viewer")
    world.bench.feed("A40", "A1", retired="A9")
    assert world.told("viewer") == ["A1"]


def test_without_domains_a_consumer_hears_of_all_that_are_shown(make: Make, profile: Profile) -> None:
    everything = VIEWER.model_copy(update={"domains": ()})
    world = make(everything)
    hidden = Domain(oid=CLINIC, namespace="CLINIC", feeders=world.profile.domain(CLINIC).feeders, hidden=True)  # type: ignore[union-attr]
    domains = tuple(hidden if one.oid == CLINIC else one for one in world.profile.domains)
    world.bench.manager.profile = world.profile.model_copy(update={"domains": domains})
    world.bench.manager.settler = replace(world.bench.settler, profile=world.profile)
    world.bench.feed("A04", "A1", replace(WEI, other_ids=((CLINIC, "K1"),)))
    assert world.told("viewer") == ["XAD A1"]


def test_the_message_is_that_of_the_standard(make: Make) -> None:
    world = make(VIEWER)
    world.bench.feed("A04", "甲1")
    world.bench.add("B1")
    world.run()
    lines = world.consumers.got["viewer"][1].decode().split("\r")
    msh = lines[0].split("|")
    assert msh[2:6] == ["BROKER", "REGION", "VIEW", "CONS"]
    assert msh[8:9] + msh[10:12] + msh[17:] == ["ADT^A31^ADT_A05", "P", "2.5", "UNICODE UTF-8", "", "", "ITI-10^IHE"]
    assert lines[2:] == ["PID|||甲1^^^HOSPA&2.999.2.1&ISO~B1^^^HOSPB&2.999.3.1&ISO|| ", "PV1||N", ""]
    audited = [one for one in world.bench.audited() if one["type"] == "ITI-10" and one["message"] == msh[9]]
    assert [one["patient"].split("^")[0] for one in audited] == ["甲1", "B1"]
    second = audited[1]
    assert (second["event"], second["action"], second["outcome"], second["nodes"], second["message"]) == (
        "110110", "R", "0", ["CONS|VIEW", "REGION|BROKER"], msh[9])


def test_the_v3_message_is_valid_and_names_no_id_twice(make: Make) -> None:
    world = make(PORTAL)
    world.bench.feed("A04", "A1")
    world.bench.add("B1")
    world.run()
    message = parse(world.consumers.got["portal"][1])
    schema.check(iti44_feed.row(OURS).schema, message)
    assert [one.get("extension") for one in message.iterfind(".//h:patient/h:id", NS)] == ["A1"]
    assert [one.get("assigningAuthorityName") for one in message.iterfind(".//h:patient/h:id", NS)] == ["HOSPA"]
    assert [one.get("extension") for one in message.iterfind(".//h:asOtherIDs/h:id", NS)] == ["B1"]
    assert message.find(".//h:patientPerson/h:name", NS).get("nullFlavor") == "NA"  # type: ignore[union-attr]
    assert message.find("h:receiver/h:device/h:id", NS).get("root") == "2.999.77.1"  # type: ignore[union-attr]


def test_a_consumer_that_is_away_is_tried_again_in_order_with_the_same_message(make: Make) -> None:
    world = make(VIEWER)
    world.consumers.answers["viewer"] = [Unavailable("the viewer"), Unavailable("the viewer")]
    world.bench.feed("A04", "A1")
    world.bench.add("B1")
    assert world.told("viewer") == ["A1"]
    assert world.told("viewer") == [], "it is left alone for a while"
    world.now += 1.5
    assert world.told("viewer") == ["A1"]
    world.now += 1.5
    assert world.told("viewer") == [], "for longer the next time"
    world.now += 1.0
    world.run()
    assert world.consumers.told("viewer") == ["A1", "A1 B1"]
    ids = [message.split(b"|")[9] for message in world.consumers.got["viewer"]]
    assert ids[0] != ids[1]
    assert [(one.state, one.number) for one in world.outbox.queues()] == [("delivered", 2)]


def test_a_retransmission_keeps_its_control_id(make: Make) -> None:
    world = make(VIEWER)
    world.consumers.answers["viewer"] = [Unavailable("the viewer")]
    world.bench.feed("A04", "A1")
    world.run()
    world.now += 2.0
    world.run()
    first, second = (message.split(b"|")[9] for message in world.consumers.got["viewer"])
    assert first == second


def test_what_a_consumer_refuses_is_kept_and_holds_up_nothing(make: Make) -> None:
    world = make(VIEWER, PORTAL)
    world.consumers.answers = {"viewer": ["AE"], "portal": ["CE"]}
    world.bench.feed("A04", "A1")
    world.bench.add("B1")
    assert world.told("viewer") == ["A1", "A1 B1"]
    assert world.consumers.told("portal") == ["A1", "A1 B1"]
    [refused] = world.outbox.listed("viewer", "refused", 10)
    assert (refused.body, refused.attempts, "204" in refused.reason) == ({"ids": [[HOSPA, "A1"]]}, 1, True)
    assert [(one.consumer, one.state, one.number) for one in world.outbox.queues()] == [
        ("portal", "delivered", 1), ("portal", "refused", 1), ("viewer", "delivered", 1), ("viewer", "refused", 1)]
    assert {one["outcome"] for one in world.bench.audited() if one["type"] in {"ITI-10", "ITI-46"}} == {"0", "4"}


def test_what_was_refused_is_sent_again_unless_something_newer_was_told(make: Make) -> None:
    """A1 alone would be what the viewer believes, and is not so any more."""
    world = make(VIEWER)
    world.consumers.answers["viewer"] = ["AE", "AE"]
    world.bench.feed("A04", "A1")
    world.bench.add("B1")
    world.run()
    old, new = world.outbox.listed("viewer", "refused", 10)
    assert world.outbox.send_at_once(old.id)
    assert world.outbox.send_at_once(new.id)
    world.consumers.answers["viewer"] = ["AE", "AA"]
    world.run()
    assert not world.outbox.send_at_once(old.id)
    assert not world.outbox.send_at_once(new.id), "it was delivered"
    assert not world.outbox.send_at_once(99)
    assert world.told("viewer") == ["A1", "A1 B1"] * 2


def test_a_refusal_of_long_ago_is_not_sent_again(make: Make) -> None:
    """What was told after it may be forgotten."""
    world = make(VIEWER)
    world.consumers.answers["viewer"] = ["AE"]
    world.bench.feed("A04", "A1")
    world.run()
    [refused] = world.outbox.listed("viewer", "refused", 10)
    world.now += KEPT_SECONDS + 1
    assert not world.outbox.send_at_once(refused.id)


def test_a_registry_elsewhere_is_not_told_anew_of_an_id_that_was_revived_since(make: Make) -> None:
    world = make(ARCHIVE)
    world.bench.feed("A04", "A1")
    world.bench.feed("A04", "A9", OTHER)
    world.told("archive")
    world.consumers.answers["archive"] = ["AE", "AE"]
    world.bench.feed("A40", "A1", retired="A9")
    world.run()
    unmerge(world.bench)
    world.run()
    joined, link = world.outbox.listed("archive", "refused", 10)
    assert not world.outbox.send_at_once(joined.id)
    assert not world.outbox.send_at_once(link.id)


def test_not_processed_is_no_refusal(make: Make) -> None:
    """AR (CR in V3): the same message may be sent again (HL7 v2.5 2.9.2.2)."""
    world = make(VIEWER, PORTAL)
    world.consumers.answers = {"viewer": ["AR"], "portal": ["CR"]}
    world.bench.feed("A04", "A1")
    world.run()
    assert {one.state for one in world.outbox.queues()} == {"waiting"}
    world.now += 2.0
    world.run()
    assert {one.state for one in world.outbox.queues()} == {"delivered"}


@pytest.mark.parametrize("answer", [
    _v2("AA", b"another"), _v2("AE", b"another"), _v2("AA", b""), _v2("CA", b""), _v2("AA", b"x").partition(b"\r")[0],
    b"", b"HTTP/1.1 400 Bad Request\r\n", b"\x00\xff" * 50,
], ids=["AA of another", "AE of another", "AA of none", "CA of none", "no MSA", "nothing", "HTTP", "noise"])
def test_what_acknowledges_another_message_or_none_is_no_answer(make: Make, answer: bytes) -> None:
    """Nobody knows what became of the message: it is sent again, and nothing goes before it."""
    world = make(VIEWER)
    world.consumers.answers["viewer"] = [answer]
    world.bench.feed("A04", "A1")
    world.bench.add("B1")
    world.run()
    assert [one.state for one in world.outbox.listed("", "", 10)] == ["waiting", "waiting"]
    world.now += 2.0
    assert world.told("viewer") == ["A1", "A1", "A1 B1"]


def test_a_refusal_need_not_say_of_what_it_is(make: Make) -> None:
    """Who could not read MSH has no MSH-10 to tell."""
    world = make(VIEWER)
    world.consumers.answers["viewer"] = [_v2("AE", b"")]
    world.bench.feed("A04", "A1")
    world.run()
    assert [one.state for one in world.outbox.listed("", "", 10)] == ["refused"]


def test_an_answer_of_v3_without_a_code_is_none(make: Make) -> None:
    world = make(PORTAL)
    world.consumers.answers["portal"] = [b'<MCCI_IN000002UV01 xmlns="urn:hl7-org:v3"/>']
    world.bench.feed("A04", "A1")
    world.run()
    assert [one.state for one in world.outbox.listed("", "", 10)] == ["waiting"]


def test_an_operator_gives_up_one_so_that_the_others_go_on(make: Make) -> None:
    world = make(VIEWER)
    world.consumers.answers["viewer"] = ["AR"]
    world.bench.feed("A04", "A1")
    world.bench.add("B1")
    world.run()
    first, _ = world.outbox.listed("viewer", "waiting", 10)
    assert world.outbox.drop(first.id)
    assert not world.outbox.drop(first.id)
    world.consumers.got.clear()
    assert world.told("viewer") == ["A1 B1"]
    [dropped] = world.outbox.listed("", "refused", 10)
    assert (dropped.id, dropped.reason) == (first.id, "dropped by an operator")


def test_nothing_is_told_of_a_feed_that_failed(make: Make) -> None:
    world = make(VIEWER)
    world.bench.feed("A04", "A1")
    world.bench.feed("A04", "A9", OTHER)
    world.told("viewer")
    world.bench.ports.failing = True
    world.bench.feed("A40", "A1", retired="A9")
    assert world.told("viewer") == []
    assert world.bench.coord.announced.count(("notify", {})) == 2


def test_what_was_delivered_is_forgotten_after_a_while(make: Make) -> None:
    world = make(VIEWER)
    world.bench.feed("A04", "A1")
    world.run()
    world.now += KEPT_SECONDS - 1
    assert world.notifier.forget() == 0
    world.now += 2
    assert world.notifier.forget() == 1
    assert world.outbox.queues() == []


def test_a_registry_elsewhere_learns_ids_joins_and_links(make: Make) -> None:
    world = make(ARCHIVE)
    bench = world.bench
    bench.feed("A04", "A1", replace(WEI, names=(PersonName("张", "伟"),)))
    bench.add("B1", replace(WEI, names=(PersonName("ZHANG", "WEI"),)))
    assert world.told("archive") == ["A04 XAD", "A04 XAD"]
    bench.add("C1", domain=HOSPC)
    assert world.told("archive") == ["A40 XAD | XAD"]
    bench.add("B1", OTHER, revise=True)
    assert world.told("archive") == ["A04 XAD", "A43 XAD B1 | XAD"]
    bench.feed("A40", "A1", retired="A2")
    assert world.told("archive") == ["A43 XAD A1 | XAD A2"]


def test_a_registry_elsewhere_hears_of_a_merge_that_is_taken_back(make: Make) -> None:
    """The revived id is fed, and what followed the merge goes back."""
    world = make(ARCHIVE)
    bench = world.bench
    bench.feed("A04", "A1")
    bench.feed("A04", "A9", OTHER)
    bench.feed("A40", "A1", retired="A9")
    assert world.told("archive") == ["A04 XAD", "A04 XAD", "A40 XAD | XAD", "A43 XAD A1 | XAD A9"]
    unmerge(bench)
    world.run()
    fed, link = world.consumers.got["archive"]
    mine, theirs = bench.affinity("A9"), bench.affinity("A1")
    assert f"PID|||{mine}^^^" in fed.decode()
    assert f"PID|||{mine}^^^REGION&{XAD}&ISO~A9^^^" in link.decode()
    assert f"MRG|{theirs}^^^REGION&{XAD}&ISO" in link.decode()


def test_a_registry_elsewhere_hears_nothing_of_an_id_that_was_there_for_a_moment(make: Make) -> None:
    """A9 gets an id, as it is an own person again, and the one of B1 with it."""
    world = make(ARCHIVE)
    bench = world.bench
    bench.feed("A04", "A9", OTHER)
    bench.add("B1", OTHER)
    bench.feed("A04", "A1")
    bench.feed("A40", "A1", retired="A9")       # B1 stays with the id it had
    world.told("archive")
    unmerge(bench)
    assert bench.who("A9") == {"A9", "B1"}
    world.run()
    [link] = world.consumers.got["archive"]
    assert f"PID|||{bench.affinity('A9')}^^^REGION&{XAD}&ISO~A9^^^" in link.decode()
    assert f"MRG|{bench.affinity('A1')}^^^REGION&{XAD}&ISO" in link.decode()


def unmerge(bench: Bench) -> None:
    desk = Desk(bench.database, bench.settler, lambda _unit, _outcome: (0, 0), lambda: 1000.0)
    desk.decide("unmerge", Wish(patient=PatientId(HOSPA, "A9")), Call(caller=Caller(node="here"), facts=AuditFacts()))


def test_a_link_change_is_that_of_the_standard(make: Make) -> None:
    world = make(ARCHIVE)
    world.bench.feed("A04", "A1")
    world.bench.add("B1")
    world.bench.add("B1", OTHER, revise=True)
    world.run()
    old, new = world.bench.affinity("A1"), world.bench.affinity("B1", HOSPB)
    fed, _, link = world.consumers.got["archive"]
    lines = link.decode().split("\r")
    msh = lines[0].split("|")
    assert (msh[2:6], msh[8], msh[11], msh[20]) == ([OURS, "REGION", "REG", "ELSE"], "ADT^A43^ADT_A43", "2.5", "ITI-64^IHE")
    assert lines[2:] == [
        f"PID|||{new}^^^REGION&{XAD}&ISO~B1^^^HOSPB&{HOSPB}&ISO|| ", f"MRG|{old}^^^REGION&{XAD}&ISO", ""]
    assert fed.decode().split("\r")[2].split("|")[3:9] == [
        f"{old}^^^REGION&{XAD}&ISO", "", "张^伟~ZHANG^WEI", "", "19790214", "M"]
    audited = {(one["type"], one["action"]) for one in world.bench.audited() if one["type"] in {"ITI-8", "ITI-64"}}
    assert audited >= {("ITI-8", "C"), ("ITI-64", "U")}
