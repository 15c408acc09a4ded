"""The package and its console scripts beside modules of the user that are named like folders of the project."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from common.errors import EXTRAS, import_message
from xray2ct import console
from xray2ct.rooms import ROOMS

tomllib = pytest.importorskip("tomllib", reason="part of Python since 3.11")

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture
def user(tmp_path) -> Path:
    """A user's folder with an own `dataset.py` and `train.py`, beside a folder that holds `xray2ct` alone."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "xray2ct").symlink_to(ROOT / "xray2ct")
    folder = tmp_path / "user"
    folder.mkdir()
    for name in ("dataset", "train"):
        (folder / f"{name}.py").write_text(f"OF_THE_USER = '{name}'\n")
    return folder


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder.parent / "site"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


ERRORS = """
import sys, dataset
import xray2ct
from xray2ct import UserError
import train
from xray2ct.common import files
assert dataset.OF_THE_USER == "dataset" and train.OF_THE_USER == "train"
assert UserError.__module__ == "xray2ct.common.errors" and files.UserError is UserError
assert sys.modules["dataset"] is dataset and "common" not in sys.modules
try:
    xray2ct.Volume
except AttributeError as error:
    assert "XrayToCTPipeline" in str(error)
"""


def test_modules_of_the_user_keep_their_names(user):
    done = python(user, "-c", ERRORS)
    assert done.returncode == 0, done.stderr


def test_a_console_script_runs_from_the_folder_of_the_user(user):
    done = python(user, "-c", "from xray2ct.console import generate; generate()", "--help")
    assert done.returncode == 0 and "xray=" in done.stdout, done.stderr


def test_a_module_that_took_the_name_before_a_console_script_ends_it_in_one_line(user):
    done = python(user, "-c", "import dataset; from xray2ct.console import generate; generate()")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "dataset.py: already loaded as `dataset`" in done.stderr


def test_in_a_clone_the_package_and_the_folders_share_their_classes():
    import xray2ct
    from common.errors import UserError

    assert xray2ct.UserError is UserError


def test_every_command_has_a_console_script():
    scripts = PROJECT["project"]["scripts"]
    text = (ROOT / "xray2ct" / "console.py").read_text()
    made = dict(re.findall(r'^(\w+) = _command\("([\w/.]+)"\)', text, flags=re.M))
    assert scripts == {f"xray2ct-{name.replace('_', '-')}": f"xray2ct.console:{name}" for name in made}
    assert all(callable(getattr(console, name)) and (ROOT / file).is_file() for name, file in made.items())
    own = {
        file.relative_to(ROOT).as_posix()
        for folder in ("dataset", "train", "evaluation", "demo")
        for file in (ROOT / folder).glob("*.py")
        if "@command(" in file.read_text()
    }
    assert own - set(made.values()) == {"evaluation/figures.py"}  # it draws the pictures of the repository


def test_a_copy_holds_every_folder_and_kind_of_file():
    tools = PROJECT["tool"]["setuptools"]
    assert {f"xray2ct.{room}" for room in ROOMS} < set(tools["packages"]) == set(tools["package-dir"])
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    ours = {f"xray2ct.{folder}": folder for folder in (*ROOMS, "config")}
    for package, folder in ours.items():
        held = {
            p for pattern in ["*.py", *tools["package-data"].get(package, [])] for p in (ROOT / folder).glob(pattern)
        }
        files = {ROOT / name for name in listed if name.startswith(f"{folder}/")}
        left = {file for file in files - held if file.name not in ("requirements.txt",)}
        assert not left, f"{package} leaves out {left}"


def test_extras_are_the_requirements_of_their_folders():
    def lines(*files: str) -> set[str]:
        found = [line.split(" #")[0].strip() for file in files for line in (ROOT / file).read_text().splitlines()]
        return {str(Requirement(line)) for line in found if line and line[0] not in "#-"}

    extras = PROJECT["project"]["optional-dependencies"]
    extras = {
        name: {line if "[" in line else str(Requirement(line)) for line in extra} for name, extra in extras.items()
    }
    assert extras["demo"] == lines("demo/requirements.txt")
    assert extras["encoders"] == lines("ddpm/xray_encoder/requirements.txt")
    own = {line for line in extras["test"] if not line.startswith("xray2ct[")}
    assert own == lines("tests/requirements.txt", "benchmarks/speed/requirements.txt")
    assert set(EXTRAS.values()) < set(extras)


def test_a_missing_package_names_its_extra():
    assert "[demo]" in import_message(ModuleNotFoundError("x", name="gradio.routes"))
    assert import_message(ModuleNotFoundError("x", name="nothing")) is None


SNIPPET = """
import sys, dataset, train
from xray2ct import XrayToCTPipeline
pipe = XrayToCTPipeline.from_pretrained("shipped")
pipe.set_progress_bar_config(disable=True)
result = pipe(sys.argv[1], seed=0, num_inference_steps=2)
result.save("chest_ct")
pipe.save_pretrained("folder")
again = XrayToCTPipeline.from_pretrained("folder")
assert (again(sys.argv[1], seed=0, num_inference_steps=2).volumes == result.volumes).all()
assert dataset.OF_THE_USER == "dataset" and train.OF_THE_USER == "train"
print(float(result.volumes.double().sum()))
"""


@pytest.mark.slow
def test_the_pipeline_runs_beside_modules_of_the_user_and_gives_the_volume_of_a_clone(user):
    film = str(next((ROOT / "assets" / "films").glob("*.png")))
    done = python(user, "-c", SNIPPET, film)
    assert done.returncode == 0, done.stderr
    assert list((user / "chest_ct").glob("*.nii.gz"))
    from xray2ct import XrayToCTPipeline

    pipe = XrayToCTPipeline.from_pretrained(user / "folder")  # what the installed package wrote
    assert float(pipe(film, seed=0, num_inference_steps=2).volumes.double().sum()) == float(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--editable"]], ids=["copy", "editable"])
def test_pip_installs_the_package_and_its_commands(user, tmp_path, options):
    import venv

    venv.create(tmp_path / "venv", system_site_packages=True, with_pip=False)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "shared.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    binary, where = tmp_path / "venv" / "bin", tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", ROOT, where], check=True)
    install = [binary / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, *options, where], check=True, capture_output=True)
    code = "import xray2ct, dataset; from xray2ct.common.files import ROOT; print(ROOT, xray2ct.UserError.__module__)"
    found = subprocess.run([binary / "python", "-c", code], cwd=user, check=True, capture_output=True, text=True)
    root = where if options else site / "xray2ct"
    assert found.stdout.split() == [str(root), "xray2ct.common.errors"]
    film = str(next((ROOT / "assets" / "films").glob("*.png")))
    words = [f"xray={film}", "sampler.steps=2", "device=cpu"]
    subprocess.run([binary / "xray2ct-generate", *words], cwd=user, check=True, capture_output=True, text=True)
    assert list(user.glob("outputs/generate/latest/*_synthetic_ct.nii.gz"))
