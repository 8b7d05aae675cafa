"""Feeds, cross-references and notifications in the whole broker: every such message of docs/examples, sent and answered."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from broker.client.mllp import feed_v2
from broker.model.ids import PatientId
from broker.wire import hl7v3, xml
from broker.wire.hl7v2 import parse
from broker.wire.hl7v2_pix import read_ack, read_pix_answer
from tests.helpers.consumers import Got, v2_consumer, v3_consumer
from tests.helpers.region import Region
from tests.helpers.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
H2 = PatientId("2.999.3.1", "H2-301")
CONSUMERS = """
[[consumer]]
key = "viewer"
transaction = "ITI-10"
host = "127.0.0.1"
port = {viewer}
application = "VIEW"
facility = "CONS"

[[consumer]]
key = "portal"
transaction = "ITI-46"
url = "http://127.0.0.1:{portal}/pixconsumer"
device_oid = "2.999.77.1"

[[consumer]]
key = "elsewhere"
transaction = "ITI-64"
host = "127.0.0.1"
port = {elsewhere}
application = "REG"
facility = "ELSE"
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Region, dict[str, Got]]]:
    """A broker whose consumers listen, and what each of them got."""
    with v2_consumer() as (viewer, seen), v3_consumer() as (portal, notified), v2_consumer() as (elsewhere, registered):
        region = Region(tmp_path_factory.mktemp("examples"))
        consumers = CONSUMERS.format(viewer=viewer, portal=portal, elsewhere=elsewhere)
        (region.folder / "region" / "consumers.toml").write_text(consumers, "utf-8")
        with region:
            yield region, {"viewer": seen, "portal": notified, "elsewhere": registered}


def v2(region: Region, name: str) -> bytes:
    return feed_v2("127.0.0.1", region.mllp_port, message(name))


def message(name: str) -> bytes:
    return (EXAMPLES / f"{name}.hl7").read_bytes().replace(b"\n", b"\r")


def v3(region: Region, name: str) -> xml.Element:
    """Send an example; return the Body's child of its answer."""
    body = (EXAMPLES / f"{name}.xml").read_bytes()
    answer = httpx.post(f"{region.url}/pix", content=body, headers={"Content-Type": "application/soap+xml"}, trust_env=False)
    assert answer.status_code == 200, answer.text
    [child] = xml.parse(answer.content).iterfind(f"{{{xml.SOAP}}}Body/*")
    return child


def masked(data: bytes) -> str:
    """Return a message without what is new in each: times, message ids and ids of the affinity domain."""
    text = re.sub(r"\b[0-9]{14}(?:[+-][0-9]{4})?", "TIME", data.decode())
    text = re.sub(r"(?<=[|~>\"])[0-9A-HJKMNP-TV-Z]{15}\b", "AFFINITY", text)
    text = re.sub(r"(?<=\|)[0-9a-f]{20}(?=\|P\|)|(?<=extension=\")[0-9a-f]{20}", "MESSAGE", text)
    return re.sub(r">\s+<", "><", text).strip()


def came(got: Got, wanted: str) -> bool:
    return wanted in map(masked, got)


def shown(region: Region, value: str) -> str:
    return region.run("patients", "show", value)


def test_every_example_is_taken_and_what_follows_is_told(told: tuple[Region, dict[str, Got]]) -> None:
    region, got = told
    for event in ("a01", "a04", "a05", "a28", "a08", "a31", "a40", "a47"):
        answer = parse(v2(region, f"iti8-{event}"))
        read_ack(answer)
        assert answer.need("MSA").get(2).startswith("adt-"), event
    assert "HOSPA:H1-2004 was merged away; it lives on as HOSPA:H1-2003." in shown(region, "HOSPA:H1-2004")
    assert "it lives on as HOSPA:H1-2102." in shown(region, "HOSPA:H1-2002")
    for name, acknowledged in (("iti44-add", "CA"), ("iti44-revise", "CA"), ("iti44-merge", "CA")):
        answer_v3 = v3(region, name)
        assert (xml.local_name(answer_v3), hl7v3.acknowledged(answer_v3)) == ("MCCI_IN000002UV01", acknowledged), name
    assert "中山路8号" in region.run("patients", "show", "HOSPB:H2-301", "--json")
    assert read_pix_answer(parse(v2(region, "iti9-query"))) == (H2,)
    assert hl7v3.read_pix_answer(v3(region, "iti45-query")) == (H2,)
    read_ack(parse(v2(region, "iti30-a24")))
    assert "HOSPA:H1-2003: decided" in shown(region, "HOSPA:H1-2102")
    read_ack(parse(v2(region, "iti30-a37")))
    assert "never HOSPA:H1-2003: decided" in shown(region, "HOSPA:H1-2102")
    sent = {
        "viewer": message("iti10-notification"), "elsewhere": message("iti64-link-change"),
        "portal": xml.canonical(xml.parse((EXAMPLES / "iti46-notification.xml").read_bytes()))}
    for consumer, example in sent.items():
        eventually(partial(came, got[consumer], masked(example)))
    assert {("ITI-8", "C", "0"), ("ITI-8", "U", "0"), ("ITI-8", "D", "0"), ("ITI-9", "E", "0"), ("ITI-44", "C", "0"),
            ("ITI-44", "U", "0"), ("ITI-45", "E", "0"), ("ITI-10", "R", "0"), ("ITI-46", "R", "0"),
            ("ITI-64", "U", "0")} <= region.audited()


def test_there_is_an_example_of_every_trigger(told: tuple[Region, dict[str, Got]]) -> None:
    """Each message that is listed at /services, and each that consumers are told by."""
    region, _ = told
    services = httpx.get(f"{region.url}/services", trust_env=False).json()["services"]
    names = {f"{one['code'].lower().replace('-', '')}-{name.partition('^')[2].lower()}" for one in services
             if one["code"] in {"ITI-8", "ITI-30"} for name in one["messages"]}
    assert names == {file.stem for file in EXAMPLES.glob("iti8-*")} | {file.stem for file in EXAMPLES.glob("iti30-*")}
