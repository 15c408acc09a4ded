"""Licences, tested versions, citation, container and workflow agree with the files that they describe."""

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = (
    "requirements.txt",
    "tests/requirements.txt",
    "demo/requirements.txt",
    "benchmarks/speed/requirements.txt",
)
LISTS = (*INSTALLED, "docs/requirements.txt")  # `make docs` installs the last one


def requirements(lists: tuple[str, ...] = LISTS) -> list[Requirement]:
    lines = [line.split(" #")[0].strip() for file in lists for line in (ROOT / file).read_text().splitlines()]
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


def test_the_installed_versions_satisfy_the_requirements():
    for requirement in requirements(INSTALLED):
        assert requirement.specifier.contains(Version(version(requirement.name)), prereleases=True), requirement


def test_the_page_of_licences_names_weights_and_data_with_terms():
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
    nightly = yaml.safe_load((ROOT / ".github" / "workflows" / "nightly.yml").read_text())["jobs"]["run"]
    for target in nightly["strategy"]["matrix"]["target"]:
        assert re.search(rf"^{target}: \$\(STAMP\)", makefile, flags=re.M), target
    assert all(f"-m {mark}" in makefile for mark in ("slow", "nightly", "processes", '"faults or slow"'))
    for path in re.search(r"RUN make (.*)", container).group(1).split():  # what `make web` depends on
        assert path == ".venv/.installed" or f"VIEWER := {path}" in makefile
    assert re.search(r"^web: \$\(STAMP\) \$\(VIEWER\)", makefile, flags=re.M) and '"make", "web"' in container
    assert "STAMP := $(VENV)/.installed" in makefile and "VENV := .venv" in makefile


def test_hooks_and_editor_settings_agree_with_the_linter():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {d for hook in hooks for d in hook["additional_dependencies"]} == {f"ruff=={constraints()['ruff']}"}
    assert "line-length = 119" in (ROOT / "pyproject.toml").read_text()
    assert "max_line_length = 119" in (ROOT / ".editorconfig").read_text()
    assert json.loads((ROOT / ".vscode" / "settings.json").read_text())["editor.rulers"] == [119]
