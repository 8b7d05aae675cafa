"""ITI-46 PIX V3 Update Notification (ITI TF-2 3.46): a 201302 with the ids of a person in a consumer's domains."""

from broker.model.errors import Rejected, Unavailable
from broker.model.transaction import Wire
from broker.patients.iti10_notify import note
from broker.patients.sending import Letter, Sending, row
from broker.wire import hl7v3
from broker.wire.xml import parse

ACTION = f"urn:hl7-org:v3:{hl7v3.REVISE}"


def write(letter: Letter) -> bytes:
    """Return the message."""
    return hl7v3.write_update(
        [letter.named(*one) for one in letter.body["ids"]], sender=letter.profile.region.device_oid,
        receiver=str(letter.consumer.device_oid), message_id=letter.message_id)


def read(answer: bytes, _control_id: str) -> None:
    """Read the acknowledgement (MCCI_IN000002UV01), the one of this exchange: all but CA, AA, CE and AE say that it may be sent

    again, an answer that is none as well.
    """
    message = parse(answer)
    try:
        hl7v3.read_ack(message)
    except Rejected as error:
        if hl7v3.acknowledged(message) not in {"CE", "AE"}:
            raise Unavailable(f"the consumer, which does not process it now ({error})") from error
        raise


SENDING = Sending(row("ITI-46", "PIX Update Notification", Wire.SOAP, "R"), note, write, read)
