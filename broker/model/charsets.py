"""Character sets as DICOM data sets name them (PS3.3 C.12.1.1.2), and what a sender means by the names it writes."""

import codecs
import re
from dataclasses import dataclass

_NOISE = re.compile(r"[^A-Z0-9]")

# Defined terms by number, both forms, and the codec of each. Where a wider set holds the named one byte by byte it is
# taken: senders write characters of code pages 932 and 949, and of GBK, under the narrower names.
_NUMBERED = {
    "6": "ascii", "100": "latin-1", "101": "iso8859_2", "109": "iso8859_3", "110": "iso8859_4", "144": "iso8859_5",
    "127": "iso8859_6", "126": "iso8859_7", "138": "iso8859_8", "148": "iso8859_9", "203": "iso8859_15", "166": "cp874",
    "13": "cp932", "14": "ascii", "192": "utf-8", "58": "gb18030", "149": "cp949", "87": "iso2022_jp_2", "159": "iso2022_jp_2",
}
# Names of other registers that real files carry.
_NAMED = {
    "gb18030": ("GB18030", "GB180302000", "GB180302005", "GB180302022", "GBK", "ISO2022GBK", "ISO2022GB18030", "ISO202258",
                "GB2312", "GB231280", "GB23121980", "EUCCN", "CP936", "MS936", "WINDOWS936"),
    "utf-8": ("UTF8", "ISOIRUTF8", "UNICODE11UTF8"),
    "ascii": ("", "ASCII", "USASCII", "ISO646", "ISO646US"),
    "latin-1": ("LATIN1", "ISO88591", "ISO885911987"), "iso8859_2": ("LATIN2", "ISO88592"), "iso8859_3": ("ISO88593",),
    "iso8859_4": ("ISO88594",), "iso8859_5": ("ISO88595",), "iso8859_6": ("ISO88596",), "iso8859_7": ("ISO88597",),
    "iso8859_8": ("ISO88598",), "iso8859_9": ("LATIN5", "ISO88599"), "iso8859_15": ("LATIN9", "ISO885915"),
    "cp1250": ("CP1250", "WINDOWS1250"), "cp1251": ("CP1251", "WINDOWS1251"), "cp1252": ("CP1252", "WINDOWS1252", "ANSI"),
    "cp874": ("TIS620", "ISO885911", "CP874", "WINDOWS874"),
    "cp932": ("SHIFTJIS", "SJIS", "CP932", "MS932", "WINDOWS31J"), "euc_jp": ("EUCJP",),
    "cp949": ("EUCKR", "KSC5601", "KSC56011987", "KSX1001", "CP949", "MS949", "UHC"),
    "cp950": ("BIG5", "CP950", "MS950", "BIG5ETEN"),
}
_CODECS = {
    **{form + number: codec for number, codec in _NUMBERED.items() for form in ("ISOIR", "ISO2022IR")},
    **{name: codec for codec, names in _NAMED.items() for name in names},
}


def plain_label(label: str) -> str:
    """Return a label without what senders write differently: case, blanks, dashes, underscores, other marks."""
    return _NOISE.sub("", label.upper())


def codec_of(label: str) -> str:
    """Return the name of the codec that a label stands for, empty for a label that nobody knows."""
    return _CODECS.get(plain_label(label), "")


def check_charset(text: str) -> str:
    """Return `text` when it names a character set: a DICOM term or a codec of Python. Raise `ValueError` otherwise."""
    if not text.strip() or not trusted_codec(text):
        raise ValueError(f"not a character set: {text!r}")
    return text


def trusted_codec(name: str) -> str:
    """Return the codec that an operator's word stands for, empty for none. Any text codec of Python will do."""
    if codec_of(name):
        return codec_of(name)
    try:
        codec = codecs.lookup(name).name
        b"a".decode(codec)      # raises for what is no encoding of text, such as zlib
    except (LookupError, UnicodeError):
        return ""
    return codec


@dataclass(frozen=True, slots=True)
class CharacterSets:
    """How text of one hospital is to be read.

    `default` is the set of text that declares none, as a DICOM term or codec name; `meant` pairs labels with what they
    really are at this hospital.
    """

    default: str = ""
    meant: tuple[tuple[str, str], ...] = ()


NO_SETS = CharacterSets()
