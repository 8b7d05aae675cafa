"""What the makers of golden inputs share."""

from broker.model.message_id import MessageId
from broker.model.people import Address, Demographics, PersonName

OURS = "written by our own codec"
HAND = "written by hand after the standard and the habits of the field"

Files = dict[str, tuple[str, bytes]]
"""What a folder holds: origin and bytes by file name."""

MESSAGE_ID = MessageId("20260301101501+0800", "m1")
PERSON = Demographics(
    names=(PersonName("葉", "曉東", use="L"), PersonName("YE", "XIAODONG", use="A")), birth_date="19790214", sex="M",
    mother=PersonName("區", "瑋"), addresses=(Address("人民路 1 号", "广州", "广东", "510000", "CN"),), phones=("020-12345678",),
    other_ids=(("", "440101197902141234"), ("2.999.3.1", "B-7")))
