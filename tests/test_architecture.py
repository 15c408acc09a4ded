"""House rules: who imports whom, sizes, every option composes, every key has a line of help and code that reads it."""

import ast
import functools
import itertools
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from common.files import ROOT

MAY_IMPORT = {  # beside itself
    "common": (),
    "vq_gan_3d": ("common",),
    "dataset": ("common",),
    "ddpm": ("common", "vq_gan_3d", "dataset.imaging"),
    "evaluation": ("common", "dataset", "ddpm", "vq_gan_3d"),
    "train": ("common", "dataset", "ddpm", "evaluation", "vq_gan_3d"),
    "demo": ("common", "dataset", "ddpm", "evaluation"),
    "xray2ct": ("common", "ddpm", "evaluation"),
}
ROOMS = {  # lowest first: a room imports only rooms of earlier lines; commands are on top and not listed
    "dataset": (
        ("imaging",),
        ("manifest", "phantom"),
        ("io", "xray"),
        ("cases",),
        ("morph",),
        ("sources", "datamodule"),
        ("preparation",),
        ("idc",),
    ),
    "ddpm": (
        ("diffusion", "weights", "fsdp"),
        ("ema", "lora", "skipped_batches"),
        ("denoiser", "latent"),
        ("losses", "xray_encoder"),
        ("conditioning", "classifiers"),
        ("consistency",),
        ("registry",),
        ("pipeline_folder",),
        ("pipeline",),
        ("checkpoint",),
        ("module",),
    ),
    "evaluation": (
        ("metrics", "statistics", "visualization", "distribution"),
        ("protocol", "intervals"),
        ("generation",),
        ("scoring", "sharing", "calibration", "authenticity"),
        ("reporting", "readers", "classifiers", "real_pairs", "detectability"),
    ),
    "train": (("distributed",), ("classifier",), ("run",), ("generator", "autoencoder"), ("lungs",)),
    "demo": (("uploads",), ("service",), ("page",), ("reader_study",), ("server",)),
}
MAX_LINES, MAX_FILES, MAX_COMMON, MAX_ARGUMENTS = 350, 16, 12, 10
ROOTS = ("train_vqgan", "train_ddpm", "evaluate", "generate")


def files(folder: str) -> list[Path]:
    return [file for file in sorted((ROOT / folder).rglob("*.py")) if "node_modules" not in file.parts]


def module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(file): file for folder in MAY_IMPORT for file in files(folder)}


@functools.cache
def imports(file: Path) -> set[str]:
    """Our modules that a file imports, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in members}
    return {name for name in found if name in MODULES} - {module(file)}


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_nobody_imports_what_the_table_forbids(folder):
    for file in files(folder):
        for name in imports(file):
            allowed = any(f"{name}.".startswith(f"{place}.") for place in (folder, *MAY_IMPORT[folder]))
            assert allowed, f"{file.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("folder", ROOMS)
def test_rooms_import_only_rooms_below_them(folder):
    level = {name: i for i, names in enumerate(ROOMS[folder]) for name in names}

    def room(name: str) -> str:
        return name.split(".")[1]

    for file in files(folder):
        own = module(file)
        if "." not in own:
            continue
        for name in imports(file):
            if name.startswith(f"{folder}.") and room(name) != room(own):
                below = level.get(room(name), len(level)) < level.get(room(own), len(level))
                assert below, f"{file.relative_to(ROOT)} imports {name}"


def test_no_modules_import_each_other_in_a_circle():
    TopologicalSorter({name: imports(file) for name, file in MODULES.items()}).prepare()


def test_vqgan_is_imported_by_what_encodes_rebuilds_or_trains_alone():
    users = {name for name, file in MODULES.items() if any(i.startswith("vq_gan_3d") for i in imports(file))}
    users = {name.split(".")[1] for name in users if name.startswith("ddpm.")}
    assert users <= {"latent", "losses", "registry", "checkpoint", "module"}


def test_files_of_tests_stay_short():
    lines = {file.relative_to(ROOT): len(file.read_text().splitlines()) for file in (ROOT / "tests").rglob("*.py")}
    assert lines and not {file: count for file, count in lines.items() if count > MAX_LINES}


@pytest.mark.parametrize("file", MODULES.values(), ids=lambda file: file.relative_to(ROOT).as_posix())
def test_files_stay_readable(file):
    tree = ast.parse(file.read_text())
    assert len(file.read_text().splitlines()) <= MAX_LINES
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            # diffusers stores a part of a pipeline only if it is an argument of its own
            most = MAX_ARGUMENTS + 2 * ("DiffusionPipeline" in map(ast.unparse, node.bases))
            assert arguments_of(node) <= most, f"{node.name} takes {arguments_of(node)} arguments"


def arguments_of(cls: ast.ClassDef) -> int:
    """Arguments of a class's constructor, itself left out; of a dataclass its fields."""
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs) - 1
    if any("dataclass" in ast.unparse(decorator) for decorator in cls.decorator_list):
        return sum(isinstance(node, ast.AnnAssign) for node in cls.body)
    return 0


def test_no_folder_is_crowded():
    for folder in {file.parent for file in (*MODULES.values(), *files("benchmarks"))}:
        assert len(list(folder.glob("*.py"))) <= MAX_FILES, folder
    assert len(files("common")) - 1 <= MAX_COMMON  # its __init__.py holds a docstring alone


def test_tests_mirror_the_product():
    for file in files("tests"):
        folder = file.parent.relative_to(ROOT / "tests")
        if file.name.startswith("test_") and folder.parts and folder.parts[0] in MAY_IMPORT:
            assert (ROOT / folder).is_dir(), f"{file.relative_to(ROOT)}: there is no folder {folder}"


def options() -> list[tuple[str, tuple[str, ...]]]:
    """Every command, and every option of a group in the first command that has the group."""
    groups = {
        "train_ddpm": ["dataset", "logger", "trainer", "model/xray_encoder", "model/denoiser", "sampler"],
        "train_vqgan": ["dataset", "logger", "trainer"],
        "encode_latents": ["dataset", "trainer", "sampler"],
        "fit_parts": ["dataset"],
        "distill": ["dataset", "sampler"],
        "evaluate": ["dataset", "sampler", "extractor"],
        "generate": ["sampler"],
        "demo": ["sampler"],
        "export": ["sampler"],
        "train_classifier": ["classifier", "dataset", "logger", "trainer", "sampler"],
        "classification": ["dataset", "sampler"],
        "reader_study": ["dataset", "sampler"],
        "calibrate": ["dataset", "sampler"],
        "lesions": ["dataset", "sampler"],
        "memorisation": ["dataset", "sampler"],
    }
    found, seen = [("encode_latents", ("experiment=pairs_24gb",))], set()
    for root, names in groups.items():
        # the command as it is; then the first new option of every group, the second of every group, and so on
        choices = [[f"{name}={f.stem}" for f in sorted((ROOT / "config" / name).glob("*.yaml"))] for name in names]
        choices = [[option for option in options if option not in seen] for options in choices]
        found += [(root, ()), *((root, tuple(filter(None, row))) for row in itertools.zip_longest(*choices))]
        seen |= set(itertools.chain(*choices))
    for file in sorted((ROOT / "config" / "experiment").glob("*.yaml")):
        roots = {
            "vqgan": "train_vqgan",
            "ddpm": "train_ddpm",
            "24gb": "train_ddpm",
            "generator": "train_ddpm",
            "encode": "encode_latents",
            "fast": "distill",
            "classification": "classification",
        }
        roots |= dict.fromkeys(("classifier", "ctpa", "xray", "torchvision", "generated"), "train_classifier")
        root = roots.get(file.stem.split("_")[-1], "evaluate")
        found.append((root, (f"experiment={file.stem}",)))
    return found


@pytest.mark.parametrize(("root", "choices"), options(), ids=str)
def test_every_option_composes_and_resolves(root, choices):
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        OmegaConf.to_container(compose(root, list(choices)), resolve=True)


def test_targets_of_every_yaml_exist():
    from hydra.utils import get_object

    for file in (ROOT / "config").rglob("*.yaml"):
        for target in re.findall(r"_target_: (\S+)", file.read_text()):
            assert callable(get_object(target)), f"{file}: {target}"


def test_every_model_key_is_read_somewhere():
    code = "\n".join(f.read_text() for f in itertools.chain(*(files(d) for d in MAY_IMPORT)))
    yaml = "\n".join(f.read_text() for f in (ROOT / "config").rglob("*.yaml"))
    for file in (ROOT / "config" / "model").glob("*.yaml"):
        for key in re.findall(r"^(\w+):", file.read_text(), flags=re.M):
            if key != "defaults":
                used = re.search(rf"model\.{key}\b|\"{key}\"", code) or f"${{model.{key}}}" in yaml
                assert used, f"{file.name}: no code reads model.{key}"


def test_every_flat_key_has_a_line_of_help():
    for file in (ROOT / "config").rglob("*.yaml"):
        if file.parent.name in ("experiment",):
            continue
        for line in file.read_text().splitlines():
            if re.match(r"^\w+: \S", line) and not line.startswith(("_target_", "defaults")) and "${" not in line:
                assert " # " in line, f"{file.name}: {line}"


def test_no_hard_coded_device_and_no_silent_loading():
    forbidden = re.compile(r"\.cuda\(\)|strict=False|weights_only=False")
    for folder in (*MAY_IMPORT, "config", "docs"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml", ".md"):
                assert not forbidden.search(file.read_text()), file
