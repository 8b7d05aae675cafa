"""What of a study's text a manifest and its metadata can carry.

Pictures hold text where a date belongs, 男 where M does, and names of any length. What is understood is written as the
standard has it. A manifest copies the rest as it is, as far as its elements can hold it; metadata leave it out.
"""

import datetime as dt
import re
import unicodedata
from dataclasses import replace

from broker.model.imaging import StudyFacts
from broker.wire.terms import SEXES

LONGEST = 256       # characters of an ebRIM LongName: slot values and codes (ebRIM 3.0 2.1, rim.xsd)

_TEXT, _SHORT, _GROUP, _GROUPS = 64, 16, 64, 3      # characters of LO, SH and a component group of PN; groups (PS3.5 6.2)
_HELD = 16_000      # characters of a manifest's element: 65 534 bytes (PS3.5 7.1.2), of which UTF-8 may need four each
_IDENTIFIER = 64    # characters of an accession number or a code; SH allows 16, and longer ones are in use
_DATE = re.compile(r"(\d{4})(?:(\d\d)(?:(\d\d)(?:[ T]?\d.*)?)?)?")
_MARKED = re.compile(r"(\d{4})[-./年](?:(\d\d?)(?:[-./月](?:(\d\d?)日?(?:[ T]\d.*)?)?)?)?")
_TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:[.,](\d{1,6})\d*)?)?)?")
_MARKED_TIME = re.compile(
    r"(\d\d?)(?:[时時点點]|:(?=\d))(?:(\d\d?)(?:(?:分|:(?=\d))(?:(\d\d?)(?:[.,](\d{1,6})\d*)?秒?)?)?)?")
_BOUNDS = (23, 59, 60)
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")


def date_of(text: str) -> str:
    """Return a date as `YYYY[MM[DD]]`, as precise as `text` is; empty when it is none.

    Also dates of ACR-NEMA, ISO 8601 and of Chinese writing, with a time behind them, in full-width digits. What is zero
    is not known.
    """
    plain = unicodedata.normalize("NFKC", text).strip()
    found = _DATE.fullmatch(plain) or _MARKED.fullmatch(plain)
    if not found:
        return ""
    year, month, day = (int(part or 0) for part in found.groups())
    try:
        dt.date(year, month or 1, (day or 1) if month else 1)
    except ValueError:
        return ""
    return f"{year:04}" + (f"{month:02}" + (f"{day:02}" if day else "") if month else "")


def day_of(text: str) -> str:
    """Return a date as `YYYYMMDD`; empty when it is none or not as precise."""
    date = date_of(text)
    return date if len(date) == len("YYYYMMDD") else ""


def time_of(text: str) -> str:
    """Return a time of day as `HH[MM[SS[.f]]]`, as precise as `text` is; empty when it is none.

    Also times of Chinese writing, of hours without their zero, in full-width digits.
    """
    plain = unicodedata.normalize("NFKC", text).strip()
    found = _TIME.fullmatch(plain) or _MARKED_TIME.fullmatch(plain)
    if not found:
        return ""
    parts = [int(part) for part in found.groups()[:3] if part]
    if any(part > most for part, most in zip(parts, _BOUNDS, strict=False)):
        return ""
    fraction = f".{int(found[4]):0{len(found[4])}}" if found[4] else ""
    return "".join(f"{part:02}" for part in parts) + fraction


def sex_of(text: str) -> str:
    """Return M, F or O for what is written for them; empty for anything else."""
    return SEXES.get(unicodedata.normalize("NFKC", text).strip().upper(), "")


def modality_of(text: str) -> str:
    """Return a modality as a code string has it (PS3.5 6.2); empty when it is none."""
    plain = unicodedata.normalize("NFKC", text).strip().upper()
    return plain if _CODE.fullmatch(plain) else ""


def copied(study: StudyFacts) -> StudyFacts:
    """Return a study with the text that the elements of a manifest can hold, else as it is (RAD TF-2 4.68.4.1.2.3)."""
    def held(good: str, text: str) -> str:
        """Return what was understood, else the text where it is ASCII, as date, time and code string must be."""
        return good or (text[:_HELD] if text.isascii() else "")

    code = study.procedure_code
    return replace(
        study, birth_date=held(day_of(study.birth_date), study.birth_date), sex=held(sex_of(study.sex), study.sex),
        date=held(day_of(study.date), study.date), time=held(time_of(study.time), study.time),
        patient_name=study.patient_name[:_HELD], referring=study.referring[:_HELD], accession=study.accession[:_HELD],
        study_id=study.study_id[:_HELD], description=study.description[:_HELD], institution=study.institution[:_HELD],
        procedure_code=(code[0][:_HELD], code[1][:_HELD], code[2][:_HELD]) if code else None)


def carried(study: StudyFacts) -> tuple[StudyFacts, tuple[str, ...]]:
    """Return a study with the text that metadata can carry, and what they do not: `PatientSex left out`."""
    remarks: list[str] = []

    def said(keyword: str, before: str, after: str, how: str) -> str:
        if before.strip() and after != before and (how == "shortened" or not after):
            remarks.append(f"{keyword} {how}")
        return after

    def out(keyword: str, text: str, good: str) -> str:
        return said(keyword, text, good, "left out")

    def cut(keyword: str, text: str, most: int) -> str:
        return said(keyword, text, text.strip()[:most], "shortened") if len(text) > most else text.strip()

    def name(keyword: str, text: str) -> str:
        return said(keyword, text, "=".join(group[:_GROUP] for group in text.split("=")[:_GROUPS]), "shortened")

    def code(of: tuple[str, str, str] | None) -> tuple[str, str, str] | None:
        if of is None or not out("ProcedureCodeSequence", of[0], of[0] if max(map(len, of[:2])) <= _IDENTIFIER else ""):
            return None
        return of[0], of[1], cut("ProcedureCodeMeaning", of[2], _TEXT)

    fitted = replace(
        study, patient_name=name("PatientName", study.patient_name), referring=name("ReferringPhysicianName", study.referring),
        birth_date=out("PatientBirthDate", study.birth_date, day_of(study.birth_date)),
        sex=out("PatientSex", study.sex, sex_of(study.sex)),
        date=out("StudyDate", study.date, day_of(study.date)), time=out("StudyTime", study.time, time_of(study.time)),
        accession=out("AccessionNumber", study.accession, study.accession if len(study.accession) <= _IDENTIFIER else ""),
        study_id=cut("StudyID", study.study_id, _SHORT), description=cut("StudyDescription", study.description, _TEXT),
        institution=cut("InstitutionName", study.institution, _TEXT), procedure_code=code(study.procedure_code))
    return fitted, tuple(remarks)
