"""The publisher of manifests: the imaging side of a submission, with the repository it is sent to."""

from broker.app.core import Core
from broker.archive.sdfo import Sdfo
from broker.config.ports import Mover
from broker.edge.outbound import SoapOutbound
from broker.edge.soap_call import CallOptions
from broker.imaging.fetch import Retriever
from broker.imaging.origin import Origins
from broker.imaging.publish import Publisher
from broker.model.ports import PatientDirectory, Withdraw


def publisher(
    core: Core, patients: PatientDirectory, withdraw: Withdraw, pictures: Sdfo, mover: Mover, fetch: Retriever,
) -> Publisher:
    """Return what makes and publishes manifests. `withdraw` is our registry's, left alone where they are registered elsewhere."""
    settings, elsewhere = core.settings, core.settings.repository
    submit = elsewhere.submit_url or settings.public_url + "/xds/repository"
    outbound = SoapOutbound(submit, core.gate, settings.public_url, CallOptions.of(settings.outbound))
    return Publisher(
        core.database, core.profile, patients, outbound, Origins(core.database, core.profile, mover, fetch), core.coord,
        pictures, settings.server.ae_title, None if elsewhere.submit_url or elsewhere.registry_url else withdraw)
