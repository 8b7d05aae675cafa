"""ITI-18 as a peer sees it: every row of cases.toml is asked of one small registry; answer, order of errors and audit.

A row: `query` (name or id), `slots` as [name, value, …] in the coding of the wire, `type` (LeafClass when absent),
`found` the names of all that must be answered, or `code` of the error. In values, {d1} is an id, {d1.uid} a uniqueId.
An association is named by its ends: `s1>d1`, and `s1>f1>d1` where its target is the association `f1>d1`.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from broker.audit.spool import AuditLog
from broker.config import profile as profiles
from broker.db import Database
from broker.db import schema as history
from broker.model.caller import ANONYMOUS
from broker.model.metadata import (
    APND,
    APPROVED,
    DEPRECATED,
    HAS_MEMBER,
    ON_DEMAND,
    RPLC,
    STABLE,
    Author,
    Code,
    DocumentEntry,
    Folder,
)
from broker.model.transaction import ServedTransaction
from broker.registry import iti18_query
from broker.registry.actor import Registry
from broker.registry.queries import QUERIES
from broker.security.gate import Gate
from broker.security.rules import Open
from broker.wire import ebxml
from broker.wire.ebxml_rim import tag, write_slots
from broker.wire.soap import SoapRequest
from tests.helpers.registry import (
    LIN,
    UUIDS,
    WANG,
    Directory,
    ask,
    bundle,
    document,
    element_of,
    folder,
    link,
    refs,
    register,
    request,
    schema,
    with_codes,
)

CASES = tomllib.loads(Path(__file__).with_name("cases.toml").read_text("utf-8"))["case"]

DCM = "1.2.840.10008.2.16.4"
ACCESSION = "A1^^^&2.999.2.2&ISO^urn:ihe:iti:xds:2013:accession"
SECRECY = "2.16.840.1.113883.5.25"


class World(NamedTuple):
    registry: Registry
    names: dict[str, str]                                   # name -> id
    gate: Gate
    audit: Path


def _documents() -> dict[str, DocumentEntry]:
    return {
        "d1": document("d1", unique_id="2.999.100.1", reference_id_list=(ACCESSION,)),
        "d2": document(
            "d2", unique_id="2.999.100.2", creation_time="2024", service_start_time="202405", service_stop_time="2024050602",
            authors=(Author(person="^O'Hara^Ann"), Author(person="^王^芳*")),
            codes={**with_codes("eventCodeList", ("CT", DCM), ("MR", DCM)),
                   "confidentialityCode": (Code("N", SECRECY, "Normal"), Code("R", SECRECY, "Restricted"))},
            reference_id_list=(ACCESSION, "2.999.5^^^^urn:ihe:iti:xds:2016:studyInstanceUID")),
        "d3": document("d3", unique_id="2.999.100.3", service_start_time="", creation_time="20230101"),
        "d4": document(
            "d4", unique_id="2.999.100.4", mime_type="application/pdf", service_start_time="20240506013000",
            codes={**with_codes("formatCode", ("urn:ihe:iti:xds:2017:mimeTypeSufficient", "1.3.6.1.4.1.19376.1.2.3")),
                   "classCode": (Code("REPORTS", "1.3.6.1.4.1.19376.1.2.6.1", "Reports"),)}),
        "d5": document("d5", unique_id="2.999.100.5"),
        "l1": document("l1", unique_id="2.999.100.6", patient=LIN),
    }


def _folders() -> dict[str, Folder]:
    return {
        "f1": folder("f1", unique_id="2.999.101.1"),
        "f2": folder("f2", unique_id="2.999.101.2", codes=(Code("FU", "2.999.1.91", "x"), Code("MDT", "2.999.1.91", "x"))),
    }


def _fill(registry: Registry) -> dict[str, str]:
    """Six submissions; return the ids by name."""
    d, f, ids = _documents(), _folders(), dict[str, str]()

    def send(name: str, bring: list[str], folders: list[str], links: list[tuple[str, str, str, str]], **changes: Any) -> None:
        brought = [d[key] for key in bring]
        ends = {key: ids.get(key, key) for _, a, b, _ in links for key in (a, b)}
        joined = [link(ends[a], ends[b], kind, status=status) for kind, a, b, status in links]
        patient = LIN if name == "s6" else WANG
        register(registry, bundle(
            brought, [f[key] for key in folders], joined, patient, id="SS", unique_id=f"2.999.102.{name[1:]}", **changes))
        ids[name] = refs(registry, "GetSubmissionSetAndContents", {"$XDSSubmissionSetUniqueId": f"2.999.102.{name[1:]}"})[0]
        for key in bring:
            ids[key], = refs(registry, "GetDocuments", {"$XDSDocumentEntryUniqueId": [d[key].unique_id]})
        for key in folders:
            ids[key], = refs(registry, "GetFolders", {"$XDSFolderUniqueId": [f[key].unique_id]})

    send("s1", ["d1", "d2"], ["f1"], [(HAS_MEMBER, "f1", "d1", "")])
    send("s2", ["d3"], [], [(HAS_MEMBER, "f1", "d3", "")], submission_time="20240507", authors=(Author(person="^赵^六"),))
    send("s3", ["d4"], [], [(RPLC, "d4", "d3", "")], source_id="2.999.3", content_type=Code("IMG", "2.999.1.90", "x"))
    send("s4", ["d5"], [], [(APND, "d5", "d1", "")])
    send("s6", ["l1"], [], [])
    send("s5", [], ["f2"], [(HAS_MEMBER, "f2", "d2", ""), (HAS_MEMBER, "SS", "l1", "Reference")])
    return ids


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder_ = tmp_path_factory.mktemp("iti18")
    database = Database(f"sqlite:///{folder_ / 'broker.db'}")
    history.upgrade(database)
    registry = Registry(database, Directory(), profiles.load("demo"))
    ids = _fill(registry)
    yield World(registry, ids, Gate(Open(), AuditLog(folder_ / "audit", "test", "test")), folder_ / "audit")
    database.close()


def _names(world: World) -> dict[str, str]:
    """Return id -> name of every object, associations by their ends."""
    names = {key: name for name, key in world.names.items()}
    links = ask(world.registry, "GetAssociations", {"$uuid": list(names)}).associations
    second = ask(world.registry, "GetAssociations", {"$uuid": [item.id for item in links]}).associations
    for found in (links, second):
        names |= {item.id: f"{names[item.source]}>{names[item.target]}" for item in found if item.target in names}
    return names


def _request(world: World, case: dict[str, Any]) -> SoapRequest:
    fill = dict(world.names)
    fill |= {f"{key}.uid": entry.unique_id for key, entry in _documents().items()}
    fill |= {f"{key}.uid": found.unique_id for key, found in _folders().items()}
    fill |= {f"s{n}.uid": f"2.999.102.{n}" for n in range(1, 7)} | {"wang": str(WANG), "lin": str(LIN)}
    fill |= {"approved": APPROVED, "deprecated": DEPRECATED, "member": HAS_MEMBER, "rplc": RPLC, "apnd": APND,
             "stable": STABLE, "ondemand": ON_DEMAND}

    def filled(text: str) -> str:
        for name, value in fill.items():
            text = text.replace("{" + name + "}", value)
        return text

    body = request(case["query"], {}, case.get("type", "LeafClass")).body
    query = body.find(tag("AdhocQuery"))
    assert query is not None
    write_slots(query, [(name, tuple(map(filled, values))) for name, *values in case["slots"]])
    schema("query").assertValid(body)
    return SoapRequest(body=body, message=iti18_query.ROW.messages[0])


@pytest.mark.parametrize("case", [pytest.param(case, id=case["id"]) for case in CASES])
def test_case(case: dict[str, Any], world: World) -> None:
    raw = _request(world, case)
    reply = element_of(world.gate.perform(ServedTransaction(iti18_query.ROW, world.registry), raw, ANONYMOUS))
    schema("query").assertValid(reply)
    said = ebxml.read_registry_response(reply)
    listing = reply.find(tag("RegistryObjectList"))
    assert listing is not None
    if "code" in case:
        assert (said.status, len(listing)) == (ebxml.FAILURE, 0)
        assert [problem.code for problem in said.problems] == [case["code"]]
        assert all(text in said.problems[0].context for text in case.get("says", []))
    else:
        assert said.status == ebxml.SUCCESS, said.problems
        names = _names(world)
        assert sorted(names[element.get("id", "")] for element in listing) == sorted(case["found"])
        wanted = [case.get("type") == "ObjectRef"] * len(listing)
        assert [element.tag == tag("ObjectRef") for element in listing] == wanted
    record = [line for file in world.audit.iterdir() for line in file.read_text("utf-8").splitlines()][-1]
    assert 'csd-code="110112"' in record
    assert 'EventActionCode="E"' in record
    assert f'EventOutcomeIndicator="{"4" if "code" in case else "0"}"' in record
    assert f'ParticipantObjectID="{UUIDS.get(case["query"], case["query"])}"' in record


def test_every_query_and_every_parameter_has_a_case() -> None:
    asked = {case["query"] for case in CASES if case.get("found")}
    assert {query.name for query in QUERIES.values()} <= asked
    used = {name for case in CASES for name, *_ in case["slots"]}
    assert {parameter.name for query in QUERIES.values() for parameter in query.parameters} <= used
    assert all(case.get("clause") for case in CASES)


def test_ids_of_the_queries() -> None:
    assert UUIDS == {
        "FindDocuments": "urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d",
        "FindSubmissionSets": "urn:uuid:f26abbcb-ac74-4422-8a30-edb644bbc1a9",
        "FindFolders": "urn:uuid:958f3006-baad-4929-a4de-ff1114824431",
        "GetAll": "urn:uuid:10b545ea-725c-446d-9b95-8aeb444eddf3",
        "GetDocuments": "urn:uuid:5c4f972b-d56b-40ac-a5fc-c8ca9b40b9d4",
        "GetFolders": "urn:uuid:5737b14c-8a1a-4539-b659-e03a34a5e1e4",
        "GetAssociations": "urn:uuid:a7ae438b-4bc2-4642-93e9-be891f7bb155",
        "GetDocumentsAndAssociations": "urn:uuid:bab9529a-4a10-40b3-a01f-f68a615d247a",
        "GetSubmissionSets": "urn:uuid:51224314-5390-4169-9b91-b1980040715a",
        "GetSubmissionSetAndContents": "urn:uuid:e8e3cb2c-e39c-46b9-99e4-c12f57260b83",
        "GetFolderAndContents": "urn:uuid:b909a503-523d-4517-8acf-8e5834dfc4c7",
        "GetFoldersForDocument": "urn:uuid:10cae35a-c7f9-4cf5-b61e-fc3278ffb578",
        "GetRelatedDocuments": "urn:uuid:d90e5407-b356-4d91-a89f-873917b4b0e6",
        "FindDocumentsByReferenceId": "urn:uuid:12941a89-e02e-4be5-967c-ce4bfc8fe492",
    }
