"""What tells the consumers of the profile of changed ids, and the way to each of them."""

from broker.app.core import Core
from broker.config.profile import Consumer
from broker.config.settings import OutboundSection
from broker.edge.mllp.call import MllpCall
from broker.edge.soap_call import CallOptions, SoapCall
from broker.patients import iti46_notify
from broker.patients.notifier import Exchange, Notifier, Ways
from broker.wire.xml import canonical


def notifier(core: Core) -> Notifier:
    """Return what tells the consumers of the profile of changes."""
    exchanges = {consumer.key: _exchange(consumer, core.settings.outbound) for consumer in core.profile.consumers}
    ways = Ways(exchanges, core.settings.public_url + "/pix")
    return Notifier(core.database, core.profile, core.gate, core.coord, ways)


def _exchange(consumer: Consumer, settings: OutboundSection) -> Exchange:
    if not consumer.url:
        return MllpCall(consumer.host, consumer.port, settings, tls=consumer.tls)
    call = SoapCall(consumer.url, f"the consumer {consumer.key}", CallOptions.of(settings))
    return lambda message: canonical(call.exchange(message, iti46_notify.ACTION))
