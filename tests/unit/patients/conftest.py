"""What the tests of the patient index share."""

from pathlib import Path

import pytest

from broker.config.profile import Profile
from broker.db import Database
from tests.helpers.patients import Bench, region


@pytest.fixture
def bench(database: Database, profile: Profile, tmp_path: Path) -> Bench:
    """A PIX manager of the demonstration region with three feeding hospitals."""
    return Bench(database, region(profile), tmp_path)
