"""What is made of messages that others put on our channels; Redis itself is tried where a real one runs."""

from typing import Any, cast

import pytest

from broker.coord.redis import RedisSubscription


class Heard:
    """Redis' side of a subscription: confirms it, then gives what was put in."""

    def __init__(self) -> None:
        self.waiting: list[bytes] = []

    def subscribe(self, *channels: str) -> None:
        self.waiting += [b"1" for _ in channels]

    def get_message(self, **_options: Any) -> dict[str, bytes] | None:
        return {"channel": b"b:landed", "data": self.waiting.pop(0)} if self.waiting else None

    def close(self) -> None:
        """Nothing is held."""


class Client:
    def __init__(self, heard: Heard) -> None:
        self._heard = heard

    def pubsub(self) -> Heard:
        return self._heard


@pytest.mark.parametrize("noise", [
    b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5_000, b'"\\ud800"'])
def test_noise_on_a_channel_is_ignored(noise: bytes) -> None:
    heard = Heard()
    subscription = RedisSubscription(cast("Any", Client(heard)), "b:", ("landed",))
    heard.waiting[:] = [noise, b'{"job": 1}']
    found = [subscription.get(0), subscription.get(0)]
    assert [one for one in found if one] == [("landed", {"job": 1})]
    subscription.close()
