import pytest

from broker.archive.tiers import hdfs_errors

RPC = 'RPCError("org.apache.hadoop.{name}", "{text}\\n\\tat org.apache.hadoop.hdfs.server.namenode.FSNamesystem...")'
GSS = 'GSSAPIError(GssMajorCodes {{ routine_error: "{code}" }}, 2529639107, "{text}")'


def rpc(name: str, text: str = "") -> RuntimeError:
    return RuntimeError(RPC.format(name=name, text=text))


@pytest.mark.parametrize(("error", "reason", "passing", "full"), [
    (rpc("ipc.StandbyException", "Operation category READ is not supported"), "no NameNode is active", True, False),
    (rpc("hdfs.server.namenode.SafeModeException"), "the NameNode is in safe mode", True, False),
    (rpc("hdfs.protocol.DSQuotaExceededException"), "the quota of bytes is used up", False, True),
    (rpc("hdfs.protocol.NSQuotaExceededException"), "the quota of files and folders is used up", False, True),
    (rpc("security.AccessControlException", 'Permission denied: user=broker, access=WRITE, inode="/1.2.3":hdfs:hdfs:drwx'),
     "no permission: user broker may not write there", False, False),
    (rpc("hdfs.server.namenode.LeaseExpiredException"), "the file was taken from its writer", False, False),
    (RuntimeError("DataTransferError: All DataNodes failed"), "no DataNode gives a block", False, False),
    (rpc("ipc.RemoteException", "File /x could only be written to 0 of the 1 minReplication nodes"),
     "too few DataNodes take a block", False, False),
    (OSError("Connection refused (os error 111)"), "the connection is refused", True, False),
    (OSError(113, "No route to host"), "No route to host", False, False),
    (OSError("No data received for 5000ms"), "a DataNode says nothing", False, False),
    (RuntimeError(GSS.format(code="GSS_S_FAILURE", text="Ticket expired")), "the Kerberos ticket has expired", False, False),
    (RuntimeError(GSS.format(code="GSS_S_CONTEXT_EXPIRED", text="")), "the Kerberos ticket has expired", False, False),
    (RuntimeError(GSS.format(code="GSS_S_NO_CRED", text="Cannot contact any KDC for realm 'R'")),
     "no Kerberos server answers", True, False),
    (RuntimeError(GSS.format(code="GSS_S_NO_CRED", text="No credentials cache found")),
     "no Kerberos key or ticket of archive.hdfs.principal", False, False),
    (rpc("hdfs.protocol.SnapshotException", "The directory /1.2.3 cannot be deleted"), "SnapshotException", False, False),
    (RuntimeError("hdfs-native gave up: PanicException"), "hdfs-native gave up: PanicException", False, False),
])
def test_what_is_wrong_in_a_few_words(error: Exception, reason: str, passing: bool, full: bool) -> None:
    found = hdfs_errors.of(error)
    assert (found.reason, found.passing, found.full) == (reason, passing, full)


def test_what_is_raised_says_why_and_nothing_of_a_path() -> None:
    full = hdfs_errors.of(rpc("hdfs.protocol.DSQuotaExceededException", "of /sdicom/1.2.3-0a is exceeded"))
    error = hdfs_errors.unavailable(full)
    assert str(error) == "archive is full: the quota of bytes is used up"
    assert (error.what, error.full) == ("archive", True)
