"""What a PACS is asked for in one fetch: the study, then its series, then instances, until what can be had is had. Pure.

A PACS that cannot send one object often fails the whole request with it: Orthanc stops at the first one, others break
off the association. So what a failed request left out is asked for in smaller pieces: by series, by SOP class, by halves,
at last one by one; what fails alone cannot be had. A PACS that names what it could not send, or that says success, is
asked a second time for the rest and no more. The number of requests is bounded.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from broker.imaging.store.fetches import NOT_SENT, Wanted
from broker.model.ids import is_uid
from broker.model.ports import Retrieved, Want

ATTEMPTS = 2        # requests that were answered and did not bring an instance, after which it is not asked for again
IN_VAIN = 12        # requests that failed before a first object came, after which the PACS itself is taken to be at fault
_LIST = 200         # instances of one series asked for at once

# Failures that have nothing to do with what was asked for (PS3.7 annex C, PS3.4 C.4.2.1.5): every request fails so. But for
# a list of instances: pynetdicom's qrscp answers one with 0xA801, whatever the destination.
_HOPELESS = frozenset((0x0122, 0x0124, 0x0211, 0xA801))

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Listed:
    """What the catalogue says of an instance; `sop_class` may be empty."""

    series_uid: str
    sop_class: str


@dataclass(frozen=True, slots=True)
class Request:
    """One retrieve and the instances it is for."""

    want: Want
    sop_uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended; `failed` says that the PACS gave it up as a whole, so that the rest was not tried."""

    request: Request
    retrieved: Retrieved
    failed: bool = False

    @property
    def doubtful(self) -> set[str]:
        """The instances that may have been sent although they are not here yet."""
        if self.failed:
            return set()
        return set(self.request.sop_uids) - set(self.retrieved.failed) - self.retrieved.refused.keys()


@dataclass(slots=True)
class Asking:
    """The requests of one fetch. Call `more` with what is missing, carry them out, tell `ended` of each, and again.

    `listed` is the PACS's own list of the study by SOP Instance UID; it may lack instances. `most` bounds the requests
    beyond the first ones. After `more`, `reasons` says what was found to be impossible since the call before, and
    what the PACS did instead.
    """

    study_uid: str
    listed: Mapping[str, Listed]
    most: int
    reasons: dict[str, str] = field(default_factory=dict)
    _ended: list[Ended] = field(default_factory=list)
    _postponed: list[Request] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _answered: Counter[str] = field(default_factory=Counter)
    _whole_series: set[str] = field(default_factory=set)        # those that were asked for as series, not as lists
    _lists_work: bool = False
    _useful: bool = False
    _vain: int = 0
    _spent: int = 0
    _sizes: Counter[str] = field(init=False)                    # instances of each series

    def __post_init__(self) -> None:
        """Count the instances of each series."""
        self._sizes = Counter(about.series_uid for about in self.listed.values())

    def ended(self, one: Ended) -> None:
        """Note how a request ended."""
        self._ended.append(one)

    def postpone(self, requests: Iterable[Request]) -> None:
        """Have `more` return these again: they were not carried out."""
        self._postponed.extend(requests)

    @property
    def in_vain(self) -> bool:
        """Whether every request failed and nothing came."""
        return self._vain > 0 and not self._useful

    def exhausted(self, sop_uid: str) -> bool:
        """Say whether the PACS answered as often as it is asked, and did not send this instance."""
        return self._answered[sop_uid] >= ATTEMPTS

    def more(self, missing: Sequence[Wanted]) -> list[Request]:
        """Return what to ask for next, nothing when everything came or cannot be had."""
        self.reasons.clear()
        places = {want.sop_uid: want.series_uid for want in missing}
        ended, self._ended = self._ended, []
        self._judge(ended, places)
        failure = self._hopeless(ended)
        if failure is not None:
            self.reasons |= dict.fromkeys(places, _not_sent(failure.words))
            return []
        further = [(request, one.retrieved.words) for one in ended for request in self._after(one, places)]
        room = max(0, self.most - self._spent)
        self._spent += len(further)
        for request, words in further[room:]:
            self.reasons |= dict.fromkeys(request.sop_uids, _not_sent(words or f"asked {self.most} times more"))
        postponed, self._postponed = [one for one in self._postponed if not places.keys().isdisjoint(one.sop_uids)], []
        return [*postponed, *self._begin(missing), *(request for request, _ in further[:room])]

    def _judge(self, ended: Sequence[Ended], missing: Mapping[str, str]) -> None:
        for one in ended:
            came = any(sop_uid not in missing for sop_uid in one.request.sop_uids)
            self._useful = self._useful or came or not one.failed
            self._lists_work = self._lists_work or (came and len(one.request.want.sop_uids) > 1)
            self._vain += one.failed

    def _hopeless(self, ended: Sequence[Ended]) -> Retrieved | None:
        """Return the failure that every further request would end with; None while there is hope."""
        failures = [one.retrieved for one in ended if one.failed]
        told = [one.retrieved for one in ended
                if one.failed and one.retrieved.status in _HOPELESS and len(one.request.want.sop_uids) < 2]
        return next(iter(told or (failures if not self._useful and self._vain >= IN_VAIN else [])), None)

    def _begin(self, missing: Sequence[Wanted]) -> list[Request]:
        """Return the requests for what nobody asked for yet: for the whole study when that is all of it."""
        fresh = {want.sop_uid: want.series_uid for want in missing if want.sop_uid not in self._seen}
        whole = not self._seen and bool(self.listed) and self.listed.keys() <= fresh.keys()
        self._seen |= fresh.keys()
        return [self._request(list(fresh))] if whole else self._lists(fresh, by_class=False)

    def _after(self, one: Ended, places: Mapping[str, str]) -> list[Request]:
        """Return the requests that follow one that ended, for what it left out."""
        left = {sop_uid: places[sop_uid] for sop_uid in one.request.sop_uids if sop_uid in places}
        if one.failed and not left.keys() <= set(one.retrieved.failed):     # else it did try each of them (dcmtk's dcmqrscp)
            return self._narrow(one, left)
        self._answered.update(left.keys())
        again = {sop_uid: series_uid for sop_uid, series_uid in left.items() if not self.exhausted(sop_uid)}
        said = one.retrieved
        for sop_uid in left.keys() - again.keys():
            told = sop_uid in said.failed or (said.status and not said.failed)
            if sop_uid in said.refused:
                self.reasons[sop_uid] = f"sent it, and it was refused here: {said.refused[sop_uid]}"
            elif told:
                self.reasons[sop_uid] = _not_sent(said.words)
        return self._lists(again, by_class=said.status != 0, attempt=one.request.want.attempt + 1)

    def _narrow(self, one: Ended, left: Mapping[str, str]) -> list[Request]:
        """Return the smaller requests in place of one that failed."""
        request, attempt = one.request, one.request.want.attempt
        if not request.want.series_uids:
            series = _grouped(left, left.__getitem__)
            return [found for uid, members in series.items() for found in self._series(uid, members, attempt)]
        if len(request.want.sop_uids) == 1:
            self.reasons |= dict.fromkeys(left, _not_sent(one.retrieved.words))
            return []
        (series_uid,) = request.want.series_uids
        if len(_grouped(left, self._class_of)) > 1 or len(left) < len(request.sop_uids):
            return self._lists(left, by_class=True, attempt=attempt)
        if series_uid not in self._whole_series and not self._lists_work:   # it may take no lists (pynetdicom's qrscp)
            self._whole_series.add(series_uid)
            return [self._request(list(left), series_uid, attempt)]
        half = (len(left) + 1) // 2
        parts = list(left)[:half], list(left)[half:]
        return [self._request(part, series_uid, attempt, listed=True) for part in parts if part]

    def _series(self, series_uid: str, members: list[str], attempt: int) -> list[Request]:
        """Return the request for a series, as a whole when all of it is missing."""
        if sum(sop_uid in self.listed for sop_uid in members) >= self._sizes[series_uid]:
            self._whole_series.add(series_uid)
            return [self._request(members, series_uid, attempt)]
        return self._lists(dict.fromkeys(members, series_uid), by_class=False, attempt=attempt)

    def _lists(self, places: Mapping[str, str], *, by_class: bool, attempt: int = 0) -> list[Request]:
        """Return requests by instance. One names one series (PS3.4 C.4.2.2.1), `by_class` one SOP class as well."""
        groups = _grouped(places, lambda uid: (places[uid], self._class_of(uid) if by_class else ""))
        return [
            self._request(members[start:start + _LIST], series_uid, attempt, listed=True)
            for (series_uid, _), members in groups.items() for start in range(0, len(members), _LIST)]

    def _request(self, sop_uids: Sequence[str], series_uid: str = "", attempt: int = 0, *, listed: bool = False) -> Request:
        series_uids, asked_for = (series_uid,) if series_uid else (), tuple(sop_uids) if listed else ()
        return Request(Want(self.study_uid, series_uids, asked_for, self._classes(sop_uids), attempt), tuple(sop_uids))

    def _class_of(self, sop_uid: str) -> str:
        about = self.listed.get(sop_uid)
        return about.sop_class if about else ""

    def _classes(self, sop_uids: Iterable[str]) -> tuple[str, ...]:
        """Return the SOP classes of these instances, sorted; none when that of one is not known."""
        classes = {self._class_of(sop_uid) for sop_uid in sop_uids}
        return tuple(sorted(classes)) if all(is_uid(uid) for uid in classes) else ()


def _not_sent(words: str) -> str:
    return f"{NOT_SENT}: {words}"


def _grouped(sop_uids: Iterable[str], key: Callable[[str], _Key]) -> dict[_Key, list[str]]:
    found: dict[_Key, list[str]] = {}
    for sop_uid in sop_uids:
        found.setdefault(key(sop_uid), []).append(sop_uid)
    return found
