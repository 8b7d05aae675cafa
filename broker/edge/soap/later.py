"""Answers that go to an address of their own (WS-Addressing 1.0 3.4): the request is answered 202, its answer is posted.

Only to addresses that an operator has listed: else anybody could have the broker call whom he likes. What the request asked for
is done, and durable, before its answer is sent; one that nobody takes is logged, and its asker asks again.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from urllib.parse import SplitResult, urlsplit

import httpx
import structlog
import tenacity

from broker.config.settings import OutboundSection
from broker.security.tls import client_context
from broker.wire.mime import SOAP_TYPE

log = structlog.get_logger("broker.soap")

_AT_ONCE, _WAITING, _ATTEMPTS = 4, 1000, 3


class Later:
    """Posts answers in the background; safe to share between threads."""

    def __init__(self, settings: OutboundSection) -> None:
        self._settings = settings
        self._allowed = [urlsplit(url) for url in settings.reply_to]
        self._places = threading.BoundedSemaphore(_WAITING)

    def allows(self, address: str) -> bool:
        """Say whether answers may be sent there: the scheme, host and port of a listed address, and a path that begins as its."""
        if not self._allowed:
            return False
        try:
            wanted = urlsplit(address)
        except ValueError:
            return False
        return any(_within(wanted, one) for one in self._allowed)

    def send(self, address: str, envelope: bytes) -> bool:
        """Post an answer soon; False when too many wait already."""
        if not self._places.acquire(blocking=False):
            return False
        self._pool.submit(self._post, address, envelope)
        return True

    def close(self) -> None:
        """Return when every answer has been sent, or given up."""
        self._pool.shutdown()
        self._client.close()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_AT_ONCE, "answer")

    @cached_property
    def _client(self) -> httpx.Client:
        timeout = httpx.Timeout(self._settings.silence, connect=self._settings.connect)
        return httpx.Client(trust_env=False, verify=client_context(self._settings), timeout=timeout)

    def _post(self, address: str, envelope: bytes) -> None:
        try:
            self._attempts(self._attempt, address, envelope)
        except httpx.HTTPError as error:
            log.warning("an answer was not taken", address=address, reason=type(error).__name__)
        finally:
            self._places.release()

    @property
    def _attempts(self) -> Callable[..., None]:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(httpx.HTTPError), stop=tenacity.stop_after_attempt(_ATTEMPTS),
            wait=tenacity.wait_exponential(0.2), reraise=True)

    def _attempt(self, address: str, envelope: bytes) -> None:
        headers = {"Content-Type": f"{SOAP_TYPE}; charset=utf-8"}
        self._client.post(address, content=envelope, headers=headers).raise_for_status()


def _within(wanted: SplitResult, allowed: SplitResult) -> bool:
    return (wanted.scheme, wanted.netloc) == (allowed.scheme, allowed.netloc) and wanted.path.startswith(allowed.path)
