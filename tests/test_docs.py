"""The documentation agrees with the repository: links, paths, config keys, commands, lengths, generated parts."""

import ast
import importlib.util
import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from common.renamed_keys import present_name, rename_override

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "AGENTS")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
GUIDES = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which describe the present state
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
OURS = ("common", "vq_gan_3d", "dataset", "ddpm", "evaluation", "train", "demo", "xray2ct", "benchmarks")
TOP = (*OURS, "config", "docs", "tests", "assets", ".ci", ".github")
GROUPS = ("model", "dataset", "sampler", "trainer", "classifier", "logger")
EARLIER = {  # root config: options that earlier versions of the guides show, and that still work
    "train_ddpm": """model.vae_ckpt=x model.vqgan_ckpt=x model.results_folder=x model.results_folder_postfix=x
        model.diffusion_img_size=32 model.diffusion_depth_size=64 model.diffusion_num_channels=4 model.dim_mults=[1,2]
        model.batch_size=auto model.gradient_accumulate_every=2 model.gpus=1 model.train_num_steps=5 model.precision=32
        model.compile=true model.gradient_checkpointing=true model.resume=auto model.resume_changed=true
        model.skip_nonfinite=true model.num_workers=2 model.cache_latents_gb=1 model.cache_xray=false
        model.freeze_xray_encoder=false model.init_from=x model.allow_seen_patients=true model.lora=true
        model.lora_rank=8 model.lora_alpha=16 model.lora_target_modules=['qkv','conv'] model.prior_rank=0
        model.prior_pixels=32 model.guess_from=0.4 model.posterior_start=true model.pose_guess=true
        model.condition_channels=0 model.global_embedding=false model.token_grid=8 model.condition_drop=0.1
        model.prediction=flow model.zero_terminal_snr=false model.min_snr_gamma=5 model.snr_weight=0.2
        model.timestep_power=1 model.noise_first=0.5 model.loss_type=l1_lpips_disc_cls
        model.perceptual_network=efficientnet_lite0 model.perceptual_slices=2 model.perceptual_weight=0.01
        model.adversarial_weight=0.01 model.classification_weight=0.01 model.classifier_ckpt=x
        model.latent.slices_per_batch=4 model.latent_encoder=vae sampler.spacing=log_snr sampler.guidance_scale=1.25
        trainer.deterministic=warn trainer.devices=[1,3] trainer.num_nodes=2 trainer.accelerator=cpu
        trainer.sync_batchnorm=true logger=wandb logger.offline=false logger.images=true dataset=lidc dataset.views=2
        dataset.align=none dataset.film_augment=false dataset.drr_view=AP dataset.drr_distance=1800
        dataset.drr_field=[400,400] dataset.drr_image=linear dataset.drr_remove_iodine=true dataset.window=wide
        dataset.spacing=[1,1,1] dataset.volume_size=[64,128,128] dataset.n_folds=5 dataset.fold=0""",
    "train_vqgan": "dataset=phantom model=vq_gan_3d model.batch_size=2 model.max_steps=300 dataset.pose_noise=true "
    "model.cache_volumes_gb=1 dataset.train=24 dataset.val=4 dataset.test=6",
    "generate": "xray=x checkpoint=x samples=8 align=none view=AP output=x seed=1 dicom=true bounds=x device=cpu",
    "evaluate": "checkpoint=x samples=4 metrics=fidelity registration=rigid lpips=x totalsegmentator=x extractor=none",
    "prepare": "source=x output=x margin=40 linkage=x series=x pairs=x label.file=x label.id=x label.column=x "
    "label.positive=[x] from_csv=x workers=8",
    "calibrate": "checkpoint=x experiment=fidelity_64 samples=20 level=0.9 share=0.9 calibration_split=val bounds=x",
    "train_classifier": "classifier=xray classifier.init_from=x",
    "classification": "generators=x margin=0.05",
    "reader_study": "action=create study=x checkpoint=x readers=5 cases_per_arm=50 repeat_share=0.1 volumes=x key=x",
    "demo": "study=x port=7860 host=0.0.0.0 password=12345678 checkpoint=x",
    "export": "checkpoint=x output=x format=monai",
    "distill": "checkpoint=x steps=2 output=x",
}


def text(page: Path) -> str:
    if page.suffix == ".ipynb":
        return "\n\n".join("".join(cell["source"]) for cell in json.loads(page.read_text())["cells"])
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", text(page))


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def code_spans() -> list[tuple[Path, str]]:
    return [(page, span) for page in GUIDES for span in re.findall(r"`([^`\n]+)`", prose(page))]


def commands() -> list[tuple[str, str]]:
    """`(script, command line)` of every `python <script>.py …` of the guides, with continued lines joined."""
    lines = []
    for page in [*GUIDES, NOTEBOOK]:
        blocks = [code for kind, code in FENCE.findall(text(page)) if kind in ("", "bash")]
        lines += "\n".join(blocks).replace("\\\n", " ").splitlines()
        lines += re.findall(r"`([^`\n]+)`", prose(page))
    found = [re.match(r"^(?:\S*/)?python ([\w/]+\.py) *(.*)$", line.strip()) for line in lines]
    return sorted({(match.group(1), match.group(2)) for match in found if match})


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_path_in_the_guides_exists():
    names = {path.name for top in TOP for path in (ROOT / top).rglob("*.py")}
    for page, span in code_spans():
        if re.fullmatch(rf"(?:{'|'.join(map(re.escape, TOP))})/[\w./-]*", span):
            assert (ROOT / span).exists(), f"{page.name}: {span}"
        elif re.fullmatch(r"\w+\.py", span):
            assert span in names, f"{page.name}: {span}"


def keys(tree: dict, prefix: str) -> set[str]:
    """Dotted names of all keys of a nested dict."""
    found = set()
    for name, value in tree.items():
        found |= {f"{prefix}.{name}"} | (keys(value, f"{prefix}.{name}") if isinstance(value, dict) else set())
    return found


def known_keys() -> set[str]:
    """Keys of every file of the config groups; a file in `base/` belongs to the group above it."""
    found = set()
    for group in GROUPS:
        for file in (ROOT / "config" / group).rglob("*.yaml"):
            prefix = ".".join(part for part in file.parent.relative_to(ROOT / "config").parts if part != "base")
            found |= keys(yaml.safe_load(file.read_text()) or {}, prefix)
    return found


def test_every_config_key_in_the_guides_exists():
    known = known_keys()
    for page, span in code_spans():
        for word in span.split():
            key = word.partition("=")[0]
            if re.fullmatch(rf"(?:{'|'.join(GROUPS)})(?:\.\w+)+", key):
                assert present_name(key) in known, f"{page.name}: {span}"


def test_the_choices_of_every_group_are_listed():
    rows = re.findall(r"^\| `([\w/]+)=` \| (`.*?`) \|", text(ROOT / "docs" / "configuration.md"), flags=re.M)
    assert len(rows) >= 8
    for group, choices in rows:
        files = {file.stem for file in (ROOT / "config" / group).glob("*.yaml")}
        assert set(re.findall(r"`(\w+)`", choices)) == files, group


def overrides(line: str) -> list[str]:
    """What Hydra composes of a command line: no options, no placeholders, the first value of a sweep."""
    words = shlex.split(re.sub(r"<[^>]*>", "placeholder", line), comments=True)
    sweep = "-m" in words
    words = [word for word in words if "=" in word and not word.startswith("-")]
    if sweep:
        words = [re.sub(r"(=[^,\[\]\"]+),.*", r"\1", word) for word in words]
    return [rename_override(word) for word in words]


@pytest.mark.parametrize(("script", "line"), commands(), ids=lambda word: word[:60])
def test_every_command_composes(script, line):
    assert (ROOT / script).is_file()
    root = re.search(r'@command\("(\w+)"\)', (ROOT / script).read_text())
    if root is None:  # benchmarks use argparse
        options = re.findall(r" (--[\w-]+)", f" {line}")
        code = "\n".join(file.read_text() for file in (ROOT / script).parent.glob("*.py"))
        assert all(f'"{option}"' in code for option in options), line
        return
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        compose(root.group(1), overrides(line), return_hydra_config=True)


@pytest.mark.parametrize("root", EARLIER)
def test_options_of_earlier_guides_still_compose(root):
    words = [rename_override(word) for word in EARLIER[root].split()]
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        compose(root, words, return_hydra_config=True)


def test_methods_of_the_benchmark_in_the_guides_exist():
    from benchmarks.fidelity.variants import methods

    named = " ".join(line.partition("--methods")[2].partition("--")[0] for _, line in commands()).split()
    assert {"model", "regression"} <= set(named) <= set(methods(64))


def test_the_commands_of_the_guides_are_found():
    scripts = {script for script, _ in commands()}
    assert {"train/train_vqgan.py", "train/train_ddpm.py", "evaluation/generate.py", "dataset/prepare.py"} <= scripts
    assert len(commands()) > 30


def test_every_make_target_in_the_guides_exists():
    makefile = (ROOT / "Makefile").read_text()
    for page in GUIDES:
        blocks = "\n".join(code for kind, code in FENCE.findall(text(page)) if kind in ("", "bash"))
        for target in re.findall(r"^make ([\w-]+)", blocks, flags=re.M) + re.findall(r"`make ([\w-]+)", prose(page)):
            assert re.search(rf"^{target}:", makefile, flags=re.M), f"{page.name}: make {target}"


def test_every_test_file_in_the_guides_exists():
    for page in GUIDES:
        for name in re.findall(r"python -m pytest (?:-\S+ \w* ?)*(tests/[\w./]+)", text(page)):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_readme_is_short():
    assert len(prose(ROOT / "README.md").split()) <= 700


def test_the_glossary_has_at_most_fifteen_terms():
    assert 0 < len(re.findall(r"^- \*\*", text(ROOT / "docs" / "glossary.md"), flags=re.M)) <= 15
    assert len([line for line in text(ROOT / "docs" / "glossary.md").splitlines() if line.strip()]) <= 16


def test_every_page_is_in_the_navigation_of_the_site():
    nav = (ROOT / "mkdocs.yml").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert all(f": {page}\n" in nav for page in pages)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    import subprocess
    import sys

    pytest.importorskip("mkdocs", reason="`make docs` installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path]
    subprocess.run(command, check=True, cwd=ROOT)
    assert (tmp_path / "architecture.html").is_file()
    assert (tmp_path / "repository" / "ddpm" / "pipeline.py.html").is_file()


def test_how_to_pages_contain_no_measured_interval():
    for name in ("own_data", "training", "scale", "reader_study"):
        assert not re.search(r"\d \[\d|\d dB|\d GB of memory|\bmeasured\b.*\d", prose(ROOT / "docs" / f"{name}.md"))


def test_the_architecture_page_is_current():
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.updated(page) == page, "run `python docs/architecture.py`"


def python_snippet() -> str:
    return next(code for kind, code in FENCE.findall(text(ROOT / "README.md")) if kind == "python")


def test_the_snippet_of_the_readme_is_short_and_calls_what_exists():
    lines = [line for line in python_snippet().splitlines() if line.strip()]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert len(lines) <= 8
    names: dict = {}
    exec("\n".join(imports), names)
    for call in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names:
            options = dict.fromkeys(word.arg for word in call.keywords)
            inspect.signature(names[call.func.id]).bind(*call.args, **options)


@pytest.mark.slow
def test_the_snippet_of_the_readme_gives_the_volume_of_the_command(tmp_path, monkeypatch):
    import subprocess
    import sys

    import nibabel as nib
    from PIL import Image

    from dataset.sources.phantom import PhantomSource, Population
    from dataset.sources.settings import Geometry, Xrays

    source = PhantomSource(Population(train=1, val=1, test=1), Geometry((32, 32, 32)), Xrays((128, 128)))
    xray = source.build(source.rows.to_dict("records")[0])["xray"][0].float()
    Image.fromarray((255 * xray).byte().numpy()).save(tmp_path / "chest.png")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(python_snippet(), names)
    command = [sys.executable, ROOT / "evaluation" / "generate.py", "xray=chest.png", "output=command"]
    command += ["device=cpu", "samples=4"]
    subprocess.run(command, check=True, capture_output=True)
    volumes = [nib.load(tmp_path / place / "chest_synthetic_ct.nii.gz") for place in ("command", "chest_ct")]
    assert (volumes[0].get_fdata() == volumes[1].get_fdata()).all()
