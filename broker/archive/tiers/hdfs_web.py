"""What a NameNode tells only over HTTP: how many DataNodes live, and what room the cluster has left (its `/jmx` page)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from broker.archive.tiers.base import Space


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The cluster as its active NameNode sees it; `space` counts every replica."""

    live: int
    space: Space


def state(addresses: Iterable[str], seconds: float) -> ClusterState | None:
    """Return what the active NameNode of these addresses (`http://host:port`) says; None where none of them says it.

    Those that want Kerberos over HTTP say nothing.
    """
    for address in addresses:
        try:
            if _bean(address, "NameNodeStatus", seconds).get("State") == "active":
                found = _bean(address, "FSNamesystemState", seconds)
                return ClusterState(
                    int(found["NumLiveDataNodes"]), Space(int(found["CapacityTotal"]), int(found["CapacityRemaining"])))
        except (httpx.HTTPError, ValueError, TypeError, LookupError, AttributeError):
            continue
    return None


def _bean(address: str, name: str, seconds: float) -> dict[str, Any]:
    answer = httpx.get(
        f"{address.rstrip('/')}/jmx", params={"qry": f"Hadoop:service=NameNode,name={name}"}, timeout=seconds, trust_env=False)
    beans: list[dict[str, Any]] = answer.raise_for_status().json()["beans"]
    return beans[0] if beans else {}
