"""Text as real files hold it: code extensions, misspelt labels, labels that lie."""

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.imaging import header
from broker.model.charsets import CharacterSets
from broker.wire import tags
from broker.wire.charsets import decode, unknown_labels
from tests.helpers.dicom import HOSPITAL
from tests.helpers.rawdicom import CT, EXPLICIT, SOP, USUAL, data_set

# PS3.5 annexes H, I, J and K, and what is legal beside them.
HALF = "\uff94\uff8f\uff80\uff9e^\uff80\uff9b\uff73"
KANJI, KANA = b"\x1b$B;3ED\x1b(%s^\x1b$BB@O:\x1b(%s", b"\x1b$B$d$^$@\x1b(%s^\x1b$B$?$m$&\x1b(%s"
EXTENSIONS = {
    "H.3.1": ("\\ISO 2022 IR 87", b"Yamada^Tarou=" + KANJI % (b"B", b"B") + b"=" + KANA % (b"B", b"B"),
              "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "H.3.2": ("ISO 2022 IR 13\\ISO 2022 IR 87", HALF.encode("cp932") + b"=" + KANJI % (b"J", b"J") + b"=" + KANA % (b"J", b"J"),
              f"{HALF}=山田^太郎=やまだ^たろう"),
    "half-width kana and kanji in one run": (
        "ISO 2022 IR 13\\ISO 2022 IR 87", b"\x1b$B;3ED" + "ﾔﾏ".encode("cp932") + b"\x1b(J", "山田ﾔﾏ"),
    "kana designated by escape": ("\\ISO 2022 IR 13", b"\x1b)I" + "ﾔﾏﾀﾞ".encode("cp932"), "ﾔﾏﾀﾞ"),
    "supplementary kanji": (
        "\\ISO 2022 IR 159", b"\x1b$(D" + bytes(c & 0x7F for c in "丂".encode("euc_jp")[1:]) + b"\x1b(B", "丂"),
    "kanji of 1978": ("\\ISO 2022 IR 87", b"\x1b$@;3ED\x1b(B", "山田"),
    "I.2": ("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동"),
    "Korean designated once": ("\\ISO 2022 IR 149", b"Hong=\x1b$)C\xfb\xf3^\xd1\xce\xd4\xd7", "Hong=洪^吉洞"),
    "Korean never designated": ("\\ISO 2022 IR 149", b"Hong=\xfb\xf3^\xd1\xce\xd4\xd7", "Hong=洪^吉洞"),
    "K.2": ("\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=", "Zhang^XiaoDong=张^小东="),
    "GBK behind the escape of GB 2312": ("\\ISO 2022 IR 58", b"\x1b$)A" + "喆".encode("gbk"), "喆"),
    "Latin-1 and Korean": (
        "ISO 2022 IR 100\\ISO 2022 IR 149", b"Buc^J\xe9r\xf4me=\x1b$)C\xfb\xf3^J\xe9r\xf4me", "Buc^Jérôme=洪^Jérôme"),
    "Latin-1 and Greek": ("ISO 2022 IR 100\\ISO 2022 IR 126", b"J\xe9=\x1b-F\xc4\xe9\xef^J\xe9", "Jé=Διο^Jé"),
    "Cyrillic and Latin-2": ("ISO 2022 IR 144\\ISO 2022 IR 101", b"\xbb\xee=\x1b-B\xb3\xf3d\xbc^\xbb\xee", "Лю=łódź^Лю"),
    "Hebrew, Arabic, Thai": (
        "\\ISO 2022 IR 138\\ISO 2022 IR 127\\ISO 2022 IR 166", b"\x1b-H\xf9=\x1b-G\xe2=\x1b-T\xa1", "ש=ق=ก"),
    "Latin-5, Latin-9": ("\\ISO 2022 IR 148\\ISO 2022 IR 203", b"\x1b-M\xf0=\x1b-b\xa4", "ğ=€"),
    "Chinese behind Korean": ("\\ISO 2022 IR 149\\ISO 2022 IR 58", b"\x1b$)C\xfb\xf3\x1b$)A\xd5\xc5", "洪张"),
    "an escape that is not in the list": ("ISO_IR 100", b"Hong=\x1b$)C\xfb\xf3", "Hong=洪"),
    "an escape of nothing known": ("\\ISO 2022 IR 58", b"Zhang\x1b%5=\x1b$)A\xd5\xc5", "Zhang=张"),
    "UTF-8 in a list": ("\\ISO_IR 192", "Wang=王".encode(), "Wang=王"),
}

ZH, KO, JA, DE, RU = "王^小东", "홍^길동", "山田^太郎", "Müller^Jörg", "Иванов^Иван"
LABELS = {
    ("utf-8", ZH): ("ISO_IR 192", "ISO IR 192", "ISO-IR 192", "ISO_IR_192", "ISO_IR192", "iso_ir 192", " ISO_IR 192 ",
                    "ISO 2022 IR 192", "UTF-8", "UTF8", "utf_8"),
    ("gb18030", ZH): ("GB18030", "GB 18030", "gb18030", "GB-18030", "GB18030-2005", "GBK", "gbk", "GB2312", "GB_2312-80", "CP936",
                      "ISO_IR 58", "ISO 2022 IR 58", "ISO2022IR58", "ISO 2022 GBK", "ISO 2022 58", "WINDOWS-936"),
    ("cp949", KO): ("ISO_IR 149", "ISO IR 149", "ISO 2022 IR 149", "ISO_2022_IR_149", "ISO-2022-IR-149", "iso 2022 ir 149",
                    "EUC-KR", "KS_C_5601-1987", "ISO 2022 IR149"),
    ("cp932", JA): ("ISO_IR 13", "ISO 2022 IR 13", "SHIFT_JIS", "Shift-JIS", "SJIS", "ISO_IR 87", "ISO 2022 IR 87"),
    ("latin-1", DE): ("ISO_IR 100", "ISO IR 100", "ISO_IR_100", "ISO-IR-100", "ISO 2022 IR 100", "ISO8859-1",
                       "ISO_8859-1", "Latin1"),
    ("iso8859_5", RU): ("ISO_IR 144", "ISO 2022 IR 144", "ISO IR144", "ISO-8859-5"),
    ("cp1251", RU): ("WINDOWS-1251", "cp1251"),
    ("cp950", "王^小明"): ("BIG5", "Big-5"),
}


def name(raw: bytes, label: str, default: str = "GB18030", **meant: str) -> str:
    sets = CharacterSets(default, tuple((key.replace("_", " "), real) for key, real in meant.items()))
    return decode({1: raw}, label.encode(), sets)[1]


@pytest.mark.parametrize("kind", EXTENSIONS)
def test_each_run_is_read_by_the_set_in_force(kind: str) -> None:
    label, raw, text = EXTENSIONS[kind]
    assert name(raw, label) == text
    assert name(raw, label.replace(" ", "_").lower()) == text


@pytest.mark.parametrize(("codec", "text", "label"), [(*key, label) for key, labels in LABELS.items() for label in labels])
def test_spelling_of_a_label_makes_no_difference(codec: str, text: str, label: str) -> None:
    assert name(text.encode(codec), label, default="iso8859_2") == text
    assert unknown_labels(label.encode(), CharacterSets()) == ()


@pytest.mark.parametrize(("raw", "label", "text"), [
    ("张^智宏".encode("gbk"), "ISO_IR 100", "张^智宏"),
    ("张^智宏".encode("gbk"), "ISO IR 100", "张^智宏"),
    ("朱^镕基".encode("gbk"), "ISO_IR 100", "朱^镕基"),     # its second byte is an F
    (DE.encode("latin-1"), "ISO_IR 100", DE),               # for once the label is true
    ("张^智宏".encode(), "ISO_IR 100", "张^智宏"),
    ("张^智宏".encode("gbk"), "ISO 2022 IR 100", "ÕÅ^ÖÇºê"),     # another label
    ("张^智宏".encode("gbk"), "CHINESE", "张^智宏"),
    (KO.encode("cp949"), "KOREAN", KO),
    (RU.encode("cp1251"), "ISO_IR 144", RU),
])
def test_the_profile_says_what_a_label_really_is(raw: bytes, label: str, text: str) -> None:
    meant = (("ISO_IR 100", "GB18030"), ("CHINESE", "gbk"), ("Korean", "ISO_IR 149"), ("ISO_IR 144", "windows-1251"))
    assert decode({1: raw}, label.encode(), CharacterSets("iso8859_2", meant))[1] == text


@pytest.mark.parametrize("label", ["", "GB18030", "GBK", "ISO_IR 6", "ISO_IR 58"])
@pytest.mark.parametrize("text", [
    "张^三", "Wang^XiaoDong=王^小东", "第一人民医院", DE, "José", RU, "ΑΒΓΔΕ", "葉^曉東", "€uro", "한국"])
def test_what_is_utf_8_is_read_as_utf_8(label: str, text: str) -> None:
    assert name(text.encode(), label) == text


@pytest.mark.parametrize("text", [
    "陆^伟", "卤^奥", "联通", "闫^俐", "王^小明", "张^智宏", "喆", "朱^镕基", "A型血", "一年级二班"])
@pytest.mark.parametrize("label", ["", "GB18030", "GBK"])
def test_what_is_gb_18030_stays_so_though_some_of_it_is_utf_8_by_accident(label: str, text: str) -> None:
    assert name(text.encode("gbk"), label) == text


def test_true_latin_1_and_what_says_utf_8_stay() -> None:
    for text in (DE, "Ã¤", "ÄÖÜ", "Â±"):      # the second and last are UTF-8 too
        assert name(text.encode("latin-1"), "ISO_IR 100") == text
    assert name("张".encode("gbk"), "ISO_IR 192") == "张", "declares UTF-8 and holds the hospital's own"
    assert name("Müller".encode("latin-1"), "", "latin-1") == "Müller"
    assert name("é".encode(), "", "latin-1") == "é"


def test_all_text_of_an_object_tells_what_its_bytes_are() -> None:
    """GB 2312 that is UTF-8 by accident stays, since the text beside it cannot be; UTF-8 beside GBK is UTF-8."""
    both = {1: "闫^俐".encode("gbk"), 2: "第一人民医院".encode("gbk")}
    assert decode(both, b"GB18030", CharacterSets()) == {1: "闫^俐", 2: "第一人民医院"}
    mixed = {1: "张^三".encode(), 2: "第一人民医院".encode("gbk")}
    assert decode(mixed, b"", CharacterSets("GB18030")) == {1: "张^三", 2: "第一人民医院"}


@pytest.mark.parametrize(("codec", "label"), [("gb18030", "GB18030"), ("utf-8", "ISO_IR 192"), ("cp949", "ISO 2022 IR 149")])
def test_a_character_that_was_cut_off_at_the_end_is_left_out(codec: str, label: str) -> None:
    text = KO if codec == "cp949" else ZH
    assert name(text.encode(codec)[:-1] + b" ", label) == text[:-1]


def test_what_xml_cannot_carry_is_left_out() -> None:
    raw = b"A\0\x1b(B\x07B" + "\uffff\ufdd0\x85C".encode("gb18030")
    assert name(raw, "GB18030") == "ABC"


@given(st.binary(max_size=60), st.binary(max_size=40), st.sampled_from(("", "GB18030", "latin-1", "nonsense")))
@settings(derandomize=True, max_examples=300, deadline=None)
def test_any_bytes_become_text_that_xml_can_carry(raw: bytes, label: bytes, default: str) -> None:
    text = decode({1: raw, 2: b"\x1b$B" + raw, 3: raw + b"\x1b-A"}, label, CharacterSets(default, (("ISO_IR 100", "GBK"),)))
    for value in text.values():
        value.encode()
        assert value.isprintable() or not any(character < " " or character in "\ufffe\uffff" for character in value)


def test_a_label_nobody_knows_is_logged_once_and_the_hospitals_own_set_is_taken() -> None:
    elements = {**USUAL, 0x00080005: (b"CS", b"CHINESE_TEXT"), 0x00100010: (b"PN", "张^三".encode("gbk"))}
    begin = tags.part10_header(CT, SOP, EXPLICIT)
    file = begin + data_set(elements)
    meta = tags.FileMeta(CT, SOP, EXPLICIT, len(begin))
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            text = header.identify(lambda at, size: file[at:at + size], len(file), meta, HOSPITAL)
            assert text["PatientName"] == "张^三"
    assert [(entry["event"], entry["label"], entry["hospital"]) for entry in logs] == [
        ("a character set label that nobody knows", "CHINESE_TEXT", "a")]
