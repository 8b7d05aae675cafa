"""One running region with short deadlines and small limits for all tests of this folder."""

import contextlib
import resource
from collections.abc import Iterator

import pytest

from tests.helpers.bad_pacs import BadPacs
from tests.helpers.region import Region
from tests.helpers.site import LIMITS, Site

# The bad PACS is given up soon; nothing is published by itself, so that what is stored stands still between two calls.
CHANGES = {"retention.toml": {"quiet_seconds = 2": "quiet_seconds = 3600"}, "hospitals.toml": {
    "idle_seconds = 20": "idle_seconds = 1.5",
    "total_seconds = 120": "total_seconds = 8\nconnect_seconds = 1\nback_off_seconds = 0.5",
}}


@pytest.fixture(scope="session", autouse=True)
def descriptors() -> None:
    """A thousand connections have two ends, and the broker's are ours to inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 8192 and (hard == resource.RLIM_INFINITY or hard >= 8192):
        resource.setrlimit(resource.RLIMIT_NOFILE, (8192, hard))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The region; nobody may leave it worse than found."""
    with Region(tmp_path_factory.mktemp("hostile"), server=LIMITS, changes=CHANGES) as region:
        yield Site(region)


@pytest.fixture(scope="session")
def pacs(site: Site) -> Iterator[BadPacs]:
    """Hospital B's PACS, which does what a test tells it."""
    with contextlib.closing(BadPacs(site.region.pacs_port, site.region.dicom_port)) as running:
        yield running
