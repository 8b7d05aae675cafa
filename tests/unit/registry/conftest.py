"""What the tests of the registry share."""

import pytest

from broker.config.profile import Profile
from broker.db import Database
from broker.registry.actor import Registry
from tests.helpers.registry import LIN, WANG, Directory


@pytest.fixture
def registry(database: Database, profile: Profile) -> Registry:
    """A registry that knows two patients; a module with other needs has a fixture of this name of its own."""
    return Registry(database, Directory(WANG, LIN), profile)
