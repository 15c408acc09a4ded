"""Compares two evaluations of one protocol: paired differences with intervals.

`python evaluation/compare.py a=outputs/first/metrics.json b=outputs/second/metrics.json`
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # replaced, so that a file here shadows no library

from common.cli import command  # noqa: E402


@command("compare")
def main(cfg) -> None:
    from glob import escape

    from common.errors import UserError
    from common.files import check_output, write_json
    from evaluation.scoring.comparison import compare, read_result, table

    output = cfg.output and Path(cfg.output).expanduser()
    if output:
        check_output(output.parent, [escape(output.name)], cfg.overwrite)
    results = read_result("a", cfg.a), read_result("b", cfg.b)
    inputs = [path.resolve() for one in results for path in (one.path, one.path.with_name("cases.csv"))]
    if output and (output.is_dir() or output.resolve() in inputs):
        raise UserError(f"output={output}: {'a folder' if output.is_dir() else 'an input'}; name another file")
    result = compare(*results, cfg.method, cfg.method_b or cfg.method, seed=cfg.seed, draws=cfg.draws)
    print(table(result))
    if output:
        write_json(output, result)
        print(output)


if __name__ == "__main__":
    main()
