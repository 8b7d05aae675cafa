"""What a registry does when a local id turns out to be another person's: its documents follow it (as ITI-64, ITI TF-2 3.64).

A Folder or SubmissionSet that holds nothing else goes along. A SubmissionSet that holds documents of both is divided: what goes
gets a set of its own with the same attributes and a new uniqueId. Whatever else joined objects of the two patients (membership
in a folder that stays, a relation of two documents) ends, because a query about the one would show the other.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import structlog

from broker.model.ids import PatientId, new_oid, new_uuid_urn
from broker.model.metadata import HAS_MEMBER, Association, RegistryObjects
from broker.model.ports import Unit
from broker.registry import store
from broker.registry.store import ASSOCIATION, FOLDER, SUBMISSION
from broker.wire import ebxml_stored

log = structlog.get_logger("broker.registry")


def relink(
    unit: Unit, local: Collection[PatientId], before: PatientId, now: PatientId, aliases: Mapping[str, str],
) -> set[str]:
    """Move to `now` what is registered for `before` with one of these source patient ids; return which documents went.

    The caller holds the locks of both patients. `aliases` maps designators of coding schemes to their OIDs.
    """
    wanted = set(map(str, local))
    documents = {entry.id for entry in store.documents_of(unit, before) if entry.source_patient_id in wanted}
    if not documents:
        return documents
    going = documents | _whole(unit, documents, FOLDER)
    for uuid, members in _holders(unit, going, SUBMISSION).items():
        going = going | {uuid if members <= going else _divide(unit, uuid, members & going, now, aliases)}
    links = {link.id: link for link in store.links_of(unit, going)}
    links |= {link.id: link for link in store.links_of(unit, links)}
    inside = {link.id for link in links.values() if link.source in going and link.target in going}
    inside |= {link.id for link in links.values() if link.source in going and link.target in inside}
    store.give(unit, going | inside, now)
    store.remove_links(unit, links.keys() - inside)
    log.info("documents follow their source patient", documents=len(documents), links_ended=len(links) - len(inside))
    return documents


def _holders(unit: Unit, uuids: Collection[str], kind: str) -> dict[str, set[str]]:
    """Return the packages of a kind that hold one of these objects, each with all it holds but associations."""
    sources = {link.source for link in store.links_of(unit, uuids) if link.type == HAS_MEMBER and link.target in uuids}
    packages = {uuid for uuid, one in store.summaries(unit, sources).items() if one.kind == kind}
    links = [link for link in store.links_of(unit, packages) if link.type == HAS_MEMBER and link.source in packages]
    members = {uuid for uuid, one in store.summaries(unit, (link.target for link in links)).items() if one.kind != ASSOCIATION}
    return {package: {link.target for link in links if link.source == package} & members for package in packages}


def _whole(unit: Unit, going: set[str], kind: str) -> set[str]:
    return {uuid for uuid, members in _holders(unit, going, kind).items() if members <= going}


def _divide(unit: Unit, uuid: str, members: Iterable[str], now: PatientId, aliases: Mapping[str, str]) -> str:
    """Register a set like this one for the members that go and return its id; their old memberships end by crossing."""
    made = replace(store.submission_set(unit, uuid), id=new_uuid_urn(), unique_id=new_oid(), patient_id=str(now))
    links = tuple(
        Association(id=new_uuid_urn(), type=HAS_MEMBER, source=made.id, target=one, submission_set_status="Original")
        for one in sorted(members))
    registered = ebxml_stored.made(RegistryObjects(submission_sets=(made,), associations=links), new_uuid_urn)
    store.insert(unit, registered, now, aliases)
    return made.id
