"""Scaling of time and memory with volume size, batch size and number of cases: table, picture, exponents.

`python benchmarks/speed/scaling.py [--gpu] [--only NAME …] [--output FOLDER]`. Each point has its own process.
The exponent is the slope in logarithms over the larger half of the points: 1 is linear in voxels, samples or cases.
Memory counts from the first step; over cases, which are in memory by then, it is the peak of the whole process,
libraries and generation of the cases included, with its slope in MiB per case.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # so that no file here shadows a library

from benchmarks.markdown import table_lines  # noqa: E402
from benchmarks.speed import codebook as codes  # noqa: E402
from benchmarks.speed import loading, measure, third_party, unet, vae, vqgan  # noqa: E402
from benchmarks.speed.workload import Row, Work, load_settings, setting_of  # noqa: E402

LINEAR = 1.1  # a larger exponent is reported as more than linear
LEAST = {"seconds": 1e-6, "extra_mb": 1.0}  # lower end of the logarithmic axes


def start_only(setting: dict, device: str) -> Work:
    """Start of the data module from a warm cache."""
    holder = tempfile.TemporaryDirectory()
    arguments = setting["cases"], loading.HEADERS_ONLY, setting["batch"], Path(holder.name)
    loading.data_module(*arguments)
    return Work(lambda: loading.data_module(*arguments), keeps=holder)


def curves(tiny: bool, gpu: bool) -> dict[str, tuple]:
    """Name to (function, row of its setting, axis, [(x, changes of the setting)])."""
    edges = [16, 32] if tiny else [32, 48, 64, 96, 128]
    batches = [1, 2] if tiny else [1, 2, 4, 8]
    cases = [4, 8] if tiny else [100, 300, 1000, 3000, 10000]
    halves = [edge // 2 for edge in edges]  # latents and codes have coarser grids than volumes
    latents = [(e**3, {"latent": [4, e, e, e]}) for e in halves]
    samples = [(b, {"batch": b}) for b in batches]
    grids = [(e**3, {"grid": [e, e, e]}) for e in halves]
    volumes = [(e**3, {"volume": [e] * 3}) for e in edges]
    found = {
        "unet_forward over latents": (unet.forward, "unet_forward", "voxels", latents),
        "unet_step over latents": (unet.step, "unet_step", "voxels", latents),
        "unet_step over batch": (unet.step, "unet_step", "samples", samples),
        "codebook over vectors": (codes.ours, "codebook", "voxels", grids),
        "vqgan_step over volume": (vqgan.ours, "vqgan_step", "voxels", volumes),
        "vqgan_step over batch": (vqgan.ours, "vqgan_step", "samples", samples),
        "vae over slices": (vae.ours, "vae_slices", "slices", [(2 * b, {"slices": 2 * b}) for b in batches]),
    }
    if not gpu:
        points = [(n, {"cases": n, "volume": list(loading.HEADERS_ONLY), "start_cases": 1}) for n in cases]
        found["start over cases"] = (start_only, "loading", "cases", points)
        found["latent epoch over cases"] = (loading.ours, "loading", "cases", points)
    return found


def measure_curve(name: str, curve: tuple, settings: dict, device: str, repeats: int, threads: int | None) -> dict:
    """`{"name", "axis", "repeats", "x", "seconds", "peak_mb", "extra_mb", "time_exponent", "memory_exponent"}`."""
    side, row, axis, points = curve
    found = {"name": name, "axis": axis, "repeats": repeats, "x": [], "seconds": [], "peak_mb": [], "extra_mb": []}
    for x, changes in points:
        setting = setting_of(row, settings, **changes)
        setting |= {"train_steps": 0, "volumes": 2} if "train_steps" in setting else {}
        measured = measure.measure(Row(name, name, {"ours": side}), setting, device, repeats, threads)["ours"]
        found["x"].append(x)
        found["seconds"].append(statistics.median(measured["seconds"]))
        found["peak_mb"].append(measured["peak_mb"])
        found["extra_mb"].append(measured["peak_mb"] - measured["base_mb"])
        print(f"{name}: {x:,} {axis}: {found['seconds'][-1]:.3g} s, {found[memory_key(axis)][-1]:.0f} MiB", flush=True)
    time_exponent = exponent(found["x"], found["seconds"])
    return {**found, "time_exponent": time_exponent, "memory_exponent": memory_exponent(found)}


def memory_key(axis: str) -> str:
    """Key of the reported memory: of the work; over cases, whose memory is taken before, of the process."""
    return "peak_mb" if axis == "cases" else "extra_mb"


def memory_exponent(curve: dict) -> float | None:
    """As `exponent`; for a whole process, of the increase over the first point."""
    x, y = curve["x"], curve[memory_key(curve["axis"])]
    if curve["axis"] == "cases":
        x, y = ([value - values[0] for value in values[1:]] for values in (x, y))
    return exponent(x, y)


def exponent(x: list[float], y: list[float]) -> float | None:
    """Least-squares slope of log y over log x on the larger half of the points; None where y is not positive."""
    x, y = (values[len(x) // 2 - (len(x) == 2) :] for values in (x, y))
    if len(x) < 2 or min(y) <= 0:
        return None
    return statistics.linear_regression([math.log(v) for v in x], [math.log(v) for v in y]).slope


def lines(curves: list[dict]) -> str:
    """Markdown table of the points and exponents."""
    rows = []
    for curve in curves:
        axis, memory = curve["axis"], curve[memory_key(curve["axis"])]
        cells = [curve["name"], axis]
        cells.append("; ".join(f"{x:,}: {y:.3g}" for x, y in zip(curve["x"], curve["seconds"], strict=True)))
        cells.append("; ".join(f"{x:,}: {y:.0f}" for x, y in zip(curve["x"], memory, strict=True)))
        for key in ("time_exponent", "memory_exponent"):
            power = curve[key]
            grown = "flat" if power is None else f"{axis}^{power:.2f}"
            if axis == "cases" and key == "memory_exponent":
                grown = f"{_slope(curve['x'], memory):.3f} MiB a case"
            cells.append(grown + (" (more than linear)" if (power or 0.0) > LINEAR else ""))
        rows.append(cells)
    heads = (
        "what",
        "axis",
        "seconds",
        "MiB of the work (over cases: of the process)",
        "time grows as",
        "memory grows as",
    )
    return "\n".join(table_lines(heads, rows))


def _slope(x: list[float], y: list[float]) -> float:
    return (y[-1] - y[0]) / (x[-1] - x[0])


def picture(curves: list[dict], title: str):
    """Time and memory over each axis, both logarithmic; dotted: linear. Less than 1 MiB is drawn as 1 MiB.

    For the memory of a process the linear reference goes through its first and last point, without the libraries.
    """
    from matplotlib.figure import Figure

    axes = sorted({curve["axis"] for curve in curves})
    figure = Figure(figsize=(4.2 * len(axes), 6.4), layout="constrained")
    grid = figure.subplots(2, len(axes), squeeze=False)
    for column, axis in enumerate(axes):
        memory = memory_key(axis)
        labels = "seconds", "MiB of the process" if memory == "peak_mb" else "MiB of the work"
        for plot, key, label in zip(grid[:, column], ("seconds", memory), labels, strict=True):
            shown = [c for c in curves if c["axis"] == axis]
            for curve in shown:
                values = [max(y, LEAST.get(key, y)) for y in curve[key]]
                plot.plot(curve["x"], values, marker="o", label=curve["name"])
                slope = _slope(curve["x"], values) if key == "peak_mb" else values[0] / curve["x"][0]
                linear = [values[0] + slope * (x - curve["x"][0]) for x in curve["x"]]
                plot.plot(curve["x"], linear, ":", color="0.7", linewidth=1)
            plot.set(xscale="log", yscale="log", xlabel=axis, ylabel=label)
            points = sorted({x for c in shown for x in c["x"]})
            if points[-1] < 100:  # no room for powers of ten
                plot.set_xticks(points, [str(x) for x in points])
                plot.set_xticks([], minor=True)
            plot.legend(fontsize=7, frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def main(arguments: list[str] | None = None) -> int:
    """Measures the curves and writes `scaling.json`, `scaling.md` and `scaling.png`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="the sizes of a GPU")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="curves whose name has one of these words")
    parser.add_argument("--output", type=Path, default=Path("outputs/speed"), help="folder (default outputs/speed)")
    parser.add_argument("--repeats", type=int, default=3, help="of every point (default 3)")
    parser.add_argument("--threads", type=int, help="of a CPU; default: all")
    parser.add_argument("--tiny", action="store_true", help="smoke run")
    options = parser.parse_args(arguments)
    device = "cuda" if options.gpu else "cpu"
    measure.check_device(device)
    third_party.install_missing()
    settings = load_settings("tiny" if options.tiny else "gpu" if options.gpu else "cpu")
    machine = measure.machine(device, options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    found = []
    for name, curve in curves(options.tiny, options.gpu).items():
        if options.only and not any(word in name for word in options.only):
            continue
        found.append(measure_curve(name, curve, settings, device, options.repeats, options.threads))
        record = {"machine": machine["name"], "versions": machine["versions"], "curves": found}
        (options.output / "scaling.json").write_text(json.dumps(record, indent=1) + "\n")
        (options.output / "scaling.md").write_text(lines(found) + "\n")
    if not found:
        parser.error(f"no curve has {options.only} in its name")
    picture(found, machine["name"]).savefig(options.output / "scaling.png", dpi=100)
    print(lines(found))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (third_party.ThirdPartyMissing, ValueError) as error:
        sys.exit(f"error: {error}")
