"""The Document Repository (ITI TF-1 10.1.1.3): keeps documents, has them registered, gives them back."""

import time
from pathlib import Path

from broker.config.profile import Profile
from broker.db import Database
from broker.repository.documents import Documents
from broker.wire.ports import Registrar


class Repository:
    """One repository: its documents and the registry that knows them."""

    def __init__(self, database: Database, folder: Path, profile: Profile, registrar: Registrar) -> None:
        self.documents = Documents(database, folder)
        self.registrar = registrar
        self.unique_id = profile.region.repository_uid

    def recover(self) -> None:
        """Clear up after submissions that were interrupted; run it when the service starts."""
        self.documents.recover(time.time())
