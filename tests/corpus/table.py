"""What came of a run, as tables of Markdown."""

from collections import Counter
from collections.abc import Iterable, Iterator

from tests.corpus.run import DIFFERS, EQUAL, SAME, Fate, Way

_COLUMNS = ("way", "files of", "files", "stored", "refused", "published", "fetched", "of these byte-equal", "from S-DICOM",
            "of these byte-equal")


def markdown(ways: Iterable[Way]) -> str:
    """Return a table of numbers, and one of everything that was not stored, published or given back, with its reason."""
    ways = list(ways)
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    for way in ways:
        packages = sorted({fate.one.package for fate in way.fates})
        lines += [_row(way, package, [fate for fate in way.fates if fate.one.package == package]) for package in packages]
        lines.append(_row(way, "all", way.fates))
    lines += ["", "| way | what | files | reason |", "|---|---|---|---|"]
    for way in ways:
        lines += [f"| {way.name} | {what} | {count} | {why} |" for (what, why), count in sorted(Counter(_reasons(way)).items())]
    return "\n".join([*lines, ""])


def lost(ways: Iterable[Way]) -> list[str]:
    """Return what must not be: what we stored and do not give back, and what came back as something else."""
    return [
        f"{way.name}: {fate.one.path.name} {where}: {said}" for way in ways for fate in way.stored
        for where, said in (("online", fate.online), ("archive", fate.archive))
        if said and said not in {EQUAL, SAME} and (way.name == "C-STORE" or said == DIFFERS)
    ] + [f"{way.name}: {text}" for way in ways for text in way.wrong]


def _row(way: Way, package: str, fates: list[Fate]) -> str:
    stored = [fate for fate in fates if not fate.refused]
    online, archive = (Counter(getattr(fate, where) for fate in stored) for where in ("online", "archive"))
    packed = archive[EQUAL] + archive[SAME] if any(fate.archive for fate in way.fates) else None
    return "| " + " | ".join(map(str, (
        way.name, package, len(fates), len(stored), len(fates) - len(stored), sum(not fate.unpublished for fate in stored),
        online[EQUAL] + online[SAME], online[EQUAL], "-" if packed is None else packed, "-" if packed is None else archive[EQUAL],
    ))) + " |"


def _reasons(way: Way) -> Iterator[tuple[str, str]]:
    for fate in way.fates:
        if fate.refused:
            yield "refused", fate.refused
            continue
        if fate.unpublished:
            yield "not published", fate.unpublished
        for where, said in (("online", fate.online), ("S-DICOM", fate.archive)):
            if said == SAME:
                yield f"{where}: same elements", "written anew by the sender: lengths differ"
            elif said and said != EQUAL:
                yield f"not given from {where}", said.removeprefix(f"SOP instance {fate.one.sop_uid} is not available: ")
