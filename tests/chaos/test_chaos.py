"""A few seeds that meet every kind of fault; ``python -m tests.chaos.run`` runs as many as you like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mrcelery.errors import ConfigError
from mrcelery.runners.redis_server import find_server
from tests.support.services import environment, missing

pytestmark = pytest.mark.timeout(3600)  # the first one runs all the seeds

ROOT = Path(__file__).parents[2]

SEEDS = (13, 151, 154, 155, 176, 182)
"""Together they cover all faults, all jobs, both kinds of storage, AOF or not, and backup tasks or not."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    if sys.platform != "linux":
        pytest.skip("the driver finds processes in /proc")
    try:
        find_server()
    except ConfigError as e:
        missing(str(e))
    folder = tmp_path_factory.mktemp("chaos")
    command = [sys.executable, "-m", "tests.chaos.run", "--seeds", ",".join(map(str, SEEDS)), "--jobs", "2"]
    command += ["--keep", str(folder / "keep"), "--json", str(folder / "outcomes")]
    command += ["--patience", "4"]  # the tests assert the result and the end of the job, not its speed
    subprocess.run(command, cwd=ROOT, env=environment(), check=False, stdout=sys.stderr)
    return {found["seed"]: found for found in map(json.loads, (folder / "outcomes").read_text().splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_result_is_that_of_the_undisturbed_run(seed: int, outcomes: dict[int, Any]) -> None:
    outcome = outcomes[seed]
    assert outcome["verdict"] == "right", os.linesep.join([outcome["plan"], *outcome["problems"]])
    assert outcome["kinds"], "no fault took place"


@pytest.mark.slow
def test_the_seeds_meet_every_fault(outcomes: dict[int, Any]) -> None:
    from tests.chaos.plan import FAULTS

    planned = {kind for kind in FAULTS for outcome in outcomes.values() if kind in outcome["plan"]}
    assert planned == set(FAULTS)
