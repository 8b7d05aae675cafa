"""What every process of the broker has: settings and profile, and, made when first needed, its ways to the durable store, to the
other processes, to the audit spool and through the gate."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import cached_property

from broker import coord
from broker.audit.spool import AuditLog
from broker.config.profile import Profile
from broker.config.settings import SecuritySection, Settings
from broker.coord.base import OwnCoord
from broker.db import Database
from broker.security.gate import Gate
from broker.security.rules import Open, Policy

POLICIES: Mapping[str, Callable[[SecuritySection], Policy]] = {"off": lambda section: Open(section.open_writes)}


class Core:
    """One per process, never across a fork. `close` releases what was made, the last first."""

    def __init__(self, settings: Settings, profile: Profile) -> None:
        self.settings, self.profile = settings, profile
        self._made = ExitStack()

    @cached_property
    def database(self) -> Database:
        """The durable store."""
        return self._made.enter_context(closing(Database(self.settings.database_url)))

    @cached_property
    def coord(self) -> OwnCoord:
        """What processes tell each other."""
        return self._made.enter_context(closing(coord.connect(self.settings)))

    @cached_property
    def audit(self) -> AuditLog:
        """The audit spool."""
        section = self.settings.audit
        return AuditLog(self.settings.audit_folder, section.source_id, section.site or self.profile.region.name)

    @cached_property
    def gate(self) -> Gate:
        """The way to every handler."""
        section = self.settings.security
        return Gate(POLICIES[section.mode](section), self.audit)

    def close(self) -> None:
        """Release what this process holds open."""
        self._made.close()
