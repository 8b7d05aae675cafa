"""Is a broker well: /healthz as a client reads it."""

import httpx

from broker.model.errors import Unavailable


def health(base_url: str, *, patience: float = 5.0) -> dict[str, str]:
    """Return the state of what the broker depends on, `ok` or what is wrong. Raise `Unavailable` when it does not answer."""
    try:
        with httpx.Client(trust_env=False, timeout=patience) as client:
            states = client.get(f"{base_url.rstrip('/')}/healthz").json()["dependencies"]
            return {str(name): str(state) for name, state in states.items()}
    except (httpx.HTTPError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise Unavailable(f"{base_url}/healthz ({type(error).__name__})", 1) from error
