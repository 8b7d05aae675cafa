"""What `broker.toml` says reaches the parts."""

from pathlib import Path

import pytest

from broker.config.settings import load
from broker.model.caller import ANONYMOUS, AuditFacts, Call
from broker.model.errors import Rejected, XdsCode
from broker.model.metadata import APPROVED
from tests.bench import scene
from tests.helpers.registry import ask, bundle, document, submission


def test_the_registrys_limits_are_settings(tmp_path: Path) -> None:
    config = tmp_path / "broker.toml"
    config.write_text('data = "data"\n[registry]\nmax_objects = 2\n', "utf-8")
    with scene.parts(load(config)) as app:
        patient = scene.admit(app, 1)
        find = {"$XDSDocumentEntryPatientId": str(patient), "$XDSDocumentEntryStatus": [APPROVED]}
        for number in range(3):
            documents = [document(f"Doc{number}", patient)]
            app.registry.register(submission(bundle(documents, patient=patient)), Call(caller=ANONYMOUS, facts=AuditFacts()))
            if number == 1:
                assert len(ask(app.registry, "FindDocuments", find).documents) == 2
        with pytest.raises(Rejected) as caught:
            ask(app.registry, "FindDocuments", find)
    assert caught.value.problems[0].code == XdsCode.TOO_MANY_RESULTS
