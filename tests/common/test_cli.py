"""The command decorator ends with one line for invalid values and words, before the command runs."""

from contextlib import suppress

import pytest
from forked_command import run_command
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import OmegaConf, open_dict

from common.cli import CONFIG, _first_values, _guard, _keys, _refuse_bad_overrides, expand_home, recompose
from common.command_help import help_text


def test_a_value_out_of_range_is_rejected_before_the_command_starts(capsys):
    called = []
    for key, command in (("seed", "evaluate"), ("model.seed", "train_ddpm"), ("generate_seed", "classification")):
        cfg = OmegaConf.create()
        OmegaConf.update(cfg, key, -3, force_add=True)
        with pytest.raises(SystemExit) as stopped:
            _guard(called.append, command)(cfg)
        assert stopped.value.code == 1 and not called
        assert capsys.readouterr().err == f"error: {key}=-3: give a whole number of at least 0\n"
    OmegaConf.update(cfg, key, 0)
    _guard(called.append, command)(cfg)
    assert called == [cfg]


@pytest.mark.parametrize(
    ("command", "words", "line"),
    [
        ("generate", ["film.png"], "film.png: options are written key=value, for example xray=film.png"),
        ("train_vqgan", ["model=ddpm"], "model=ddpm: for train/train_ddpm.py; this command takes model=vq_gan_3d"),
        ("train_ddpm", ["model=vq_gan_3d"],
         "model=vq_gan_3d: for train/train_vqgan.py; this command takes model=ddpm"),
        ("train_ddpm", ["dataset.root_dir=/x"],
         "dataset.root_dir: not a key of the chosen dataset; add dataset=default"),
        ("train_ddpm", ["dataset.volume_size=[64,", "64,", "64]", "seed=1"],
         "dataset.volume_size=[64,: a list in several words; write it without spaces, as in "
         "dataset.volume_size=[64,64,64]"),
        ("train_ddpm", ["model.dim_mults=1,2"], "model.dim_mults=1,2: write a list in brackets, as in "
         "model.dim_mults=[1,2]"),
        ("generate", ["xray=/data/O'Brien/c.png"], "xray=/data/O'Brien/c.png: Hydra cannot parse this value; quote it "
         """twice, as in "xray=\\"/data/O'Brien/c.png\\"" (letters such as = , ( ) [ ] ü need it)"""),
        ("generate", ["smples=2"], "smples: unknown key; did you mean samples or sampler or sampler.steps?"),
    ],
)  # fmt: skip
def test_a_wrong_word_ends_in_one_line_with_the_remedy(command, words, line, capsys):
    with pytest.raises(SystemExit):
        _refuse_bad_overrides(command, words)
    assert capsys.readouterr().err == f"error: {line}\n"


def test_the_words_of_a_sweep_are_checked_before_it_starts(capsys):
    words = ["seed=3,1", "films=/a", "sampler.steps=range(2,9)"]
    assert _first_values(words) == ["seed=3", "films=/a", "sampler.steps=2"]
    _refuse_bad_overrides("films", _first_values(words))
    with pytest.raises(SystemExit):
        _refuse_bad_overrides("films", _first_values(["smples=1,2"]))
    assert capsys.readouterr().err.startswith("error: smples: unknown key; did you mean samples")
    assert _first_values(["films=glob(*)", "seed=interval(0,1)", "samples=1,2"]) == ["samples=1"]


def test_an_unknown_key_of_an_experiment_is_refused(capsys):
    """Hydra merges the files of experiments without a check."""
    for name, key, near in (("chests_vqgan", "model.embedding_dim", ""), ("chests_evaluate", "checkpoint", "")):
        line = refused_by_guard(capsys, "train_ddpm", [f"experiment={name}"])
        assert line.startswith(f"error: experiment={name}: ") and "experiment of another command" in line, (key, near)
    cfg = recompose("train_ddpm", [])
    OmegaConf.update(cfg, "model.train_num_stepz", 3, force_add=True)
    with pytest.raises(SystemExit):
        _guard(lambda cfg: None, "train_ddpm")(cfg)
    assert "model.train_num_stepz: unknown key; did you mean model.train_num_steps" in capsys.readouterr().err


def refused_by_guard(capsys, command: str, words: list[str]) -> str:
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        cfg = compose(command, words, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    try:
        with open_dict(cfg):
            del cfg["hydra"]
        with pytest.raises(SystemExit):
            _guard(lambda cfg: None, command)(cfg)
    finally:
        HydraConfig.instance().cfg = None
    return capsys.readouterr().err


def test_every_experiment_fits_the_command_that_names_it(capsys):
    """Of the names of each file's first comment or its folder, one command at least takes all of its keys."""
    for file in sorted((CONFIG / "experiment").glob("*.yaml")):
        takers = []
        for command in ("train_vqgan", "train_ddpm", "train_classifier", "evaluate", "classification", "distill"):
            with suppress(HydraException), initialize_config_dir(str(CONFIG), version_base="1.3"):
                cfg = compose(command, [f"experiment={file.stem}"], return_hydra_config=True)
                chosen = {k: v for k, v in cfg.hydra.runtime.choices.items() if v and k != "experiment"}
                words = [f"{k}={v}" for k, v in chosen.items() if not k.startswith("hydra/")]
                known = set(_keys(OmegaConf.to_container(compose(command, words))))
                with open_dict(cfg):
                    del cfg["hydra"]
                takers += [command] if set(_keys(OmegaConf.to_container(cfg))) <= known else []
        assert takers, file.name


def test_a_password_from_the_environment_is_not_shown(monkeypatch):
    monkeypatch.setenv("XRAY2CT_PASSWORD", "secret-password-1")
    text = help_text("demo", [])
    assert "secret-password-1" not in text and "oc.env:XRAY2CT_PASSWORD" in text


@pytest.mark.parametrize(
    ("given", "expanded"),
    [
        ("xray=~/chest.png", "xray=HOME/chest.png"),
        ("xray='\"~/a b.png\"'", "xray='\"HOME/a b.png\"'"),
        ("output=~", "output=HOME"),
        ('xray="~/front.png;~/side.png"', 'xray="HOME/front.png;HOME/side.png"'),
        ("dataset.files=[~/a,~/b]", "dataset.files=[HOME/a,HOME/b]"),
        ("xray=a~/b.png", "xray=a~/b.png"),
        ("~model.losses", "~model.losses"),
        ("xray=file~", "xray=file~"),
    ],
)
def test_the_home_folder_stands_for_a_tilde_at_the_start_of_a_path(monkeypatch, tmp_path, given, expanded):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home(given) == expanded.replace("HOME", str(tmp_path))


def test_a_tilde_in_any_key_arrives_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = []
    _guard(seen.append, "generate")(OmegaConf.create({"output": "~/out", "xray": "~/a.png"}))
    assert seen[0] == {"output": f"{tmp_path}/out", "xray": f"{tmp_path}/a.png"}


@pytest.mark.slow
def test_experiments_and_data_sets_of_a_folder_of_ones_own(tmp_path):
    """`--config-dir`, for a package that was installed without its repository."""
    for name, text in (
        ("experiment/mine", "samples: 3"),
        ("experiment/typo", "smples: 3"),
        ("sampler/own", "steps: 3"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(f"# @package {'_global_' if 'exp' in name else 'sampler'}\n{text}\n")
    lines = {}
    for words in (["experiment=mine"], ["experiment=typo"], ["sampler=own"]):
        done = run_command("evaluation/evaluate.py", "--config-dir", str(tmp_path), *words, "checkpoint=/nowhere")
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        lines[words[0]] = done.stderr.strip().splitlines()[-1]
    assert lines["experiment=mine"].startswith("error: checkpoint=/nowhere")
    assert lines["experiment=typo"].startswith("error: experiment=typo: smples: unknown key; did you mean samples")
    assert "unknown key" not in lines["sampler=own"]
