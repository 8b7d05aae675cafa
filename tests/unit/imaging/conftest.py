"""What the tests of imaging share."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.config.profile import Profile
from broker.coord.local import LocalCoord
from broker.db import Database
from tests.helpers.fetch import Centre, build


@pytest.fixture
def centre(database: Database, tmp_path: Path, profile: Profile) -> Iterator[Centre]:
    """Both tiers, an index and local coordination; a module with other needs has a fixture of this name of its own."""
    built = build(database, tmp_path, profile)
    assert isinstance(built.coord, LocalCoord)
    with contextlib.closing(built.coord):
        yield built
