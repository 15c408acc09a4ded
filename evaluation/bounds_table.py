"""The bounds of a checkpoint as Markdown: margins, widths, and measured coverage with its binomial interval."""

from evaluation.bounds import Bounds
from evaluation.conformal_scores import ORGANS, TITLES


def markdown(bounds: Bounds) -> str:
    """A table, a line a quantity, and the promise in words."""
    percent, cases = f"{100 * bounds.level:g} %", bounds.population.get("calibration_cases", "?")
    lines = [
        f"Bounds of {percent} for {bounds.checkpoint['file']}: {bounds.drawn['samples']} samples by "
        f"{bounds.drawn.get('sampler')} in {bounds.drawn.get('steps')} steps, {cases} calibration cases.",
        "",
        "| bound on | lower end moves by | upper end moves by | mean width | coverage on test cases [95 %] |",
        "|---|---|---|---|---|",
    ]
    for name, margin in bounds.margins.items():
        told = bounds.coverage.get(name)
        measured = "not measured"
        if told:
            measured = (
                f"{told['covered']} of {told['cases']}: {told['mean']:.3f} [{told['low']:.3f}, {told['high']:.3f}]"
            )
        width = "–" if told is None else f"{told['width']:.0f} {margin['unit']}"
        what = TITLES[name] + ("" if name in ORGANS else f", HU of {100 * bounds.share:g} % of its voxels")
        low, high = (f"{sign * margin[end]:+.0f} {margin['unit']}" for sign, end in ((-1, "low"), (1, "high")))
        lines.append(f"| {what} | {low} | {high} | {width} | {measured} |")
    return "\n".join([*lines, "", bounds.words(bounds.gives_organs(nominal=False)), ""])
