"""Bundles of FHIR R4 that answer a search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from broker.wire.fhir_outcome import outcome

_GRADE = "http://hl7.org/fhir/StructureDefinition/match-grade"


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A resource that answers, its address, and how well it does: 0 to 1; `grade` is a code of the value set match-grade."""

    url: str
    resource: dict[str, Any]
    score: float
    grade: str = ""

    def entry(self) -> dict[str, Any]:
        """Return it as an entry."""
        extension = [{"url": _GRADE, "valueCode": self.grade}] if self.grade else []
        search = {"extension": extension} if extension else {}
        return {"fullUrl": self.url, "resource": self.resource, "search": {**search, "mode": "match", "score": self.score}}


def searchset(
    matches: Sequence[Match], *, total: int, links: Sequence[tuple[str, str]] = (), warning: str = "",
) -> dict[str, Any]:
    """Return the searchset. `links` are (relation, address); a `warning` for people is told by an OperationOutcome behind all."""
    entries = [match.entry() for match in matches]
    if warning:
        entries.append({"resource": outcome("incomplete", warning, severity="warning"), "search": {"mode": "outcome"}})
    found = {"link": [{"relation": relation, "url": url} for relation, url in links], "entry": entries}
    return {"resourceType": "Bundle", "type": "searchset", "total": total, **{key: some for key, some in found.items() if some}}
