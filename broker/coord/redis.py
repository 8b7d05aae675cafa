"""Coordination between machines through Redis: pub/sub for announcements, SET NX PX for locks.

Nothing here is truth: while Redis is away announcements are lost, locks are granted to everybody, and nobody fails.
"""

import contextlib
import json
import secrets
import time
from collections.abc import Iterator

import redis
import structlog
from redis.backoff import NoBackoff
from redis.client import PubSub
from redis.exceptions import RedisError
from redis.retry import Retry

from broker.coord.base import Body, read_json

_PATIENCE = 1.0             # seconds one command may take
_PAUSE = 1.0                # seconds without a new try after a failure
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"

log = structlog.get_logger("broker.coord")


class RedisCoord:
    """Announcements and locks between all processes that use this Redis and prefix."""

    def __init__(self, url: str, prefix: str) -> None:
        self._prefix = prefix
        # One immediate second try: a pooled connection may be from before a restart of Redis.
        self._client = redis.Redis.from_url(
            url, socket_timeout=_PATIENCE, socket_connect_timeout=_PATIENCE, socket_keepalive=True, health_check_interval=10,
            retry=Retry(NoBackoff(), 1, (redis.ConnectionError,)))
        self._quiet_until = 0.0

    def publish(self, channel: str, body: Body) -> None:
        """Announce to everyone listening now; lost while Redis is away."""
        if time.monotonic() < self._quiet_until:
            return
        try:
            self._client.publish(self._prefix + channel, json.dumps(body, separators=(",", ":")))
        except RedisError as error:
            self._quiet_until = time.monotonic() + _PAUSE
            log.warning("announcement lost", channel=channel, reason=type(error).__name__)

    def subscribe(self, *channels: str) -> "RedisSubscription":
        """Listen on these channels, from now on or from when Redis is back."""
        return RedisSubscription(self._client, self._prefix, channels)

    @contextlib.contextmanager
    def lock(self, name: str, ttl: float) -> Iterator[bool]:
        """Try to be the only one for at most `ttl` seconds. True for everybody while Redis is away."""
        key, token = f"{self._prefix}lock:{name}", secrets.token_hex(16)
        try:
            held = bool(self._client.set(key, token, nx=True, px=max(1, int(ttl * 1000))))
        except RedisError as error:
            log.warning("lock granted without Redis", reason=type(error).__name__)
            held = True
        try:
            yield held
        finally:
            if held:
                with contextlib.suppress(RedisError):
                    self._client.eval(_RELEASE, 1, key, token)

    def state(self) -> str:
        """Say `ok`, or what is wrong."""
        try:
            self._client.ping()
        except RedisError as error:
            return f"Redis does not answer ({type(error).__name__})"
        return "ok"

    def close(self) -> None:
        """Release all connections."""
        self._client.close()


class RedisSubscription:
    """One listening connection, made again when it is lost. For one thread."""

    def __init__(self, client: redis.Redis, prefix: str, channels: tuple[str, ...]) -> None:
        self._client, self._prefix, self._channels = client, prefix, channels
        self._heard: PubSub | None = None
        self._try_at = 0.0
        self._connect()

    def get(self, timeout: float) -> tuple[str, Body] | None:
        """Return the next (channel, body), or None after `timeout` seconds or when the connection was lost."""
        until = time.monotonic() + timeout
        while True:
            left = max(0.0, until - time.monotonic())
            if self._connected():
                message = self._next(left)
                if message is not None:
                    return message
            else:
                time.sleep(min(left, max(0.0, self._try_at - time.monotonic())))
            if left <= 0:
                return None

    def _next(self, timeout: float) -> tuple[str, Body] | None:
        assert self._heard is not None
        try:
            message = self._heard.get_message(ignore_subscribe_messages=True, timeout=timeout)
        except RedisError as error:
            self._lost(error)
            return None
        return self._read(message) if message else None

    def _read(self, message: dict[str, bytes]) -> tuple[str, Body] | None:
        body = read_json(message["data"])
        channel = message["channel"].decode(errors="replace").removeprefix(self._prefix)
        return (channel, body) if isinstance(body, dict) else None

    def _connected(self) -> bool:
        if self._heard is None and time.monotonic() >= self._try_at:
            self._connect()
        return self._heard is not None

    def _connect(self) -> None:
        """Subscribe and wait for Redis to confirm every channel, so that nothing said after our return is missed."""
        self._heard = self._client.pubsub()  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated
        try:
            self._heard.subscribe(*(self._prefix + channel for channel in self._channels))
            for _ in self._channels:
                if self._heard.get_message(timeout=_PATIENCE) is None:
                    raise redis.TimeoutError
        except RedisError as error:
            self._lost(error)

    def _lost(self, error: RedisError) -> None:
        log.warning("subscription lost", reason=type(error).__name__)
        self.close()
        self._try_at = time.monotonic() + _PAUSE

    def close(self) -> None:
        """Stop listening."""
        if self._heard is not None:
            with contextlib.suppress(RedisError):
                self._heard.close()
        self._heard = None
