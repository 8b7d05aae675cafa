"""What is wrong when a call to HDFS fails: hdfs-native raises OSError, or RuntimeError with a Java class in its text."""

import re
from dataclasses import dataclass

import structlog

from broker.archive.tiers.base import WHAT
from broker.model.errors import Unavailable

_log = structlog.get_logger("broker.archive")


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a call failed, in a few words. `passing`: it was not carried out, and may succeed a second later."""

    reason: str
    passing: bool = False
    full: bool = False


HUNG = Trouble("no answer in time")

# What stands in the text of an error, most telling first.
_TROUBLES = (
    ("StandbyException", Trouble("no NameNode is active", passing=True)),
    ("ObserverRetryOnActiveException", Trouble("no NameNode is active", passing=True)),
    ("SafeModeException", Trouble("the NameNode is in safe mode", passing=True)),
    ("RetriableException", Trouble("the NameNode is starting", passing=True)),
    ("NSQuotaExceededException", Trouble("the quota of files and folders is used up", full=True)),
    ("DSQuotaExceededException", Trouble("the quota of bytes is used up", full=True)),
    ("QuotaByStorageTypeExceededException", Trouble("the quota of bytes is used up", full=True)),
    ("LeaseExpiredException", Trouble("the file was taken from its writer")),
    ("replication exceeds maximum", Trouble("archive.hdfs.replication is more than the cluster allows")),
    ("less than configured minimum", Trouble("archive.hdfs.block_size is less than the cluster allows")),
    ("could only be written to", Trouble("too few DataNodes take a block")),
    ("All DataNodes failed", Trouble("no DataNode gives a block")),
    ("No new datanode found", Trouble("too few DataNodes take a block")),
    ("Ticket expired", Trouble("the Kerberos ticket has expired")),
    ("GSS_S_CONTEXT_EXPIRED", Trouble("the Kerberos ticket has expired")),
    ("GSS_S_CREDENTIALS_EXPIRED", Trouble("the Kerberos ticket has expired")),
    ("Cannot contact any KDC", Trouble("no Kerberos server answers", passing=True)),
    ("Clock skew too great", Trouble("the clocks of this machine and of Kerberos differ too much")),
    ("Server not found in Kerberos database", Trouble("Kerberos does not know the NameNode under the name in archive.url")),
    ("GSS_S_NO_CRED", Trouble("no Kerberos key or ticket of archive.hdfs.principal")),
    ("RPC listener disconnected", Trouble("the NameNode ended the connection; it may ask for Kerberos")),
    ("No data received for", Trouble("a DataNode says nothing")),
    ("Connection refused", Trouble("the connection is refused", passing=True)),
)
_JAVA = re.compile(r"org\.[a-z.]+\.([A-Z]\w*Exception)")
_LINE = 100     # letters
_PERMISSION = re.compile(r"Permission denied: user=([^,]+), access=(\w+)")


def of(error: BaseException) -> Trouble:
    """Return what is wrong."""
    text = str(error)
    if denied := _PERMISSION.search(text):
        return Trouble(f"no permission: user {denied[1]} may not {denied[2].lower()} there")
    for sign, trouble in _TROUBLES:
        if sign in text:
            return trouble
    if java := _JAVA.search(text):
        return Trouble(java[1])
    return Trouble((error.strerror if isinstance(error, OSError) else None) or text.partition("\n")[0][:_LINE])


def unavailable(trouble: Trouble) -> Unavailable:
    """Return what to raise; the reason is logged."""
    _log.warning("store failed", store=WHAT, reason=trouble.reason)
    return Unavailable(WHAT, full=trouble.full, reason=trouble.reason)


