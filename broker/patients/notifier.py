"""Tells consumers what changed: in order, again and again until they have acknowledged it, and never before it is durable."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog

from broker.config.profile import Consumer, Profile
from broker.coord.base import Coord
from broker.db import Database
from broker.model.caller import AuditFacts, Caller
from broker.model.errors import BrokerError, Rejected
from broker.model.message_id import MessageId
from broker.model.people import Demographics
from broker.patients import iti10_notify, iti46_notify, iti64_notify
from broker.patients.notices import FEED, LINKS
from broker.patients.sending import Letter, Sending
from broker.patients.store import outbox, records
from broker.patients.store.outbox import Notification
from broker.security.gate import Gate, reason

log = structlog.get_logger("broker.notify")

CHANNEL = "notify"
Exchange = Callable[[bytes], bytes]
"""Sends one message to a consumer and returns its answer. Raises `Unavailable` when there is none."""

SENDINGS: Mapping[str, Sending] = {
    "ITI-10": iti10_notify.SENDING, "ITI-46": iti46_notify.SENDING, LINKS: iti64_notify.LINKS, FEED: iti64_notify.FEED}
KEPT_SECONDS = 30 * 86400.0      # how long what was delivered can be looked at
_LONGEST_WAIT = 300.0
_LEASE = 600.0      # seconds after which another broker takes over from one that died without a word
_TOLD = 200         # characters of a refusal that are kept


@dataclass(frozen=True, slots=True)
class Ways:
    """The way to each consumer, by its key; `own_url` names us to those of V3."""

    exchanges: Mapping[str, Exchange]
    own_url: str


class Notifier:
    """Sends what waits in the outbox, by `ways` to the consumers."""

    def __init__(
        self, database: Database, profile: Profile, gate: Gate, coord: Coord, ways: Ways, clock: Callable[[], float] = time.time,
    ) -> None:
        self._database, self._profile, self._gate, self._coord = database, profile, gate, coord
        self._ways, self._clock = ways, clock

    def run(self, consumer: Consumer) -> int:
        """Send what waits for a consumer until nothing is left or it cannot take more now; return how many it acknowledged.

        One broker at a time sends to a consumer.
        """
        delivered = 0
        with self._coord.lock(f"notify {consumer.key}", _LEASE) as mine:
            while mine and (one := self._next(consumer)) is not None:
                if not self._send(consumer, one):
                    break
                delivered += 1
        return delivered

    def forget(self) -> int:
        """Remove what was delivered long ago; return how many."""
        with self._database.write() as unit:
            return outbox.forget(unit, self._clock() - KEPT_SECONDS)

    def _next(self, consumer: Consumer) -> Notification | None:
        with self._database.read() as unit:
            found = outbox.first(unit, consumer.key)
        return found if found is not None and found.next_at <= self._clock() else None

    def _send(self, consumer: Consumer, one: Notification) -> bool:
        """Send one notification and keep what became of it; return whether the next one may go."""
        try:
            self._exchange(consumer, one)
        except Rejected as error:
            log.warning("notification refused", consumer=consumer.key, notification=one.id, reason=reason(error))
            self._keep(one, "refused", reason=str(error)[:_TOLD])
        except BrokerError as error:
            wait = min(2.0 ** one.attempts, _LONGEST_WAIT)
            log.warning("notification put off", consumer=consumer.key, notification=one.id, reason=reason(error), seconds=wait)
            self._keep(one, "put off", next_at=self._clock() + wait, reason=str(error)[:_TOLD])
            return False
        else:
            self._keep(one, "acknowledged", reason="")
        return True

    def _exchange(self, consumer: Consumer, one: Notification) -> None:
        sending, facts = SENDINGS[one.transaction], AuditFacts(message_id=one.control_id)
        letter = Letter(
            profile=self._profile, consumer=consumer, body=one.body, person=self._person(one),
            message_id=MessageId(MessageId.now().time, one.control_id))
        sending.note(letter, facts)
        with self._gate.outgoing(sending.row, self._caller(consumer), facts):
            sending.read(self._ways.exchanges[consumer.key](sending.write(letter)), one.control_id)

    def _person(self, one: Notification) -> Demographics:
        """Return what a message to a registry says of a person: what the oldest record of it does."""
        if one.transaction != FEED:
            return Demographics()
        with self._database.read() as unit:
            group = records.find_group(unit, one.body["id"])
            people = records.members(unit, [records.group_survivor(unit, group).id]) if group else []
        return people[0].person if people else Demographics()

    def _caller(self, consumer: Consumer) -> Caller:
        region = self._profile.region
        if consumer.url:
            return Caller(node=consumer.url, address=urlsplit(consumer.url).hostname or "", local_node=self._ways.own_url)
        return Caller(
            node=f"{consumer.facility}|{consumer.application}", address=consumer.host,
            local_node=f"{region.facility}|{region.application}")

    def _keep(self, one: Notification, event: str, **values: object) -> None:
        done = {} if event == "put off" else {"done_at": self._clock()}
        with self._database.write() as unit:
            outbox.move(unit, event, one.id, {"attempts": one.attempts + 1, **done, **values})
