"""What a source says of two of its ids: that they are one person's, or never."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from broker.model.errors import Hl7Code, Rejected
from broker.model.ids import PatientId
from broker.patients.decisions import STEWARD, DecisionWork
from broker.patients.events import Decided
from broker.patients.identifiers import Authorities, GivenId, Sender


@dataclass(frozen=True, slots=True, kw_only=True)
class Tie:
    """`verdict` is `Decided.SAME` or `Decided.APART`; `ids` are those given for each of the two, `places` where they stand."""

    verdict: str
    sender: Sender
    ids: Sequence[Sequence[GivenId]]
    places: Sequence[str]

    def named(self, authorities: Authorities) -> list[tuple[PatientId, GivenId]]:
        """Return the two ids that are the sender's to feed, each as it was given.

        Raise `Rejected`: 101 for none, 204 for one that is not the sender's, 205 for one id twice.
        """
        pair = [authorities.for_feed(ids, self.sender, place) for ids, place in zip(self.ids, self.places, strict=True)]
        if pair[0][0] == pair[1][0]:
            raise Rejected(Hl7Code.DUPLICATE_KEY, "both ids are the same", self.places[1])
        return pair

    def carry_out(
        self, work: DecisionWork, pair: Sequence[tuple[PatientId, GivenId]], decided_by: Callable[[PatientId, PatientId], str],
    ) -> None:
        """Decide it. `decided_by` says who decided last of two ids.

        Raise `Rejected`: 204 for an id that no feed has named, or that was merged away, 206 where a steward decided otherwise.
        """
        for (patient, given_id), place in zip(pair, self.places, strict=True):
            found = work.index.find(patient)
            if found is None or not found.active:
                why = "was merged away" if found else "is not known: no feed has named it"
                raise Rejected(Hl7Code.UNKNOWN_KEY, f"{given_id.title} {why}", place)
        (one, _), (other, _) = pair
        before = work.index.decisions(one).get(other)
        if before == self.verdict:
            return
        if before is not None and decided_by(one, other).startswith(STEWARD):
            raise Rejected(Hl7Code.RECORD_LOCKED, "a steward of the region decided otherwise of these two", self.places[1])
        if self.verdict == Decided.SAME:
            work.link(one, other, force=True)
        else:
            work.unlink(one, other)
