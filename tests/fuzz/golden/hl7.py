"""Golden HL7 messages, v2 and V3."""

from dataclasses import replace
from typing import Any

from broker.model.ids import PatientId
from broker.wire import hl7v3
from broker.wire.hl7v2 import Header, frame, parse, write_ack
from broker.wire.hl7v2_pix import write_adt, write_pix_query, write_pix_reply
from broker.wire.xml import parse as parse_xml
from tests.fuzz.golden.origin import HAND, MESSAGE_ID, OURS, PERSON, Files

LOCAL, RETIRED = PatientId("2.999.2.1", "A-1"), PatientId("2.999.2.1", "A-2")
LOCAL_B, RETIRED_B = PatientId("2.999.3.1", "B-1"), PatientId("2.999.3.1", "B-2")
_NODES: dict[str, Any] = {"sender": "2.999.3.9", "receiver": "2.999.1.4", "message_id": MESSAGE_ID}
_HAND_ADT = (
    "MSH|^~\\&|HIS-A|HOSPA|BROKER|REGION|20260301101500||ADT^{}|m1|P|2.3.1||||||{}\rEVN||20260301101500\r"
    "PID|1||A1^^^HOSPA^MR~110101199003078888^^^NI||{}^\\S\\{}~ZHANG^WEI||{}|F|||北京市^^^^100000\rPV1|1|O\r")


def _header(charset: str = "UNICODE UTF-8", version: str = "2.3.1") -> Header:
    return Header(sender=("HIS-A", "HOSPA"), receiver=("BROKER", "REGION"), charset=charset, version=version,
                  message_id=MESSAGE_ID)


def _messages() -> Files:
    gb = _header("GB 18030-2000")
    return {
        "a04-utf8.hl7": (OURS, write_adt(_header(), "A04", LOCAL, PERSON, namespace="HOSPA")),
        "a08-gb18030.hl7": (OURS, write_adt(gb, "A08", LOCAL, PERSON, namespace="HOSPA")),
        "a40-big5.hl7": (OURS, write_adt(_header("BIG5"), "A40", LOCAL, replace(PERSON, addresses=()), retired=RETIRED)),
        "q23.hl7": (OURS, write_pix_query(_header(version="2.5"), LOCAL, ["2.999.1.1", "2.999.3.1"])),
        "a04-hand.hl7": (HAND, _HAND_ADT.format("A04", "GB 18030-2000", "区", "瑋", "19900307").replace(
            "\r", "\r\n").encode("gb18030")),
        "a31-empty-charset.hl7": (HAND, _HAND_ADT.format("A31", "", "王", "芳", '""').encode()),
    }


def _streams() -> Files:
    found = {name: (origin, frame(data)) for name, (origin, data) in _messages().items()}
    query = parse(_messages()["q23.hl7"][1])
    stream = b"\n\0".join(data for _, data in found.values()) + b"\x0bMSH|never ended" + found["a04-utf8.hl7"][1]
    return {
        **found,
        "k23.hl7": (OURS, frame(write_pix_reply(query, MESSAGE_ID, [(LOCAL, "HOSPA"), (PatientId("2.999.3.1", "B&1"), "")]))),
        "ack.hl7": (OURS, frame(write_ack(query, MESSAGE_ID))),
        "stream.hl7": (f"{OURS}, several frames with noise between them", stream),
    }


def _fresh() -> Files:
    """Messages whose control id is new each time."""
    return {name: (origin, data.replace(b"|m1|", b"|@N@|", 1)) for name, (origin, data) in _messages().items()}


def v3_messages() -> Files:
    """Return every message of the PIX profile."""
    query = hl7v3.write_pix_query(LOCAL_B, ["2.999.1.1", "2.999.2.1"], **_NODES)
    element = parse_xml(query)
    return {
        "201301.xml": (OURS, hl7v3.write_add_patient(LOCAL_B, PERSON, **_NODES)),
        "201302.xml": (OURS, hl7v3.write_add_patient(LOCAL_B, PERSON, revise=True, **_NODES)),
        "201304.xml": (OURS, hl7v3.write_merge_patient(LOCAL_B, RETIRED_B, PERSON.names, **_NODES)),
        "201309.xml": (OURS, query),
        "201310.xml": (OURS, hl7v3.write_pix_answer(element, MESSAGE_ID, [(LOCAL_B, "HOSPB")], manager="2.999.1.4")),
        "ack.xml": (OURS, hl7v3.write_ack(element, MESSAGE_ID, manager="2.999.1.4")),
        "201301-hand.xml": (f"{HAND}: prefixes, a comment, blanks", _HAND_201301.encode()),
    }


_HAND_201301 = """<?xml version="1.0" encoding="UTF-8"?>
<v3:PRPA_IN201301UV02 xmlns:v3="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" ITSVersion="XML_1.0">
  <!-- a comment -->
  <v3:id root="22a0f9e0-4454-11dc-a6be-3603d6866807"/><v3:creationTime value="20260301101500"/>
  <v3:interactionId root="2.16.840.1.113883.1.6" extension="PRPA_IN201301UV02"/><v3:processingCode code="P"/>
  <v3:processingModeCode code="T"/><v3:acceptAckCode code="AL"/>
  <v3:receiver typeCode="RCV"><v3:device classCode="DEV" determinerCode="INSTANCE"><v3:id root="2.999.1.4"/></v3:device>
  </v3:receiver><v3:sender typeCode="SND"><v3:device classCode="DEV" determinerCode="INSTANCE"><v3:id root="2.999.3.9"/>
  </v3:device></v3:sender>
  <v3:controlActProcess classCode="CACT" moodCode="EVN"><v3:code code="PRPA_TE201301UV02" codeSystem="2.16.840.1.113883.1.6"/>
    <v3:subject typeCode="SUBJ" contextConductionInd="false"><v3:registrationEvent classCode="REG" moodCode="EVN">
      <v3:id nullFlavor="NA"/><v3:statusCode code="active"/>
      <v3:subject1 typeCode="SBJ"><v3:patient classCode="PAT"><v3:id root="2.999.3.1" extension="B-9"/>
        <v3:statusCode code="active"/>
        <v3:patientPerson classCode="PSN" determinerCode="INSTANCE">
          <v3:name use="L"><v3:family>歐陽</v3:family><v3:given>瑋&amp;明</v3:given></v3:name><v3:name>欧阳 明</v3:name>
          <v3:telecom value="tel:+86-20-1"/><v3:administrativeGenderCode code="UN"/><v3:birthTime value="19790214"/>
          <v3:addr><v3:city>广州</v3:city></v3:addr></v3:patientPerson>
        <v3:providerOrganization classCode="ORG" determinerCode="INSTANCE"><v3:id root="2.999.3.1"/>
          <v3:contactParty classCode="CON"/></v3:providerOrganization></v3:patient></v3:subject1>
      <v3:custodian typeCode="CST"><v3:assignedEntity classCode="ASSIGNED"><v3:id root="2.999.3.1"/></v3:assignedEntity>
      </v3:custodian></v3:registrationEvent></v3:subject></v3:controlActProcess></v3:PRPA_IN201301UV02>
"""

FOLDERS = {"hl7v2": _streams, "mllp": _fresh, "hl7v3": v3_messages}
