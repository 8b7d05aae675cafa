"""HAPI's FHIR client as source and consumer of the broker (ITI-104, 83, 78, 119); it reads the CapabilityStatement first."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.region import Region

pytestmark = [pytest.mark.peer("java"), pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
JAVA = ROOT / "tests" / "peers" / "java" / "fhir"
JARS = ROOT / "build" / "fhir-jars"

TOLD = """\
metadata | 4.0.1 | true
put 1 | true | created
put 1 | false | updated
put 2 | true | created
put 3 | true | created
pix | {0}B
search | 3 | [静1, 静2, 静3]
read | 静2 欧阳{0} | 1985-06-12 | true
match | 1 | 静3 | 1.0 | certain
merge | merged
unknown | 404 | not-found
retired | 409 | conflict
delete | 400 | not-supported
read | 404 | not-found
"""


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    if not list(JARS.glob("hapi-fhir-client-*.jar")):
        subprocess.run(["mvn", "-q", "-B", "-f", str(JAVA / "pom.xml"), "dependency:copy-dependencies",
                        f"-DoutputDirectory={JARS}"], check=True, capture_output=True)
    with Region(tmp_path_factory.mktemp("hapi")) as running:
        yield running


@pytest.mark.parametrize("form", ["json", "xml"])
def test_hapi_feeds_asks_searches_and_matches(region: Region, form: str) -> None:
    done = subprocess.run(
        ["java", "-Xmx256m", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", f"{JARS}/*",
         str(JAVA / "FhirClient.java"), f"{region.url}/fhir", form, form[0].upper()],
        capture_output=True, check=False, encoding="utf-8")
    assert (done.stdout, done.returncode) == (TOLD.format(form[0].upper()), 0), done.stderr[-3000:]
