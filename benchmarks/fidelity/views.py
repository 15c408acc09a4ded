"""Frontal X-ray, lateral and both: ridge regression, regression network and diffusion model on phantoms.

`python benchmarks/fidelity/views.py --size 32 --xray 64 --output outputs/views_32`

A *shared* network is trained on two views with dropped ones (`dataset.views=2`), a *frontal* network on the frontal
alone, both with the same batches. Every stage is skipped if its file exists, and a stopped training resumes, so the
command goes on where it ended. `--stages ridge` needs no training.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.fidelity.run import run  # noqa: E402
from benchmarks.fidelity.variants import FLOW, OURS, REGRESSION  # noqa: E402
from benchmarks.resumed import expect_same  # noqa: E402
from common.files import newest_checkpoint  # noqa: E402

VIEWS = {"frontal": [0], "lateral": [1], "both": [0, 1]}
POSES = {"known": "dataset.pose_noise=false", "unknown": "dataset.pose_noise=true"}
NETWORKS = {  # number of views in training, further overrides
    "shared_model": (2, []),
    "frontal_model": (1, []),
    "shared_regression": (2, REGRESSION),
    "frontal_regression": (1, REGRESSION),
    "shared_flow": (2, FLOW),
    "frontal_flow": (1, FLOW),
}
AUTOENCODER = ["model.crop=[32,32,32]", "model.n_hiddens=32",
               "model.n_res_blocks=1", "model.train_num_steps=400", "model.batch_size=2",
               "model.train_lr=1.0e-3", "model.validate_every=200", "model.checkpoint_every=200",
               "model.picture_every=1000000", "model.losses.adversarial.start=1000000"]  # fmt: skip
TRAINING = ["model.dim=32", "model.xray_encoder.width=32", "model.batch_size=4", "model.train_lr=3.0e-4",
            "model.warmup_steps=100", "model.ema_decay=0.995", "model.validate_every=1000000",
            "model.save_and_sample_every=500", "model.dim_mults=[1,2]", "model.latent_scaling=overall"]  # fmt: skip
SAMPLES, STEPS = 8, 12


def data_words(options: argparse.Namespace, pose: str, views: int) -> list[str]:
    """Overrides of the population."""
    side, pixels = options.size, options.xray
    return [
        "dataset=phantom",
        *(f"dataset.{split}={getattr(options, split)}" for split in ("train", "val", "test")),
        "dataset.seed=1",
        f"dataset.volume_size=[{side},{side},{side}]",
        f"dataset.xray_size=[{pixels},{pixels}]",
        f"dataset.views={views}",
        POSES[pose],
        f"dataset.cache_dir={options.output / 'cache'}",
        f"dataset.prepare_workers={options.workers}",
    ]


def opened(options: argparse.Namespace, pose: str):
    """The data module of the cases with both views."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    from dataset.datamodule import prepared_data

    with initialize_config_dir(str(ROOT / "config"), version_base=None):
        dataset = compose("train_ddpm", data_words(options, pose, 2)).dataset
    return prepared_data(instantiate(dataset.source), dataset)


def ridge_scores(options: argparse.Namespace, pose: str) -> dict[str, list[float]]:
    """PSNR of every test case by the ridge regression of `evaluation.scoring.baselines` on each choice of views."""
    import torch

    from evaluation.scoring.baselines import RidgeToComponents, gram_row, xray_features

    data, read = opened(options, pose), {}
    for split in ("train", "val", "test"):
        cases = [getattr(data, split).case(i) for i in range(len(getattr(data, split)))]
        xrays = torch.stack([case["xray"].float().unsqueeze(1) for case in cases])
        volumes = torch.stack([case["ct"].float().clamp(data.window.low, data.window.high) for case in cases])
        read[split] = xrays, volumes
    rows = {split: torch.stack([gram_row(volume) for volume in volumes]) for split, (_, volumes) in read.items()}
    found = {}
    for name, kept in VIEWS.items():
        features = {split: xray_features(xrays[:, kept]) for split, (xrays, _) in read.items()}
        ridge = RidgeToComponents().fit(features["train"], rows["train"], features["val"], rows["val"])
        predicted = ridge.weights(features["test"]) @ read["train"][1].flatten(1)
        predicted = predicted.clamp(data.window.low, data.window.high).view_as(read["test"][1])
        found[name] = psnr(predicted, read["test"][1], data.window)
    return found


def psnr(predicted, truth, window) -> list[float]:
    """dB of each volume over the range of the HU window, without slices that were not scanned (phantoms have none)."""
    errors = (predicted - truth).square().flatten(1).mean(dim=1)
    return (10.0 * ((window.high - window.low) ** 2 / errors).log10()).tolist()


def network_scores(options: argparse.Namespace, pose: str, name: str, checkpoint: str) -> dict[str, list[float]]:
    """PSNR of every test case: the mean of `SAMPLES` samples of the model, or the output of a regression."""
    import torch

    from ddpm.checkpoint.load import load_pipeline
    from evaluation.generation.model_inputs import ModelInputs

    data, pipeline, regression = opened(options, pose), load_pipeline(checkpoint), name.endswith("regression")
    cases = [data.test.case(i) for i in range(len(data.test))]
    truth = torch.stack([case["ct"].float().clamp(data.window.low, data.window.high) for case in cases])
    inputs, ids = ModelInputs.of_cases(cases, pipeline), [str(case) for case in data.test.rows["id"]]
    pipeline.set_sampler("DDIMScheduler" if regression else "DPMSolverMultistepScheduler", 1 if regression else STEPS)
    views = VIEWS if name.startswith("shared") else {"frontal": [0]}
    found = {}
    for view, kept in views.items():
        xrays, poses = inputs.xrays[:, kept], inputs.poses[:, kept]
        if kept == [1]:  # a missing frontal is unknown pixels
            xrays = torch.cat([torch.full_like(xrays, torch.nan), xrays], dim=1)
            poses = inputs.poses
        volumes = pipeline(
            xrays, poses, 1 if regression else SAMPLES, ids=ids, extent=inputs.extents, batch_size=32,
            allow_any_picture=True,
        ).volumes  # fmt: skip
        found[view] = psnr(volumes.mean(dim=1), truth, data.window)
    return found


def trained(options: argparse.Namespace, pose: str, name: str) -> str:
    """The checkpoint of a network; trains it if it is missing."""
    encoder, place = options.output / "vqgan", options.output / pose / name
    if not (options.output / "vqgan.json").exists():
        resume = f"model.resume={'auto' if newest_checkpoint(encoder) else 'null'}"
        run("train/train_vqgan.py", *data_words(options, "known", 1), *AUTOENCODER, resume, "model.gpus=0",
            f"model.results_folder={encoder}")  # fmt: skip
        (options.output / "vqgan.json").write_text(json.dumps(str(newest_checkpoint(encoder))))
    if not (place / "trained.json").exists():
        views, overrides = NETWORKS[name]
        resume = f"model.resume={'auto' if newest_checkpoint(place) else 'null'}"
        checkpoint = json.loads((options.output / "vqgan.json").read_text())
        words = [*OURS[1:], *TRAINING, *overrides, resume, "model.gpus=0", f"model.vqgan_ckpt={checkpoint}"]
        run("train/train_ddpm.py", *data_words(options, pose, views), *words, f"model.results_folder={place}",
            f"model.train_num_steps={options.batches}")  # fmt: skip
        (place / "trained.json").write_text(json.dumps(str(newest_checkpoint(place))))
    return json.loads((place / "trained.json").read_text())


def table(output: Path) -> str:
    """All measured rows as Markdown: mean PSNR of the test cases, and what the second view adds, with its interval.

    Below them the shared networks are compared with the frontal ones, for one view and for both.
    """
    import numpy as np

    from benchmarks.markdown import table_lines
    from evaluation.statistics.patient_bootstrap import bootstrap_mean

    def shown(more: list[float], less: list[float]) -> str:
        gains = np.subtract(more, less)
        found = bootstrap_mean(gains, np.arange(len(gains)))
        return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"

    rows, all_scores = [], {}
    for file in sorted(output.glob("scores_*.json")):
        scores, (_, pose, name) = json.loads(file.read_text()), file.stem.split("_", 2)
        all_scores[pose, name] = scores
        means = [f"{sum(scores[view]) / len(scores[view]):.2f}" if view in scores else "–" for view in VIEWS]
        gain = shown(scores["both"], scores["frontal"]) if "both" in scores else "–"
        rows.append([pose, name.replace("_", " "), *means, gain])
    pairs = [(pose, name, f"frontal_{name[7:]}") for pose, name in all_scores if name.startswith("shared_")]
    compared = [
        f"{pose}, {name}: {view} minus {other}, frontal: {shown(all_scores[pose, name][view], alone['frontal'])} dB"
        for pose, name, other in pairs
        if (alone := all_scores.get((pose, other)))
        for view in ("frontal", "both")
    ]
    return "\n".join([*table_lines(["pose", "method", *VIEWS, "both − frontal"], rows), *compared])


def main() -> None:
    """Measures the requested stages, then prints the table of all that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", default=["ridge", *NETWORKS], help=f"of ridge, {', '.join(NETWORKS)}")
    parser.add_argument("--poses", nargs="+", default=list(POSES), choices=list(POSES))
    parser.add_argument("--size", type=int, default=64, help="voxels along each side")
    parser.add_argument("--xray", type=int, default=128, help="pixels along each side of an X-ray")
    parser.add_argument("--batches", type=int, default=6000, help="of every training, 4 samples each")
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--val", type=int, default=32)
    parser.add_argument("--test", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="processes that prepare cases; 0 = this one")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "views")
    options = parser.parse_args()
    options.output = options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    same = ("size", "xray", "batches", "train", "val", "test")
    expect_same(options.output, {key: getattr(options, key) for key in same})
    for pose in options.poses:
        for name in options.stages:
            file = options.output / f"scores_{pose}_{name}.json"
            if not file.exists():
                if name == "ridge":
                    scores = ridge_scores(options, pose)
                else:
                    scores = network_scores(options, pose, name, trained(options, pose, name))
                file.write_text(json.dumps(scores))
                print(pose, name, {view: round(sum(v) / len(v), 3) for view, v in scores.items()}, flush=True)
    print(table(options.output))


if __name__ == "__main__":
    main()
