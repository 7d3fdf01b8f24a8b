"""Findings of ``doctor``, and its judgment of a Redis server.

A server is judged only by its ``INFO``, which managed services answer even if they refuse ``CONFIG``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from mrcelery.config import show_size

Level = Literal["ok", "warn", "fail"]
Info = Mapping[str, str]
"""A server's ``INFO``, by field."""

OLDEST = (6, 2)
"""The oldest Redis without a warning: older ones get no fixes any more, and are not tested here."""

FULL = 0.8
"""Share of ``maxmemory`` above which a server is reported as nearly full."""


class Finding(msgspec.Struct, frozen=True):
    """The result of one check: the observation and, unless all is well, the remedy."""

    check: str
    level: Level
    saw: str
    do: str = ""


def parse_info(text: str) -> dict[str, str]:
    """Parse an ``INFO`` answer into its fields."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def judge(name: str, info: Info) -> list[Finding]:
    """List conditions that can make the server called ``name`` (broker, result backend) lose data or refuse it."""
    return [f for f in (_version(name, info), _role(name, info), _memory(name, info)) if f] + [
        _eviction(name, info),
        _persistence(name, info),
    ]


def product(info: Info) -> str:
    """Return product and version: ``Redis 7.0.15`` or ``Valkey 9.1.0``."""
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info.get('redis_version', '?')}"


def _version(name: str, info: Info) -> Finding | None:
    told = info.get("redis_version", "")
    if not told or tuple(int(n) for n in told.split(".")[:2] if n.isdecimal()) >= OLDEST:
        return None
    return Finding(
        f"{name}: version", "warn", f"Redis {told} is older than what is tested", "update to Redis 7 or Valkey 8"
    )


def _role(name: str, info: Info) -> Finding | None:
    if info.get("cluster_enabled") == "1":
        return Finding(
            f"{name}: role",
            "fail",
            "it is a Redis Cluster, which Celery's queues do not work with",
            "use a single primary (with replicas and Sentinel, if need be; ElastiCache: cluster mode disabled)",
        )
    if info.get("role") in ("slave", "replica"):
        primary = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
        return Finding(
            f"{name}: role", "fail", f"it is a replica of {primary}", "give the primary's address, or sentinel://"
        )
    return None


def _memory(name: str, info: Info) -> Finding | None:
    most, used = int(info.get("maxmemory") or 0), int(info.get("used_memory") or 0)
    if not most or used < FULL * most:
        return None
    return Finding(
        f"{name}: memory",
        "warn",
        f"{show_size(used)} of {show_size(most)} are used: a full server refuses tasks",
        "raise maxmemory, or remove other data there (a queued task takes about 2 KiB)",
    )


def _eviction(name: str, info: Info) -> Finding:
    check, policy, most = f"{name}: eviction", info.get("maxmemory_policy", ""), int(info.get("maxmemory") or 0)
    do = "set maxmemory-policy noeviction"
    gone = int(info.get("evicted_keys") or 0)
    if not policy:
        return Finding(check, "warn", "the server does not report its maxmemory-policy", f"check it yourself: {do}")
    if policy == "noeviction":
        limit = show_size(most) if most else "no limit"
        return Finding(check, "ok", f"noeviction, {limit}")
    if not most:
        return Finding(check, "warn", f"{policy}: with a maxmemory set, jobs would be removed", do)
    lost = f"; {gone:,} keys were removed so far" if gone else ""
    if policy.startswith("allkeys"):
        return Finding(check, "fail", f"{policy}: a full server removes queues with their tasks{lost}", do)
    return Finding(check, "warn", f"{policy}: a full server removes jobs that run{lost}", do)


def _persistence(name: str, info: Info) -> Finding:
    check = f"{name}: persistence"
    if info.get("aof_enabled") == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            return Finding(check, "fail", "the append-only file cannot be written", "see the server's log and its disk")
        return Finding(check, "ok", "append-only file")
    replicas = int(info.get("connected_slaves") or 0)
    if replicas:
        return Finding(
            check,
            "warn",
            f"no append-only file, {replicas} replica{'' if replicas == 1 else 's'}: a failover keeps tasks, a "
            "primary that restarts empty does not",
            "set appendonly yes, or make sure that a restarted primary becomes a replica",
        )
    return Finding(
        check,
        "warn",
        "no append-only file: a restart loses the queue, and only jobs that a client or a worker remembers resume",
        "set appendonly yes; after a loss, `mrcelery retry JOB`",
    )
