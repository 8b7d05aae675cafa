"""The three errors of the broker.

    BrokerError
    ├── Rejected      the sender's fault: code, context, location (one or several problems)
    ├── Unavailable   a store or peer is down; the same request may succeed later
    └── TooLarge      a limit that is a setting was exceeded

One table per wire turns them into a SOAP fault, a registry error, an HL7 ERR segment or a DIMSE status.
Any other exception is a bug: it is answered once, at the edge, and logged there.
"""

import errno
import traceback
from dataclasses import dataclass
from enum import StrEnum

_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT))


class XdsCode(StrEnum):
    """Error codes of ITI TF-3 table 4.2.4.1-2 that the broker emits."""

    MISSING_DOCUMENT = "XDSMissingDocument"
    MISSING_DOCUMENT_METADATA = "XDSMissingDocumentMetadata"
    REGISTRY_METADATA_ERROR = "XDSRegistryMetadataError"
    REPOSITORY_METADATA_ERROR = "XDSRepositoryMetadataError"
    REGISTRY_NOT_AVAILABLE = "XDSRegistryNotAvailable"
    REGISTRY_ERROR = "XDSRegistryError"
    REPOSITORY_ERROR = "XDSRepositoryError"
    REGISTRY_BUSY = "XDSRegistryBusy"
    REPOSITORY_BUSY = "XDSRepositoryBusy"
    REGISTRY_OUT_OF_RESOURCES = "XDSRegistryOutOfResources"
    REPOSITORY_OUT_OF_RESOURCES = "XDSRepositoryOutOfResources"
    DUPLICATE_UNIQUE_ID_IN_MESSAGE = "XDSRegistryDuplicateUniqueIdInMessage"
    REPOSITORY_DUPLICATE_UNIQUE_ID_IN_MESSAGE = "XDSRepositoryDuplicateUniqueIdInMessage"
    DUPLICATE_UNIQUE_ID_IN_REGISTRY = "XDSDuplicateUniqueIdInRegistry"
    NON_IDENTICAL_HASH = "XDSNonIdenticalHash"
    NON_IDENTICAL_SIZE = "XDSNonIdenticalSize"
    DEPRECATED_DOCUMENT = "XDSRegistryDeprecatedDocumentError"
    PATIENT_ID_DOES_NOT_MATCH = "XDSPatientIdDoesNotMatch"
    UNKNOWN_PATIENT_ID = "XDSUnknownPatientId"
    UNRESOLVED_REFERENCE = "UnresolvedReferenceException"
    UNKNOWN_STORED_QUERY = "XDSUnknownStoredQuery"
    STORED_QUERY_MISSING_PARAM = "XDSStoredQueryMissingParam"
    STORED_QUERY_PARAM_NUMBER = "XDSStoredQueryParamNumber"
    RESULT_NOT_SINGLE_PATIENT = "XDSResultNotSinglePatient"
    TOO_MANY_RESULTS = "XDSTooManyResults"
    UNKNOWN_COMMUNITY = "XDSUnknownCommunity"
    UNKNOWN_REPOSITORY_ID = "XDSUnknownRepositoryId"
    DOCUMENT_UNIQUE_ID_ERROR = "XDSDocumentUniqueIdError"
    INVALID_DOCUMENT_CONTENT = "InvalidDocumentContent"


class Hl7Code(StrEnum):
    """Message error codes of HL7 table 0357 (v2.5), also used in V3 acknowledgement details."""

    SEGMENT_SEQUENCE = "100"
    REQUIRED_FIELD_MISSING = "101"
    DATA_TYPE = "102"
    TABLE_VALUE = "103"
    UNSUPPORTED_MESSAGE_TYPE = "200"
    UNSUPPORTED_EVENT = "201"
    UNSUPPORTED_PROCESSING_ID = "202"
    UNSUPPORTED_VERSION = "203"
    UNKNOWN_KEY = "204"
    DUPLICATE_KEY = "205"
    RECORD_LOCKED = "206"
    INTERNAL = "207"
    SCHEMA = "SYN113"


class DimseCode(StrEnum):
    """Statuses the broker answers to a C-STORE (PS3.4 B.2.3, PS3.7 annex C), as four hexadecimal digits.

    The context of such a problem goes to the sender as Error Comment, and into the log: it says nothing of a patient. Its
    location is the keyword of the offending element, or empty.
    """

    PROCESSING_FAILURE = "0110"
    INVALID_SOP_INSTANCE = "0117"
    CLASS_NOT_SUPPORTED = "0122"
    NOT_AUTHORISED = "0124"
    OUT_OF_RESOURCES = "A700"
    DATA_SET_MISMATCH = "A900"
    CANNOT_UNDERSTAND = "C000"


class FhirCode(StrEnum):
    """Why a FHIR request is refused; HTTP status and issue type of each are in `wire/fhir_outcome.py`.

    The location of such a problem is a FHIRPath or the name of a parameter.
    """

    STRUCTURE = "structure"
    REQUIRED = "required"
    VALUE = "value"
    CODE_INVALID = "code-invalid"
    INVALID = "invalid"
    NOT_SUPPORTED = "not-supported"
    TOO_LONG = "too-long"
    BUSINESS_RULE = "business-rule"
    MULTIPLE_MATCHES = "multiple-matches"
    NOT_FOUND = "not-found"
    CONFLICT = "conflict"
    FORBIDDEN = "forbidden"
    MEDIA_TYPE = "media-type"
    TARGET_UNKNOWN = "target-unknown"
    WANTED_UNKNOWN = "wanted-unknown"


class AccessCode(StrEnum):
    """Why rules do not let a call through, on whatever wire."""

    DENIED = "AccessDenied"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a request. `context` is for people, never a patient's name; `location` as the wire defines it."""

    code: str
    context: str
    location: str = ""


class BrokerError(Exception):
    """Root of the errors that are answered to the caller."""


class Rejected(BrokerError):
    """The sender's fault. `problems` holds one or more, the first one first found."""

    def __init__(self, code: str, context: str, location: str = "") -> None:
        super().__init__(f"{code}: {context}")
        self.problems: tuple[Problem, ...] = (Problem(code, context, location),)

    @classmethod
    def of(cls, problems: "tuple[Problem, ...] | list[Problem]") -> "Rejected":
        """Build from several problems at once; at least one."""
        first = problems[0]
        error = cls(first.code, first.context, first.location)
        error.problems = tuple(problems)
        return error


class Unavailable(BrokerError):
    """A store or peer is down: `what` names it, `retry_after` says in how many seconds to try again.

    `full` says that it has no room left: some wires have a code of its own for that. `reason` says in a few words why,
    without an address of ours.
    """

    def __init__(self, what: str, retry_after: int = 5, *, full: bool = False, reason: str = "") -> None:
        super().__init__(f"{what} is {'full' if full else 'not available'}" + (f": {reason}" if reason else ""))
        self.what, self.retry_after, self.full, self.reason = what, retry_after, full, reason

    @classmethod
    def store(cls, what: str, error: OSError) -> "Unavailable":
        """Return what an error of a file system means for the store on it."""
        return cls(what, full=error.errno in _NO_ROOM)


class TooLarge(BrokerError):
    """A limit was exceeded: `limit` names the setting and its value."""

    def __init__(self, limit: str) -> None:
        super().__init__(f"limit exceeded: {limit}")
        self.limit = limit


def place_of(error: BaseException) -> str:
    """Return what kind of error it is and where it arose: text of the error itself may hold patient data."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/broker/" in frame.filename] or frames
    where = f" ({ours[-1].filename.rpartition('/broker/')[2]}:{ours[-1].lineno})" if ours else ""
    return type(error).__name__ + where
