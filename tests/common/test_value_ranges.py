"""Every value of config/ has a type and a range; a wrong one ends in one line with its whole key."""

import copy
import re

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from common import cli
from common.cli import CONFIG
from common.errors import UserError
from common.value_ranges import _parsed, check_values, fits, leaves, rule_of

NO_RULE = {"questions"}  # a list of groups of keys


@pytest.fixture(scope="module")
def commands():
    """The values of every yaml file below their package, and the command or group of each."""
    found = []
    for file in sorted(CONFIG.rglob("*.yaml")):
        folder, cfg = file.parent.relative_to(CONFIG).parts, OmegaConf.load(file)
        for key in ("defaults", "hydra"):
            cfg.pop(key, None)
        if folder[:1] not in (("experiment",), ("hydra",)):
            package = re.search(r"# @package ([\w.]+)", file.read_text())
            package = package.group(1) if package else ".".join(folder)
            tree = OmegaConf.create({})
            OmegaConf.update(tree, package, cfg, force_add=True) if package else tree.merge_with(cfg)
            found.append((file.stem if not folder else folder[0], tree))
    return found


def wrong_values(rule: str) -> list:
    """A value of another type than a rule, and values outside its range."""
    texts = any(kind in rule for kind in ("text", "path", "patient"))
    found = [{"a": 1}] + ["abc"] * (not texts) + [[]] * ("[" not in rule) + [1.5] * ("patient" in rule)
    for one in rule.split(" | "):
        kind, step, bounds = _parsed(re.sub(r"^\[+\d* ?|\]+$", "", one))
        for sign, bound in bounds if "[" not in rule else ():
            found += [{">=": bound - 1, ">": bound, "<=": bound + 1, "<": bound}[sign]]
        found += [step + 1] * (step > 1) + [1.5] * (kind == "int" and "number" not in rule)
    if rule.startswith("["):
        found += [16, ["abc"] if "text" not in rule else 3, [1] * 9 if rule[1].isdigit() else {}]
    return [int(value) if isinstance(value, float) and value == int(value) else value for value in found]


def test_every_value_has_a_rule_that_its_default_obeys(commands):
    for command, cfg in commands:
        for key, default in leaves(cfg):
            rule = rule_of(f"{command}.{key}", default)
            assert rule is not None or key in NO_RULE, f"{command}: {key}"
            assert rule is None or fits(default, rule), f"{command}: {key}={default}: {rule}"
        check_values(cfg, cfg, command)


def test_every_wrong_value_ends_in_one_line_with_its_key(commands):
    tried = set()
    for command, defaults in commands:
        for key, default in leaves(defaults):
            rule = rule_of(f"{command}.{key}", default)
            if rule is None or (key, rule) in tried:
                continue
            tried.add((key, rule))
            assert wrong_values(rule)
            for value in wrong_values(rule):
                cfg = OmegaConf.create({})
                OmegaConf.update(cfg, key, copy.deepcopy(value), force_add=True)
                with pytest.raises(UserError, match=f"^{key.replace('.', '[.]')}=.*: give "):
                    check_values(cfg, defaults, command)
    assert len(tried) > 300


@pytest.mark.parametrize(
    ("command", "change", "line"),
    [
        ("train_ddpm", "model.results_folder=202411",
         "model.results_folder=202411: give a text; quote a number twice, as in 'model.results_folder=\"2024_11\"'"),
        ("train_ddpm dataset=default", "dataset.test_patients=[1.10]", "dataset.test_patients=[1.1]: give a name "
         "(quote numbers twice) or a list of names (quote numbers twice) or null"),
        ("train_classifier", "model.batch_size=auto", "model.batch_size=auto: give a whole number of at least 1"),
        ("train_ddpm", "model.resume=true", "model.resume=true: give auto or a text or null"),
        ("train_ddpm", "model.dim=33", "model.dim=33: give a whole number of at least 8, a multiple of 8"),
        ("train_ddpm", "model.dim_mults=[]",
         "model.dim_mults=[]: give a list of whole numbers of at least 1, such as [1,2]"),
        ("train_ddpm", "model.validate_every=0", "model.validate_every=0: give a whole number of at least 1 or null"),
        ("train_ddpm", "dataset.volume_size=16",
         "dataset.volume_size=16: give a list of 3 whole numbers of at least 1, such as [64,64,64]"),
        ("train_vqgan", "model.train_num_steps=-1", "model.train_num_steps=-1: give a whole number of at least 1"),
        ("generate", "samples=abc", "samples=abc: give a whole number of at least 1"),
        ("generate", "device=gpu", "device=gpu: give auto or cpu or mps or cuda or cuda:<number>"),
        ("generate", "dicom=maybe", "dicom=maybe: give true or false"),
        ("calibrate", "level=1", "level=1: give a number above 0 and below 1"),
    ],
)  # fmt: skip
def test_the_line_says_what_is_allowed(command, change, line):
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        command, *groups = command.split()
        defaults, cfg = compose(command, groups), compose(command, [*groups, change])
    with pytest.raises(UserError) as error:
        check_values(cfg, defaults, command)
    assert str(error.value) == line


def test_null_switches_off_where_zero_does():
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        defaults, cfg = compose("train_ddpm"), compose("train_ddpm", ["model.prior.rank=null"])
    check_values(cfg, defaults, "train_ddpm")
    assert cfg.model.prior.rank == 0


@pytest.mark.parametrize(
    ("command", "change", "value"),
    [
        ("generate", "output=2024_11_29", "output=20241129"),
        ("generate", "xray=1e3", "xray=1000.0"),
        ("train_vqgan", "dataset.cache_dir=2024", "dataset.cache_dir=2024"),
    ],
)
def test_path_that_hydra_reads_as_a_number_is_refused_with_its_quotes(command, change, value):
    key = value.partition("=")[0]
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        defaults, cfg = compose(command), compose(command, [change])
        quoted = compose(command, [f'{key}="2024_11_29"'])
    with pytest.raises(UserError, match=f"^{value}: read as a number; quote it twice"):
        check_values(cfg, defaults, command)
    check_values(quoted, defaults, command)
    assert OmegaConf.select(quoted, key) == "2024_11_29"


def test_null_is_allowed_for_a_key_that_an_experiment_sets(monkeypatch):
    """The defaults that a command checks against are those without the experiment."""
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        cfg = compose("train_ddpm", ["experiment=chest_128_ddpm", "model.objective.snr_weight=null"])
    choices = {"experiment": "chest_128_ddpm", "dataset": "chests", "hydra/output": "default"}
    monkeypatch.setattr(cli.HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(cli.HydraConfig, "get", lambda: OmegaConf.create({"runtime": {"choices": choices}}))
    defaults = cli._defaults("train_ddpm")
    assert defaults.dataset.name == "chests"
    check_values(cfg, defaults, "train_ddpm")


def test_text_may_be_a_number_and_a_whole_number_is_a_number():
    assert (
        fits(2, "text") and fits(2, "number > 1") and fits("a", "text | [2 number]") and fits([1, 2.5], "[2 number]")
    )
    assert not fits(True, "int >= 0") and not fits(float("nan"), "number >= 0") and fits("cuda:1", "cuda:<number>")
