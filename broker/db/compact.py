"""A column of text by name in few bytes: what no query looks into, and what there is a row of for every study ever stored.

The form: one byte 0x01, then raw Deflate (RFC 1951) of the JSON text in UTF-8, with WORDS as preset dictionary. WORDS is part of
the form: what is stored can only be read with the very same bytes, so a better dictionary would be form 0x02.
See docs/decisions/0071-facts-in-few-bytes.md.
"""

import json
import zlib

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

_FORM = b"\x01"
_RAW = -zlib.MAX_WBITS
# What comes most often stands last, where a reference to it is shortest.
WORDS = (
    '省市县区中医妇幼保健中心卫生院附属人民医院第一医院数字化X线摄影磁共振成像彩色多普勒超声检查三维重建颅脑腹部盆腔腰椎颈椎膝关节'
    '正侧位双侧左右胸部平扫+增强MRDXUSCT","TimezoneOffsetFromUTC":"+0800","IssuerOfPatientID":"","PatientID":"'
    ',"ProcedureCodeMeaning":"","ProcedureCodingSchemeDesignator":"99","ProcedureCodeValue":"","InstitutionName":"'
    '","ReferringPhysicianName":"医生","StudyDescription":"","StudyID":"","AccessionNumber":"'
    '","StudyTime":"","StudyDate":"20","PatientSex":"F","PatientBirthDate":"20","PatientSex":"M","PatientBirthDate":"19'
    '{"PatientName":"=^"}'
).encode()


def pack(found: dict[str, str]) -> bytes:
    """Return texts by name in few bytes."""
    deflate = zlib.compressobj(zlib.Z_BEST_COMPRESSION, zlib.DEFLATED, _RAW, zdict=WORDS)
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return _FORM + deflate.compress(text) + deflate.flush()


def unpack(body: bytes) -> dict[str, str]:
    """Return what was packed. Raise `ValueError` when that is not what these bytes are."""
    inflate = zlib.decompressobj(_RAW, zdict=WORDS)
    try:
        text = inflate.decompress(body[1:])
        if body[:1] != _FORM or not inflate.eof or inflate.unused_data:
            raise ValueError(f"texts of an unknown form, or broken off: {body[:1].hex() or 'nothing'}, {len(body)} bytes")
        found: dict[str, str] = json.loads(text.decode("utf-8", "surrogatepass"))
    except zlib.error as error:
        raise ValueError(f"texts that are damaged: {error}") from error
    return found


class Compact(TypeDecorator[dict[str, str]]):
    """Texts by name. What is changed in a dict that was read is not stored by itself."""

    impl = sa.LargeBinary
    cache_ok = True

    def process_bind_param(self, value: dict[str, str] | None, _dialect: sa.Dialect) -> bytes | None:
        """Return what is stored."""
        return None if value is None else pack(value)

    def process_result_value(self, value: bytes | None, _dialect: sa.Dialect) -> dict[str, str] | None:
        """Return what was stored."""
        return None if value is None else unpack(value)
