"""Where a picture is: a file of the online tier, a record of a container, or only its hospital's PACS.

What of a container is known to be damaged is not offered: another copy is, that of its hospital's PACS if nobody nearer has one.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from broker.archive.formats.sdicom import Entry
from broker.archive.formats.sequencefile import Damaged
from broker.archive.sdfo import Sdfo, archived
from broker.config.profile import Profile
from broker.imaging import maker
from broker.imaging.store import cases, damages, locations, studies
from broker.imaging.store.damages import WHOLE
from broker.imaging.store.locations import Holding
from broker.model.errors import Unavailable
from broker.model.imaging import InstanceRef, Location, Online, Origin
from broker.model.ports import Unit

DAMAGED = "its stored copy is damaged"

_ASK_AGAIN = 3600.0     # seconds after which a PACS that sent something else is asked again: it may have mended it

log = structlog.get_logger("broker.imaging")


@dataclass(frozen=True, slots=True)
class Place:
    """One place of an instance. `transfer_syntax` as stored; empty where only the origin knows it."""

    location: Location
    transfer_syntax: str
    holding: Holding


@dataclass(slots=True)
class Located:
    """The places of every instance that was asked for, best first; an unknown one has none.

    `holdings` are the studies they may lie in; `unread` names the studies that have a container nobody could read now.
    `refused` says of an instance why its PACS is not asked for it, `damaged` whose is what the archive has only damaged.
    `spoilt` are containers that turned out not to be there or to have no index, which is not on record yet.
    """

    places: dict[InstanceRef, list[Place]]
    holdings: list[Holding] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    refused: dict[InstanceRef, str] = field(default_factory=dict)
    damaged: dict[InstanceRef, Holding] = field(default_factory=dict)
    spoilt: list[str] = field(default_factory=list)


def sources(profile: Profile) -> set[str]:
    """Return the Retrieve Location UIDs under which this broker answers: its own, and those of its hospitals."""
    return {
        profile.region.source_uid, *(h.source_uid for h in profile.hospitals if h.source_uid),
        *(maker.second_location(h, profile) for h in profile.hospitals)}


def locate(unit: Unit, refs: Iterable[InstanceRef], sdfo: Sdfo, profile: Profile) -> Located:
    """Return where these instances are: online, then archive, then origin; several at once is normal.

    Study, series and SOP Instance UID must agree with what is stored, and the source UID, where one is given, with the
    hospital: an instance under another study, series or source is not found (DICOM PS3.4 C.4.1, RAD TF-3 4.69).
    """
    located = online(unit, refs, profile)
    asked = list(_by_holding(located, profile))
    damaged = damages.damaged(unit, (holding.id for holding, _ in asked if holding.tier == "archive"))
    for holding, wanted in asked:
        _archive(unit, holding, wanted, located, sdfo, damaged)
    for holding, wanted in asked:
        hospital = profile.hospital(holding.hospital)
        if holding.tier == "origin" and hospital is not None:
            _origin(unit, holding, wanted, located)
    for ref in located.damaged:
        _in_place_of_damaged(ref, located, profile)
    return located


def online(unit: Unit, refs: Iterable[InstanceRef], profile: Profile) -> Located:
    """Return only the places in the online tier."""
    located = Located({ref: [] for ref in refs})
    located.holdings = locations.holdings(unit, {ref.study_uid for ref in located.places})
    for holding, wanted in _by_holding(located, profile):
        for row in locations.online(unit, holding.id, {sop for _, sop in wanted}):
            for ref in wanted.get((row.series_uid, row.sop_uid), ()):
                located.places[ref].append(Place(row.online, row.transfer_syntax, holding))
    return located


_Wanted = Mapping[tuple[str, str], list[InstanceRef]]


def _by_holding(located: Located, profile: Profile) -> Iterable[tuple[Holding, _Wanted]]:
    """Return each study row with the instances it may hold, keyed by series and SOP Instance UID."""
    by_study: dict[str, list[InstanceRef]] = {}
    for ref in located.places:
        by_study.setdefault(ref.study_uid, []).append(ref)
    first: dict[str, str] = {}
    for holding in located.holdings:
        names = _names(holding, profile, first)
        wanted: dict[tuple[str, str], list[InstanceRef]] = {}
        for ref in by_study[holding.study_uid]:
            if not ref.source_uid or ref.source_uid in names:
                wanted.setdefault((ref.series_uid, ref.sop_uid), []).append(ref)
        if wanted:
            yield holding, wanted


def is_first(unit: Unit, study_uid: str, hospital_key: str, profile: Profile) -> bool:
    """Say whether no other hospital's study of this UID was kept here before: its manifest may name our own source UID."""
    first: dict[str, str] = {}
    for holding in locations.holdings(unit, [study_uid]):
        _names(holding, profile, first)
    return first.get(study_uid, hospital_key) == hospital_key


def _names(holding: Holding, profile: Profile, first: dict[str, str]) -> set[str]:
    """Return the source UIDs under which a study is retrieved: what its manifests name, or named before its hospital had one.

    `first` collects by study which hospital is the first that keeps it here: only its pictures are had under our own UID,
    so that no manifest leads to the object of another hospital. Ask in the order of the rows.
    """
    hospital = profile.hospital(holding.hospital)
    asked = hospital is not None and (hospital.kind != "origin" or holding.tier == "origin" or not holding.part)
    own = hospital.source_uid if hospital and asked else None
    if own and holding.tier == "origin":
        return {own}
    if first.setdefault(holding.study_uid, holding.hospital) == holding.hospital:
        ours = profile.region.source_uid
    else:
        ours = maker.second_location(hospital, profile) if hospital else ""
    return {ours, own} if own else {ours}


def _archive(
    unit: Unit, holding: Holding, wanted: _Wanted, located: Located, sdfo: Sdfo, damaged: Mapping[str, set[str]],
) -> None:
    for path in locations.containers(unit, holding.id):
        bad = damaged.get(path, set())
        if bad and sdfo.is_recalled(path):      # it was whole when that was made, and goes when it is not
            bad = set()
        try:
            # of a container that is not what it was the pictures may be, if its own index can still be read
            entries = sdfo.index(path, fresh=WHOLE in bad).entries
            found = {key: entry for key in wanted if (entry := entries.get(key[1])) is not None}
        except Unavailable as error:
            if WHOLE in bad:
                located.damaged |= {ref: holding for refs in wanted.values() for ref in refs}
                continue
            log.warning("a container cannot be read", container=path, reason=str(error))
            located.unread.add(holding.study_uid)
            if isinstance(error, Damaged):
                located.spoilt.append(path)
            continue
        for (series_uid, sop_uid), entry in found.items():
            for ref in wanted[series_uid, sop_uid]:
                places = located.places[ref]
                places[:] = [place for place in places if not _is_late(place, holding, entry)]
                if entry.series_uid != series_uid:
                    continue
                if sop_uid in bad:
                    located.damaged[ref] = holding
                else:
                    places.append(Place(archived(path, entry), entry.transfer_syntax, holding))


def _is_late(place: Place, holding: Holding, entry: Entry) -> bool:
    """Say whether a place holds other bytes that came under the UID when it was packed: the next packing puts them aside."""
    return place.holding == holding and isinstance(place.location, Online) and place.location.sha256 != entry.sha256


def _origin(unit: Unit, holding: Holding, wanted: _Wanted, located: Located) -> None:
    aside = cases.withheld(unit, holding.id)
    for series_uid, sop_uid, _ in studies.origin_catalogue(unit, holding.id):
        case_id, state, at = aside.get(sop_uid, (0, "", 0.0))
        for ref in wanted.get((series_uid, sop_uid), ()):
            if state == cases.OPEN and at > time.time() - _ASK_AGAIN:
                located.refused[ref] = f"what its PACS sent does not agree with what it had said: conflict {case_id}"
            else:
                located.places[ref].append(Place(Origin(holding.hospital), "", holding))


def _in_place_of_damaged(ref: InstanceRef, located: Located, profile: Profile) -> None:
    """Offer the PACS that a damaged picture came from, where nothing nearer has it; a hospital that sends may have one, too."""
    holding = located.damaged[ref]
    hospital = profile.hospital(holding.hospital)
    if located.places[ref]:
        return
    if hospital is not None and hospital.port:
        located.places[ref].append(Place(Origin(holding.hospital), "", holding))
    else:
        located.refused[ref] = DAMAGED
