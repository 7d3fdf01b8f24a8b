"""Containers of the chart, started here as their pod would start them."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import redis

from mrcelery.runners.redis_server import find_server
from tests.chart.chart_rendering import Rendered, environment_of
from tests.support.services import environment, eventually, free_port


def secrets_of(found: Rendered) -> dict[str, dict[str, str]]:
    """The secrets that the chart makes, by name and key."""
    secrets = {}
    for one in found.of("Secret"):
        decoded = {key: base64.b64decode(value).decode() for key, value in one.get("data", {}).items()}
        secrets[one["metadata"]["name"]] = {**decoded, **one.get("stringData", {})}
    return secrets


class ChartRedis:
    """The chart's Redis, its folders in ``folder``, on a port of its own."""

    def __init__(self, found: Rendered, folder: Path) -> None:
        (secret,) = [one for name, one in secrets_of(found).items() if name.endswith("-redis")]
        config = dict(found.find("ConfigMap", "-redis")["data"])
        (container,) = found.find("StatefulSet", "-redis")["spec"]["template"]["spec"]["containers"]
        assert environment_of(container).keys() == {"REDIS_USER", "REDISCLI_AUTH"}
        assert container["command"][:2] == ["sh", "-ec"]
        self.port = free_port()
        self.url = f"redis://{secret['username']}:{secret['password']}@127.0.0.1:{self.port}/0"
        for name in ("etc", "run", "data", "bin"):
            (folder / name).mkdir()
        (folder / "bin" / "valkey-server").symlink_to(find_server())
        script = container["command"][2].replace("/etc/redis", f"{folder}/etc").replace("/run/redis", f"{folder}/run")
        # A port of the test's, and someone who may read the log of refusals.
        config["redis.conf"] = config["redis.conf"].replace("dir /data", f"dir {folder}/data")
        config["redis.conf"] += f"port {self.port}\nuser admin on nopass ~* &* +@all\n"
        for name, text in config.items():
            (folder / "etc" / name).write_text(text)
        path = f"{folder}/bin:{os.environ['PATH']}"
        env = environment(REDIS_USER=secret["username"], REDISCLI_AUTH=secret["password"], PATH=path)
        self.log = folder / "redis.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(["sh", "-ec", script], env=env, stdout=log, stderr=log)
        self.admin = redis.Redis(port=self.port, username="admin", password="any")
        eventually(self._answers, "Redis answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return bool(self.admin.ping())
        except redis.ConnectionError:
            return False

    def refused(self) -> set[str]:
        """Commands, keys and channels that the user was refused so far."""
        log: list[dict[str, Any]] = self.admin.acl_log()
        return {one["object"] for one in log}

    def stop(self) -> None:
        self.admin.close()
        self.process.kill()
        self.process.wait()


class Container:
    """A container of mrcelery's image, with the chart's Redis and a folder instead of its volume."""

    def __init__(self, found: Rendered, container: Mapping[str, Any], server: ChartRedis, scratch: Path) -> None:
        secrets = secrets_of(found)
        env: dict[str, str] = {}
        for source in container["envFrom"]:
            env |= found.find("ConfigMap", source["configMapRef"]["name"])["data"]
        for name, value in environment_of(container).items():
            if isinstance(value, dict):
                ref = value["secretKeyRef"]
                value = secrets[ref["name"]][ref["key"]]
            env[name] = value
        assert env["MRCELERY_BROKER"].rpartition("@")[0] == server.url.rpartition("@")[0]
        env = {name: self._here(value, scratch) for name, value in env.items()}
        self.env = environment(**{**env, "MRCELERY_BROKER": server.url, "XDG_CONFIG_HOME": str(scratch)})
        self.scratch = scratch
        self.spec = container

    @staticmethod
    def _here(text: str, scratch: Path) -> str:
        return text.replace("/scratch", str(scratch))

    def start(self, log: Path, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mrcelery", *self.spec["args"], *more]
        with log.open("wb") as out:
            return subprocess.Popen(
                command, env=self.env, cwd=self.scratch, stdout=out, stderr=out, start_new_session=True
            )

    def probe(self, name: str) -> bool:
        """Run one of the commands of its probes."""
        words = self.spec[name]["exec"]["command"]
        assert words[0] == "python"
        return subprocess.run([sys.executable, *words[1:]], env=self.env, capture_output=True).returncode == 0
