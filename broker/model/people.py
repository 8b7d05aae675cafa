"""Demographics of a patient as the feeds give them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PersonName:
    """One name. `use` is the HL7 name type (L legal, A alias, …); all parts may be empty."""

    family: str = ""
    given: str = ""
    middle: str = ""
    suffix: str = ""
    prefix: str = ""
    use: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """One address: street, city, state, postal code, country."""

    street: str = ""
    city: str = ""
    state: str = ""
    postcode: str = ""
    country: str = ""


@dataclass(frozen=True, slots=True)
class Demographics:
    """What a feed says about a person. `birth_date` is YYYYMMDD or shorter; `sex` is HL7 table 0001 (F M O U A N).

    `other_ids` are (OID, id), the OID empty where nobody knows the authority; `accounts` (OID or namespace, account number).
    """

    names: tuple[PersonName, ...] = ()
    birth_date: str = ""
    sex: str = ""
    mother: PersonName | None = None
    addresses: tuple[Address, ...] = ()
    phones: tuple[str, ...] = ()
    other_ids: tuple[tuple[str, str], ...] = ()
    accounts: tuple[tuple[str, str], ...] = ()
