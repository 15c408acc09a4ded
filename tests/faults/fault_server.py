"""A process that imports the libraries once and then forks a child for every command that a test starts.

Each child runs a command's own script from its first line, and is killed, starved and interrupted for real. Only the
imports, several seconds on a slow core, are shared. It speaks JSON, a line a request: `start` answers the process id,
`poll` the exit status, or null while the child runs.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WARM = (
    "dataset.datamodule",
    "dataset.preparation.options",
    "evaluation.metrics",
    "evaluation.generation.sample",
    "evaluation.generation.write_volumes",
    "train.run.callbacks",
    "train.generator.build_module",
    "train.generator.encode",
    "train.generator.latent_data",
    "train.generator.finetuning",
    "train.run.run_record",
    "train.run.run_folder",
    "train.run.trainer",
    "vq_gan_3d.perceptual",
)


def run(request: dict) -> int:
    """The child: output into files, faults put in, then the script as if it were started by hand."""
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(f"{request['log']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, number)
    os.close(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    os.environ.pop("XRAY2CT_RUN_FOLDER", None)
    sys.argv = [request["script"], *request["arguments"]]
    try:
        for name, options in request["faults"].items():
            getattr(importlib.import_module("fault_injections"), name)(**options)
        runpy.run_path(request["script"], run_name="__main__")
        return 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def serve() -> int:
    """Until its input ends."""
    for name in WARM:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the children then share the memory of what was imported
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "start":
            child = os.fork()
            if child == 0:
                return run(request)
            answer = child
        else:
            done, status = os.waitpid(request["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if done else None
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.path[0:0] = [str(ROOT)]
    sys.exit(serve())
