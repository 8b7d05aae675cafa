import subprocess
from pathlib import Path
from typing import Any

import pytest

from broker.model.imaging import SeriesFacts, StudyFacts
from tests.helpers.manifests import CT, ECG, SR, kos, study

SITE = "1.2.276.0.7230010.3.0.3"    # dciodvfy refuses the OIDs of the example arc


def checked(file: Path, facts: StudyFacts, **changes: Any) -> list[str]:
    file.write_bytes(kos(facts, location_uid=SITE, issuer=("HOSPA", SITE), accession_issuer=SITE, **changes))
    done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False, timeout=60)
    assert "KeyObjectSelectionDocument" in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("facts", [
    study(),
    study(procedure_code=("24627-2", "LN", "CT of chest")),
    study(patient_name="", birth_date="", sex="", date="", time="", accession="", study_id="", referring="", description=""),
    study(series=(
        SeriesFacts(uid="2.25.100.1", instances=tuple((CT, f"2.25.100.1.{n}") for n in range(1, 300))),
        SeriesFacts(uid="2.25.100.2", instances=((ECG, "2.25.100.2.1"), (SR, "2.25.100.2.2"))),
    )),
])
def test_a_manifest_is_a_correct_key_object_selection(tmp_path: Path, facts: StudyFacts) -> None:
    assert checked(tmp_path / "manifest.dcm", facts) == []
