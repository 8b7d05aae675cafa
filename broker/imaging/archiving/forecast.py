"""What the archive will need in a year, when it grows as it did in the last 90 days.

A NameNode keeps two objects of each file of one block in its memory, the file and the block: 298 bytes together, measured with
Hadoop 3.5 (docs/archive.md). A picture by itself would be such a file.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from broker.archive.sdfo import Sdfo
from broker.archive.tiers.base import Space
from broker.db import Database
from broker.imaging.store import stock
from broker.imaging.store.stock import Condition, Stock
from broker.model.errors import Unavailable

GROWTH_DAYS = 90.0
HEAP = 298                  # bytes of a NameNode for a file of one block

_OBJECTS = 2                # of a NameNode for such a file
_YEAR = 365.0
_DAY = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What so many containers need: `disk` with every copy that the store keeps, `heap` of a NameNode, both in bytes."""

    containers: int
    images: int
    bytes: int
    disk: int
    heap: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How the archive is and what it holds. `trouble` is what is wrong with its store, empty when nothing is.

    `space` is None where the store does not tell. `held` and `in_a_year` are by hospital; `days` were looked at for the growth.
    """

    trouble: str
    space: Space | None
    held: dict[str, Need]
    in_a_year: dict[str, Need]
    days: float
    condition: Condition

    @property
    def total(self) -> Need:
        """What all hospitals need together."""
        return _sum(self.held)

    @property
    def total_in_a_year(self) -> Need:
        """What all hospitals will need together."""
        return _sum(self.in_a_year)

    @property
    def objects_used(self) -> int:
        """Objects of a NameNode that the containers take."""
        return _OBJECTS * self.total.containers

    @property
    def objects_spared(self) -> int:
        """Objects that the pictures would take more if each were a file of its own."""
        return _OBJECTS * (self.total.images - self.total.containers)

    def told(self) -> dict[str, Any]:
        """Return it for a program."""
        return {
            "trouble": self.trouble, "space": asdict(self.space) if self.space else None,
            "total": asdict(self.total), "hospitals": {key: asdict(need) for key, need in self.held.items()},
            "namenode": {"objects_used": self.objects_used, "objects_spared": self.objects_spared},
            **asdict(self.condition),
            "in_a_year": {
                "days": round(self.days, 1), "total": asdict(self.total_in_a_year),
                "hospitals": {key: asdict(need) for key, need in self.in_a_year.items()}}}


def status(database: Database, sdfo: Sdfo, copies: int, clock: Callable[[], float] = time.time) -> Status:
    """Return how the archive is; its store keeps so many `copies` of each container. One that is away is told of, not raised."""
    now = clock()
    with database.read() as unit:
        condition = stock.condition(unit)
        days = min(GROWTH_DAYS, max(1.0, (now - condition.since) / _DAY))
        rows = stock.stock(unit, now - days * _DAY)
    trouble, space = sdfo.store.health(), None
    if not trouble:
        try:
            space = sdfo.store.space()
        except Unavailable as error:
            trouble = str(error)
    return Status(
        trouble=trouble, space=space, condition=condition, days=days,
        held={row.hospital: _need(row.containers, row.images, row.bytes, copies) for row in rows},
        in_a_year={row.hospital: _grown(row, _YEAR / days, copies) for row in rows})


def _grown(row: Stock, times: float, copies: int) -> Need:
    return _need(round(row.containers + times * row.new_containers), round(row.images + times * row.new_images),
                 round(row.bytes + times * row.new_bytes), copies)


def _need(containers: int, images: int, size: int, copies: int) -> Need:
    return Need(containers=containers, images=images, bytes=size, disk=size * copies, heap=HEAP * containers)


def _sum(needs: dict[str, Need]) -> Need:
    return Need(**{name: sum(getattr(need, name) for need in needs.values()) for name in Need.__slots__})
