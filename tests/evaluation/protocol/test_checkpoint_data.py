"""A command takes the data of its checkpoint unless the command line names others."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf

from common.cli import CONFIG
from common.errors import UserError
from common.files import ROOT
from dataset.imaging.forward_model import ForwardModel
from ddpm.checkpoint.read import read
from evaluation.protocol.checkpoint_data import dataset_given, take_data_of_checkpoint

TRAINED = {"dataset": "lidc", "volume_size": [32, 48, 48], "window": [-1000, 400], "xray_size": [96, 96], "views": 1}


@pytest.fixture
def dataset(tmp_path):
    """The node `dataset` of evaluate.py for words of the command line and a protocol, beside a run with a config."""
    (tmp_path / ".hydra").mkdir()
    stored = {
        "dataset": {
            "root_dir": "/data/mine",
            "seed": 7,
            "film_augment": True,
            "source": {"_target_": "os.system"},
            "source_window": [0, 80],
        }
    }
    OmegaConf.save(OmegaConf.create(stored), tmp_path / ".hydra" / "config.yaml")

    def take(*words: str, protocol=TRAINED, checkpoint=tmp_path / "checkpoints" / "last.ckpt"):
        with initialize_config_dir(str(CONFIG), version_base="1.3"):
            whole = compose("evaluate", list(words), return_hydra_config=True)
            cfg = compose("evaluate", list(words))
        HydraConfig.instance().set_config(whole)
        try:
            take_data_of_checkpoint(cfg, "evaluate", protocol, checkpoint)
        finally:
            HydraConfig.instance().cfg = None
        return OmegaConf.to_container(cfg.dataset, resolve=True)

    return take


def test_a_key_of_another_data_set_is_refused_in_one_line(dataset):
    with pytest.raises(
        UserError, match="dataset.train=3: the checkpoint was trained on dataset=lidc.*dataset=<option>"
    ):
        dataset("dataset.train=3")


def test_data_set_sizes_window_and_folder_are_those_of_the_training(dataset, capsys):
    found = dataset()
    assert found["name"] == "lidc" and found["root_dir"] == "/data/mine" and found["seed"] == 7
    assert [found[key] for key in ("volume_size", "window", "xray_size")] == [[32, 48, 48], [-1000, 400], [96, 96]]
    files = found["source"]["source"]["files"]
    assert files["root_dir"] == "/data/mine" and files["_target_"].startswith("dataset.")  # nothing stored is run
    assert capsys.readouterr().out == "data: lidc in /data/mine, 32x48x48 voxels (all as in the training)\n"


def test_keys_that_only_begin_like_a_node_are_taken(dataset):
    assert dataset(protocol={**TRAINED, "dataset": "default"})["source_window"] == [0, 80]


def test_the_command_line_counts_more(dataset, capsys):
    found = dataset("dataset.seed=3", "dataset.volume_size=[16,16,16]")
    assert found["seed"] == 3 and found["volume_size"] == [16, 16, 16] and found["window"] == [-1000, 400]
    other = dataset("dataset=default", "dataset.root_dir=/data/other")
    assert other["name"] == "default" and other["root_dir"] == "/data/other" and other["seed"] == 0
    assert other["volume_size"] == [32, 48, 48] and "sizes and window" in capsys.readouterr().out
    assert dataset("experiment=demo_evaluate")["name"] == "phantom"


def test_phantoms_of_an_exported_file_keep_their_population(dataset, tmp_path):
    protocol = {**TRAINED, "dataset": "phantom", "seed": 1, "extent": [300.0, 250.0, 350.0], "pe_share": 0.25}
    found = dataset(protocol=protocol, checkpoint=tmp_path / "assets" / "elsewhere" / "model.safetensors")
    population = found["source"]["population"]
    assert (population["seed"], population["pe_share"], population["extent"]) == (1, 0.25, [300.0, 250.0, 350.0])


def test_a_data_set_without_option_needs_one(dataset, caplog):
    assert dataset(protocol={**TRAINED, "dataset": "mine"})["name"] == "phantom"
    assert "trained on mine, which is no option" in caplog.text


def test_a_data_set_is_given_by_its_group_or_an_experiment():
    for words, given in (([], False), (["dataset.seed=1"], False), (["dataset=lidc"], True)):
        with initialize_config_dir(str(CONFIG), version_base="1.3"):
            whole = compose("evaluate", words, return_hydra_config=True)
        HydraConfig.instance().set_config(whole)
        try:
            assert dataset_given() == given
        finally:
            HydraConfig.instance().cfg = None


@pytest.mark.parametrize("command", ["classification", "train_classifier"])
def test_classifiers_take_the_data_of_their_checkpoint_or_generator(command, tmp_path):
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        whole, cfg = compose(command, [], return_hydra_config=True), compose(command, [])
    HydraConfig.instance().set_config(whole)
    try:
        take_data_of_checkpoint(cfg, command, TRAINED, tmp_path / "checkpoints" / "best.safetensors")
    finally:
        HydraConfig.instance().cfg = None
    assert cfg.dataset.name == "lidc" and list(cfg.dataset.volume_size) == [32, 48, 48]
    if command == "train_classifier":
        assert cfg.model.results_folder == "outputs/train_classifier/lidc/ctpa"


def test_a_checkpoint_older_than_noise_keeps_its_xrays(dataset, tmp_path):
    """Those of the shipped weights: version 1 of the phantoms, and DRRs without noise."""
    elsewhere = tmp_path / "assets" / "elsewhere" / "model.safetensors"
    for name in ("phantom_128", "chest_128"):
        protocol = read(ROOT / "assets" / f"{name}.safetensors").protocol
        found = dataset(protocol=protocol, checkpoint=elsewhere)
        assert found["drr_photons"] is None
        source = instantiate(found["source"])
        assert source.forward_model()["noise"] == "none" == ForwardModel.of_protocol(protocol).noise
        if name == "phantom_128":
            assert source.version == 1 and source.describe()["version"] == 1
    for file in (elsewhere, tmp_path / "checkpoints" / "last.ckpt"):  # without and with the config of an old run
        found = dataset(protocol={**TRAINED, "drr": {"image": "linear", "remove_iodine": True}}, checkpoint=file)
        assert (found["drr_photons"], found["drr_image"], found["drr_remove_iodine"]) == (None, "linear", True)
    new = {**TRAINED, "dataset": "phantom", "oversample": 3, "forward_model": ForwardModel(photons=5.0).describe()}
    found = dataset(protocol=new, checkpoint=elsewhere)
    assert (found["oversample"], found["drr_photons"]) == (3, 5.0)
    mixed = {"drr": {"attenuation": "linear"}, "forward_model": None, "xray_sources": {"drr": 1, "film": 1}}
    found = dataset(protocol={**TRAINED, **mixed}, checkpoint=elsewhere)
    assert (found["drr_attenuation"], found["drr_photons"]) == ("linear", None)  # of those X-rays that are DRRs
    chosen = dataset("dataset=lidc", protocol={**TRAINED, "drr": {}}, checkpoint=elsewhere)
    assert chosen["drr_photons"] == 800_000.0  # another data set than that of the training: as it is now
