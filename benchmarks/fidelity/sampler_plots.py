"""Pictures of the sweeps: quality against network evaluations, and against the guidance scale."""

from matplotlib.figure import Figure

COLOURS = {
    "DPM-Solver++ in log-SNR": "#d1495b",
    "DPM-Solver++ SDE in log-SNR": "#6d597a",
    "DPM-Solver++ in time": "#edae49",
    "DDIM": "#66a182",
    "ancestral": "#22577a",
}
GUIDANCE_COLOURS = ("#d1495b", "#22577a")
NAMED = {
    "default": "DPM-Solver++ in time",
    "fast": "DPM-Solver++ in time",
    "sde": "DPM-Solver++ SDE in log-SNR",
}


def family_of(name: str) -> str:
    """Solver of a sampler; one curve per solver."""
    return NAMED.get(name) or name.rpartition(",")[0]


def quality_picture(result: dict) -> Figure:
    """PSNR of one sample and of the mean, spread and gradient against network evaluations, one line per solver."""
    panels = (
        ("psnr_one", "one sample: PSNR, dB"),
        ("psnr_mean_of_all", "mean of all samples: PSNR, dB"),
        ("spread", "spread of samples, HU"),
        ("gradient", "mean gradient, HU/mm"),
    )
    figure = Figure(figsize=(11.0, 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels))
    reference = result["ways"].get(result["reference"])
    for axis, (key, title) in zip(axes, panels, strict=True):
        if reference is not None:
            axis.axhline(reference[key]["mean"], color="#c9ced4", linewidth=1)
        for family, colour in COLOURS.items():
            points = sorted(
                (way["evaluations"], way[key]["mean"], name)
                for name, way in result["ways"].items()
                if family_of(name) == family
            )
            if points:
                x, y, names = zip(*points, strict=True)
                axis.plot(x, y, "o-", color=colour, markersize=3.5, linewidth=1.2, label=family)
                for a, b, name in zip(x, y, names, strict=True):
                    if name in NAMED:
                        axis.annotate(name, (a, b), textcoords="offset points", xytext=(4, -9), fontsize=7)
        axis.set_xscale("log")
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=7, frameon=False)
    figure.supxlabel("network evaluations of a sample", fontsize=9)
    return figure


def guidance_picture(result: dict) -> Figure:
    """Errors, spread and distance of spectra against the guidance scale, 95 % intervals."""
    panels = (
        (("psnr_one", "psnr_mean"), "PSNR, dB"),
        (("spread",), "spread of samples, HU"),
        (("gradient_spectrum",), "gradient spectrum, HU/mm"),
        (("noise_power_spectrum",), "noise power, dB"),
    )
    figure = Figure(figsize=(11.0, 3.2), layout="constrained")
    ways = sorted(result["ways"].values(), key=lambda way: way["guidance_scale"])
    scales = [way["guidance_scale"] for way in ways]
    for axis, (keys, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for key, colour in zip(keys, GUIDANCE_COLOURS[: len(keys)], strict=True):
            mean = [way[key]["mean"] for way in ways]
            spans = [(way[key]["low"], way[key]["high"]) for way in ways]
            below = [0.0 if low is None else max(0.0, m - low) for m, (low, _) in zip(mean, spans, strict=True)]
            above = [0.0 if high is None else max(0.0, high - m) for m, (_, high) in zip(mean, spans, strict=True)]
            label = {"psnr_one": "one sample", "psnr_mean": "mean"}.get(key)
            axis.errorbar(scales, mean, [below, above], fmt="o-", color=colour, markersize=3.5,
                          linewidth=1.2, elinewidth=0.7, label=label)  # fmt: skip
        if len(keys) > 1:
            axis.legend(fontsize=7, frameon=False)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("guidance scale", fontsize=9)
    return figure
