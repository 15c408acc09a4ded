"""Trains and evaluates methods of the fidelity benchmark.

`python benchmarks/fidelity/run.py --methods model --seed 0`.

Every stage is one of the project's commands. Finished stages are skipped, a stopped training resumes, and results of
other methods and seeds are kept. `--plan` converts a budget in minutes into a number of batches by a short run on an
idle machine, so that the training itself may share its machine.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from benchmarks.fidelity.stored_xrays import stored_xrays  # noqa: E402
from benchmarks.fidelity.table import HERE, collect, results_name  # noqa: E402
from benchmarks.fidelity.variants import AUTOENCODERS, Method, methods  # noqa: E402
from benchmarks.timing import machine_name  # noqa: E402
from common.files import newest_checkpoint, sha256  # noqa: E402

EARLIER_NAMES = {"ancestor": "xray2ctpa", "ancestor_1000": "xray2ctpa_1000"}  # of methods
NO_LOGGING = ["model.validate_every=1000000", "model.save_and_sample_every=1000"]
CALIBRATION_BATCHES = 60
TINY = ["dataset.train=12", "dataset.val=4", "dataset.test=6", "dataset.volume_size=[32,32,32]"]  # smoke test


def run(script: str, *overrides: str, capture: bool = False) -> str:
    """Runs one of the project's commands; returns its output if `capture`, else prints it."""
    command = [sys.executable, str(ROOT / script), *overrides]
    print("$ python", script, *overrides, flush=True)
    result = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE if capture else None, check=False)
    if result.returncode:
        raise SystemExit(f"{script} ended with {result.returncode}: {(result.stdout or '')[-2000:]}")
    return result.stdout or ""


def train_autoencoder(overrides: list[str], folder: Path) -> Path:
    """Checkpoint of the VQ-GAN that all methods share; its training is not part of their budgets."""
    runs = folder / "vqgan"
    done = folder / "vqgan.json"
    if not done.exists():
        where = [f"model.results_folder={runs}", "model.resume=auto" if runs.exists() else "model.resume=null"]
        run("train/train_vqgan.py", *overrides, *where)
        done.write_text(json.dumps({"checkpoint": str(newest_checkpoint(runs))}))
    return Path(json.loads(done.read_text())["checkpoint"])


def plan(method: Method, minutes: float, folder: Path, settings: list[str]) -> dict:
    """Number of batches in the budget, `{"ms", "batches", "minutes", "machine"}`.

    A short run measures the time of a batch once; nothing else may run meanwhile.
    """
    counted = folder / "plan.json"
    if not counted.exists():
        short = [f"model.train_num_steps={CALIBRATION_BATCHES}", f"model.results_folder={folder / 'calibration'}"]
        found = re.search(r"median ([\d.]+) ms a batch", run("train/train_ddpm.py", *settings, *short, capture=True))
        counted.write_text(json.dumps({"ms": float(found[1]), "machine": machine_name()}))
    found = json.loads(counted.read_text())
    return {**found, "batches": max(1, int(minutes * 60_000 / found["ms"])), "minutes": minutes}


def train(budget: dict, folder: Path, settings: list[str], recipe: list[str]) -> dict:
    """Trains the number of batches of the plan; returns the plan with the `checkpoint`.

    Args:
        recipe: overrides that define the method; an existing training with another recipe is refused.
    """
    done = folder / "trained.json"
    if not done.exists():
        runs = folder / "runs"
        steps = [f"model.train_num_steps={budget['batches']}", f"model.results_folder={runs}"]
        steps.append(f"model.resume={'auto' if newest_checkpoint(runs) else 'null'}")
        run("train/train_ddpm.py", *settings, *steps)
        done.write_text(json.dumps({**budget, "checkpoint": str(newest_checkpoint(runs)), "recipe": recipe}))
    found = json.loads(done.read_text())
    if found.get("recipe") != recipe:
        raise SystemExit(f"{folder.name}: trained by another recipe than the present one; remove {folder}")
    if found["minutes"] != budget["minutes"]:
        raise SystemExit(
            f"{folder.name}: trained for {found['minutes']:g} minutes, asked for {budget['minutes']:g}; "
            f"remove {folder} or give --output"
        )
    return found


def refuse_stale(evaluated: Path, checkpoint: Path) -> None:
    """Raises SystemExit if `evaluated` has the scores of another checkpoint, trained earlier under the same name."""
    scored = json.loads((evaluated / "metrics.json").read_text())["protocol"]["checkpoint"]
    if scored["sha256"] != sha256(checkpoint):
        raise SystemExit(
            f"{evaluated}: it has the scores of another training than {checkpoint}; remove it to evaluate this one"
        )


def main() -> None:
    """Trains and evaluates the requested methods, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, choices=(64, 128))
    parser.add_argument("--methods", nargs="+", default=["model"], help=", ".join(methods(64)))
    parser.add_argument(
        "--autoencoder", default="codebook", choices=list(AUTOENCODERS),
        help="codebook: that of the stored table; components: continuous latents of principal components"
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--minutes", type=float, help="training budget; by default the method's own")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "fidelity")
    parser.add_argument("--xrays", help="file of pre-rendered X-rays (benchmarks/fidelity/render_xrays.py)")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--metrics", default="fidelity", help="as metrics= of evaluation/evaluate.py")
    parser.add_argument("--batch", type=int, default=16, help="volumes generated at once")
    parser.add_argument("--cases", type=int, help="evaluate only the first N cases")
    parser.add_argument("--plan", action="store_true", help="only count the batches of each budget")
    parser.add_argument(
        "--train", action="store_true", help="only train, to choose on validation cases before the evaluation"
    )
    parser.add_argument("--tiny", action="store_true", help="a dozen phantoms at 32³, to try the script")
    options = parser.parse_args()
    options.methods = [EARLIER_NAMES.get(name, name) for name in options.methods]
    known = methods(options.size)
    unknown = [name for name in options.methods if name not in known]
    if unknown:
        parser.error(f"--methods {' '.join(unknown)}: choose from {', '.join(known)}")

    kind, autoencoder = options.autoencoder, AUTOENCODERS[options.autoencoder]
    folder = options.output / "_".join(
        [*(["tiny"] if options.tiny else []), str(options.size), *([kind] if kind != "codebook" else [])]
    )
    folder.mkdir(parents=True, exist_ok=True)
    # a trial, an evaluation of few cases or another autoencoder does not change the stored table
    stored = not options.tiny and options.cases is None and kind == "codebook"
    home_of_results = HERE if stored else folder
    data = [f"experiment=fidelity_{options.size}"]
    encoding = autoencoder.overrides(options.size)
    if options.tiny:
        data += TINY
        encoding += ["model.train_num_steps=4", "model.n_hiddens=8"]
    rendered = stored_xrays(options.xrays)
    vqgan = train_autoencoder([*data, *rendered, *encoding], folder)
    for name in options.methods:
        method = known[name]
        minutes = options.minutes or method.minutes
        home = folder / f"{method.trained_as or name}_{options.seed}"
        home.mkdir(parents=True, exist_ok=True)
        # pre-rendered X-rays have nominal poses
        trained_on, evaluated_on = ([*data, *(own or rendered)] for own in (method.trained_on, method.evaluated_on))
        scaling = f"model.latent_scaling={autoencoder.scaling}"
        settings = [*trained_on, scaling, *method.train, f"model.seed={options.seed}", f"model.vqgan_ckpt={vqgan}"]
        settings += [f"model.precision={options.precision}", *NO_LOGGING]
        budget = plan(method, minutes, home, settings)
        if options.plan:
            print(name, budget, flush=True)
            continue
        trained = train(budget, home, settings, [*method.train, *method.trained_on])
        if options.train:
            continue
        part = "evaluation" if options.cases is None else f"evaluation_{options.cases}"
        evaluated = folder / f"{name}_{options.seed}" / part
        if (evaluated / "metrics.json").exists():
            refuse_stale(evaluated, Path(trained["checkpoint"]))
        else:
            wanted = [f"methods=[{','.join(method.evaluated)}]", f"metrics={options.metrics}", "nifti=0"]
            where = [
                f"checkpoint={trained['checkpoint']}",
                f"output={evaluated}",
                "overwrite=true",
                f"batch_size={options.batch}",
            ]
            fewer = [] if options.cases is None else [f"cases={options.cases}"]
            run("evaluation/evaluate.py", *evaluated_on, *wanted, *where, *fewer, *method.evaluate)
        collect(name, method, options.size, options.seed, trained, evaluated, home_of_results)
    if options.plan or options.train:
        return
    print((home_of_results / results_name(options.size, "md")).read_text())


if __name__ == "__main__":
    main()
