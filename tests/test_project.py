"""What the project says of itself is true: licences, tested versions, citation, container and workflow."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LISTS = ("requirements.txt", "tests/requirements.txt", "demo/requirements.txt", "benchmarks/speed/requirements.txt")


def requirements() -> list[Requirement]:
    lines = [line.split(" #")[0].strip() for file in LISTS for line in (ROOT / file).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_package_has_a_tested_version_and_a_licence(requirement):
    tested = constraints().get(canonicalize_name(requirement.name))
    assert tested, f"constraints.txt does not name {requirement.name}"
    assert requirement.specifier.contains(Version(tested), prereleases=True)
    licences = (ROOT / "docs" / "licences.md").read_text().lower()
    assert re.search(rf"[ |]{re.escape(requirement.name.lower())}[ ,|;]", licences), (
        f"no licence of {requirement.name}"
    )


def test_the_tested_versions_are_those_that_run_here_or_newer_ones_run():
    for requirement in requirements():
        assert requirement.specifier.contains(Version(version(requirement.name)), prereleases=True), requirement


def test_weights_with_terms_are_in_the_page_of_licences():
    from ddpm.weights.licences import DATA, WEIGHTS

    page = (ROOT / "docs" / "licences.md").read_text().lower()
    assert all(name in page for name in WEIGHTS)
    assert all(name in page for name in DATA)
    assert "attachment a excludes" in page and "stabilityai/sdxl-vae" in page and "non-commercial" in page


def test_the_citation_and_the_version_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == "MIT" and "MIT License" in (ROOT / "LICENSE").read_text()
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {citation['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_workflow_and_container_run_what_this_repository_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in steps
    makefile, container = (ROOT / "Makefile").read_text(), (ROOT / "Dockerfile").read_text()
    for path in re.search(r"RUN make (.*)", container).group(1).split():  # what `make web` depends on
        assert path == ".venv/.installed" or f"VIEWER := {path}" in makefile
    assert re.search(r"^web: \$\(STAMP\) \$\(VIEWER\)", makefile, flags=re.M) and '"make", "web"' in container
    assert "STAMP := $(VENV)/.installed" in makefile and "VENV := .venv" in makefile


def test_the_page_for_contributors_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`([\w/]+\.(?:py|yaml|txt))`", text):
        assert (ROOT / name).is_file(), name
