"""People of the demonstration region whom demographics queries find, the same for every door."""

from dataclasses import replace

from broker.model.people import Address, Demographics, PersonName
from tests.helpers.patients import HOSPC, WEI, Bench

LEI = replace(WEI, names=(PersonName("李", "雷"),))
JING = Demographics(
    names=(PersonName("欧阳", "静", "如"), PersonName("OUYANG", "Jing Ru")), birth_date="19850612", sex="F",
    mother=PersonName("葉", "瑋"), addresses=(Address("鼓楼路 12", "福州", "福建", "350001", "CHN"),),
    phones=("+86-591-8765-4321",), accounts=(("2.999.2.9", "ACC-7"),), other_ids=(("", "350102198506120047"),))


def fill(bench: Bench) -> Bench:
    """Feed one person with A1, B1, B2 and C1, one with A2 into which A3 was merged, and one with A4."""
    bench.feed("A04", "A1")
    bench.add("B2")
    bench.add("B1")
    bench.add("C1", domain=HOSPC)
    bench.feed("A04", "A2", LEI)
    bench.feed("A40", "A2", retired="A3")
    bench.feed("A04", "A4", JING)
    return bench
