"""The guide names what there is: values, files, commands and placeholders."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.chart.chart_rendering import CHART, ROOT, render

HELM = ROOT / "helm"
PAGES = [HELM / "README.md", HELM / "SECURITY.md", CHART / "README.md"]
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGES[0].read_text() + PAGES[2].read_text(), re.DOTALL)
PLACEHOLDER = re.compile(r"\b(BUCKET|REGION|ACCOUNT)\b")


def test_every_value_that_is_set_exists() -> None:
    text = "".join(page.read_text() for page in [*PAGES, ROOT / "README.md"])
    named = re.findall(r"--set ([\w.]+)=", text)
    assert len(named) > 8
    for name in named:
        at = VALUES
        for part in name.split("."):
            assert part in at, name
            at = at[part]


def test_values_in_prose_exist() -> None:
    sections = "workers|flower|metrics|redis|signing|networkPolicy|serviceAccount|image|client"
    for page in PAGES:
        for name in re.findall(rf"`((?:{sections})\.[\w.]+)`", page.read_text()):
            at = VALUES
            for part in name.split("."):
                assert part in at, f"{page.name}: {name}"
                at = at[part]


def test_the_chart_s_page_names_every_section() -> None:
    text = (CHART / "README.md").read_text()
    minor = ("image", "imagePullSecrets", "resultBackend", "nameOverride", "fullnameOverride", "commonLabels")
    for name in VALUES.keys() - {*minor, "commonAnnotations"}:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HELM)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert links
    for link in links:
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_commands_are_shell(block: str) -> None:
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)


def test_the_guide_fills_every_placeholder() -> None:
    """With the function that the guide defines, run by bash."""
    (define,) = [line for block in BLOCKS for line in block.splitlines() if line.startswith("fill()")]
    used = {name for block in BLOCKS for name in re.findall(r"fill ([\w.-]+)", block)}
    assert len(used) >= 6
    for name in used:
        script = f"BUCKET=my-bucket REGION=eu-west-1 ACCOUNT=123456789012\n{define}\nfill {name}"
        text = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert not PLACEHOLDER.search(re.sub(r"\$\w+|\$\{[^}]*\}", "", text)), name
        if name.endswith(".json"):
            json.loads(text)
        elif name.endswith(".yaml"):
            assert yaml.safe_load(text)["metadata"]["region"] == "eu-west-1"
        else:
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_role_is_for_the_account_that_the_chart_makes() -> None:
    cluster = yaml.safe_load((HELM / "aws" / "cluster.yaml").read_text())
    (association,) = cluster["iam"]["podIdentityAssociations"]
    (account,) = render(sets=['serviceAccount.name="mrcelery"']).of("ServiceAccount")
    assert account["metadata"]["name"] == association["serviceAccountName"]


def test_prefixes_of_policies_and_lifecycle_are_those_of_the_guide() -> None:
    rules = json.loads((HELM / "aws" / "lifecycle.json").read_text())["Rules"]
    prefixes = {rule["Filter"]["Prefix"] for rule in rules if "Expiration" in rule}
    assert prefixes == {"mrcelery/jobs/", "mrcelery/inputs/"}
    assert "--set storage=s3://$BUCKET/mrcelery " in PAGES[0].read_text()
