"""House rules that a reader relies on: who imports whom, every option composes, every key is explained and read."""

import ast
import itertools
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parent.parent
OURS = {"vq_gan_3d", "dataset", "ddpm", "evaluation", "train", "demo"}
MAY_IMPORT = {
    "vq_gan_3d": set(),
    "dataset": set(),
    "ddpm": {
        "vq_gan_3d",
        "dataset.imaging.hu_window",
        "dataset.imaging.geometry",
        "dataset.imaging.drr",
        "common.errors",
        "common.checked_tensors",
    },
    "evaluation": {"dataset", "ddpm", "vq_gan_3d"},
    "train": {"dataset", "ddpm", "vq_gan_3d", "evaluation"},
    "demo": {"evaluation", "dataset", "ddpm"},
}
ROOTS = ("train_vqgan", "train_ddpm", "evaluate", "generate")


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module)
    return {name for name in found if name.split(".")[0] in OURS}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_nobody_imports_what_the_table_forbids(folder):
    for file in (ROOT / folder).rglob("*.py"):
        for name in imports(file):
            top = name.split(".")[0]
            allowed = top == folder or top in MAY_IMPORT[folder] or name in MAY_IMPORT[folder]
            assert allowed, f"{file.relative_to(ROOT)} imports {name}"


def test_vqgan_is_imported_by_its_latent_and_its_checkpoint_alone():
    users = {f.relative_to(ROOT / "ddpm").as_posix() for f in (ROOT / "ddpm").rglob("*.py")
             if any(n.startswith("vq_gan_3d") for n in imports(f))}  # fmt: skip
    assert users <= {"latent/vqgan.py", "checkpoint.py"}


def test_files_stay_readable():
    for folder in OURS:
        for file in (ROOT / folder).rglob("*.py"):
            assert len(file.read_text().splitlines()) <= 350, file
            assert ast.get_docstring(ast.parse(file.read_text())), f"{file}: no docstring"


def options() -> list[tuple[str, str]]:
    groups = {
        "train_vqgan": ["dataset", "logger", "trainer"],
        "train_ddpm": ["dataset", "logger", "trainer", "model/xray_encoder", "model/denoiser", "sampler"],
        "encode_latents": ["dataset", "trainer", "sampler"],
        "evaluate": ["dataset", "sampler", "extractor"],
        "generate": ["sampler"],
        "demo": ["sampler"],
        "export": ["sampler"],
        "train_classifier": ["classifier", "dataset", "logger", "trainer", "sampler"],
        "classification": ["dataset", "sampler"],
        "reader_study": ["dataset", "sampler"],
        "calibrate": ["dataset", "sampler"],
    }
    found = [("encode_latents", "experiment=pairs_24gb")]
    for root, names in groups.items():
        for name in names:
            found += [(root, f"{name}={file.stem}") for file in sorted((ROOT / "config" / name).glob("*.yaml"))]
    for file in sorted((ROOT / "config" / "experiment").glob("*.yaml")):
        roots = {
            "vqgan": "train_vqgan",
            "ddpm": "train_ddpm",
            "24gb": "train_ddpm",
            "generator": "train_ddpm",
            "encode": "encode_latents",
            "classification": "classification",
        }
        roots |= dict.fromkeys(("classifier", "ctpa", "xray", "torchvision", "generated"), "train_classifier")
        root = roots.get(file.stem.split("_")[-1], "evaluate")
        found.append((root, f"experiment={file.stem}"))
    return found


@pytest.mark.parametrize(("root", "choice"), options())
def test_every_option_composes_and_resolves(root, choice):
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        OmegaConf.to_container(compose(root, [choice]), resolve=True)


def test_targets_of_every_yaml_exist():
    from hydra.utils import get_object

    for file in (ROOT / "config").rglob("*.yaml"):
        for target in re.findall(r"_target_: (\S+)", file.read_text()):
            assert callable(get_object(target)), f"{file}: {target}"


def test_every_flat_key_is_read_somewhere():
    code = "\n".join(f.read_text() for f in itertools.chain(*((ROOT / d).rglob("*.py") for d in OURS)))
    yaml = "\n".join(f.read_text() for f in (ROOT / "config").rglob("*.yaml"))
    for file in (ROOT / "config" / "model").glob("*.yaml"):
        for key in re.findall(r"^(\w+):", file.read_text(), flags=re.M):
            if key != "defaults":
                used = re.search(rf"model\.{key}\b|model\[key\]|\"{key}\"", code) or f"${{model.{key}}}" in yaml
                assert used, f"{file.name}: model.{key} is read by nobody"


def test_every_flat_key_has_a_line_of_help():
    for file in (ROOT / "config").rglob("*.yaml"):
        if file.parent.name in ("experiment",):
            continue
        for line in file.read_text().splitlines():
            if re.match(r"^\w+: \S", line) and not line.startswith(("_target_", "defaults")) and "${" not in line:
                assert " # " in line, f"{file.name}: {line}"


def test_no_hard_coded_device_and_no_silent_loading():
    forbidden = re.compile(r"\.cuda\(\)|strict=False|weights_only=False")
    for folder in (*OURS, "config", "docs"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml", ".md"):
                assert not forbidden.search(file.read_text()), file
