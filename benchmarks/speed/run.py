"""Speed and memory against third-party libraries, as ratios measured in the same run on the same machine.

`python benchmarks/speed/run.py [--gpu] [--only NAME …] [--json FILE] [--repeats N]`
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)  # so that no file here shadows a library

from benchmarks.speed import measure, table, third_party  # noqa: E402
from benchmarks.speed.rows import ROWS, check_parameters  # noqa: E402
from benchmarks.speed.workload import load_settings, setting_of  # noqa: E402


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", action="store_true", help="rows and sizes for a GPU")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table there")
    parser.add_argument("--repeats", type=int, default=5, help="of every implementation, interleaved (default 5)")
    parser.add_argument("--threads", type=int, help="of a CPU; default: all")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="run the chosen sizes on another device")
    parser.add_argument("--tiny", action="store_true", help="smoke run: sizes too small to compare speed")
    parser.add_argument("--compile", action="store_true", help="also time ours behind torch.compile")
    parser.add_argument(
        "--skip", nargs="+", default=[], metavar="WORD", help="leave out implementations whose name has a WORD"
    )
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    options.size = "tiny" if options.tiny else "gpu" if options.gpu else "cpu"  # of settings.yaml
    for name in options.only or []:
        if options.size not in (*ROWS[name].sizes, "tiny"):
            parser.error(f"--only {name}: this row has no {options.size} size; it has {', '.join(ROWS[name].sizes)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the rows; a failed row does not stop the others, and the exit code is 1 if one failed."""
    options = parse(arguments)
    device = options.device or ("cuda" if options.gpu else "cpu")
    measure.check_device(device)
    for file in filter(None, (options.json, options.markdown)):
        file.parent.mkdir(parents=True, exist_ok=True)
    third_party.install_missing()
    settings = load_settings(options.size)
    check_parameters(settings)
    machine = measure.machine(device, options.threads)
    machine["versions"] |= third_party.versions()
    print(f"{machine['name']}; {', '.join(f'{k} {v}' for k, v in machine['versions'].items())}", flush=True)
    found, failed = [], 0
    for name in options.only or [n for n, row in ROWS.items() if ("gpu" if options.gpu else "cpu") in row.sizes]:
        row, setting = ROWS[name], setting_of(name, settings)
        words = options.skip + ([] if options.compile else ["torch.compile"])
        skip = {side for side in row.sides if side != "ours" and any(word in side for word in words)}
        print(f"{name}: {', '.join(s for s in row.sides if s not in skip)}", flush=True)
        try:
            sides = measure.measure(row, setting, device, options.repeats, options.threads, skip)
        except measure.SideFailed as error:
            failed += 1
            print(f"{name} failed: {error}", file=sys.stderr, flush=True)
            continue
        found.append(measure.summarise(row, sides, setting, machine))
        print(table.lines([found[-1]], header=False), flush=True)
        failed += sum("error" in side for side in sides.values())
        if options.json:  # after every row, so that an interrupted run keeps its results
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    text = table.lines(found)
    print("\n" + text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (third_party.ThirdPartyMissing, ValueError) as error:
        sys.exit(f"error: {error}")
