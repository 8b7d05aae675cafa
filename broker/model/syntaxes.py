"""Transfer syntaxes: the one list of what the receiver takes, a C-GET proposes and a consultation asks for.

Best first: where one presentation context offers several, the receiver takes the first of this list. Explicit VR Little
Endian loses nothing and keeps the value representations; then the order of PS3.6 table A-1. Retired JPEG processes stand
behind, because archives still hold their objects. A test compares the list with the dictionary of the standard.
"""

EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"

_JPEG_FAMILY = (
    "50", "51", "57", "70", "80", "81", "90", "91", "92", "93", "94", "95",
    "100", "100.1", "101", "101.1", "102", "102.1", "103", "103.1", "104", "104.1", "105", "105.1", "106", "106.1", "107", "108",
    "110", "111", "112", "201", "202", "203", "204", "205",
)
_RETIRED_JPEG = ("52", "53", "54", "55", "56", "58", "59", "60", "61", "62", "63", "64", "65", "66")

RECEIVED_SYNTAXES = (
    EXPLICIT, IMPLICIT, "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2",
    *(f"1.2.840.10008.1.2.4.{tail}" for tail in _JPEG_FAMILY),
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.7.1", "1.2.840.10008.1.2.7.2", "1.2.840.10008.1.2.7.3", "1.2.840.10008.1.2.8.1",
    "1.2.840.10008.1.2.1.98", *(f"1.2.840.10008.1.2.4.{tail}" for tail in _RETIRED_JPEG),
)
