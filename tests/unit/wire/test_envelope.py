import pytest

from broker.model.errors import Rejected
from broker.wire import envelope, xml

HEAD = f'<s:Envelope xmlns:s="{xml.SOAP}" xmlns:a="{xml.WSA}">'


def fault(inner: str) -> bytes:
    return f"{HEAD}<s:Body><s:Fault>{inner}</s:Fault></s:Body></s:Envelope>".encode()


def test_a_request_says_what_it_wants_and_escapes_what_it_is_told() -> None:
    body = b'<x xmlns="urn:x">&amp;</x>'
    root = xml.parse(envelope.write_request(body, action="urn:a&b", to="http://h/?a&b", message_id="urn:uuid:1"))
    header = {str(child.tag).rpartition("}")[2]: child for child in root[0]}
    assert {name: "".join(map(str, child.itertext())) for name, child in header.items()} == {
        "Action": "urn:a&b", "MessageID": "urn:uuid:1", "ReplyTo": envelope.ANONYMOUS, "To": "http://h/?a&b"}
    must = f"{{{xml.SOAP}}}mustUnderstand"
    assert {name for name, child in header.items() if child.get(must) == "true"} == {"Action"}
    assert [child.tag for child in root[1]] == ["{urn:x}x"]


def test_an_answer_gives_its_body_and_what_it_relates_to() -> None:
    answer = envelope.read_answer(
        f"{HEAD}<s:Header><a:Action> urn:r </a:Action><a:RelatesTo>urn:uuid:1</a:RelatesTo></s:Header>"
        "<s:Body><y/></s:Body></s:Envelope>".encode())
    assert (answer.body.tag, answer.action, answer.relates_to) == ("y", "urn:r", "urn:uuid:1")


def test_an_answer_without_headers_relates_to_nothing() -> None:
    assert envelope.read_answer(f"{HEAD}<s:Body><y/></s:Body></s:Envelope>".encode()).relates_to == ""


@pytest.mark.parametrize(("inner", "code", "reason"), [
    ("<s:Code><s:Value>s:Sender</s:Value></s:Code><s:Reason><s:Text>no</s:Text></s:Reason>", "Sender", "no"),
    ("<s:Code><s:Value>s:Sender</s:Value><s:Subcode><s:Value>a:ActionNotSupported</s:Value></s:Subcode></s:Code>",
     "ActionNotSupported", "no reason given"),
    ("<s:Code><s:Value/></s:Code>", "Receiver", "no reason given"),
    ("", "Receiver", "no reason given"),
])
def test_a_fault_is_raised_with_code_and_reason(inner: str, code: str, reason: str) -> None:
    with pytest.raises(envelope.Fault) as raised:
        envelope.read_answer(fault(inner))
    assert [(p.code, p.context) for p in raised.value.problems] == [(code, reason)]


@pytest.mark.parametrize("data", [
    b"", b"<a/>", f"{HEAD}</s:Envelope>".encode(), f"{HEAD}<s:Body/></s:Envelope>".encode(),
    f"{HEAD}<s:Body><a/><b/></s:Body></s:Envelope>".encode(),
    b'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body><a/></e:Body></e:Envelope>',
])
def test_what_is_no_soap_1_2_answer_is_refused(data: bytes) -> None:
    with pytest.raises(Rejected):
        envelope.read_answer(data)
