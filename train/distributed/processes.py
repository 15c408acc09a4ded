"""The processes of one run: the first one prints for all, and if one dies the others end within seconds."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:  # its import takes seconds, and the device is printed before
    import pytorch_lightning as pl

POLL_SECONDS = 1.0
STARTED_POLL_SECONDS = 0.05  # Lightning polls every 5 s and kills all processes without a message
REMEDY = "model.resume=auto continues from the last checkpoint"
LOST = ("closed by peer", "reset by peer", "broken pipe", "nccl", "socket timeout")  # messages of gloo and NCCL


def first_process() -> bool:
    """Whether this is the first or only process, by the environment, so that it is known before torch starts."""
    ranks = [os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK")]
    rank = next((int(r) for r in ranks if r), 0)
    return rank == 0 and not int(os.environ.get("NODE_RANK") or 0)


def print_once(line: str) -> None:
    """Prints a line in the first process alone."""
    if first_process():
        print(line, flush=True)


@contextmanager
def watched(trainer: "pl.Trainer") -> Iterator[None]:
    """Ends this process with an error if another process of this machine dies while the block runs.

    Otherwise it would wait for the timeout of the collective library, half an hour: Lightning watches the processes
    that it has started but prints no reason, and those do not watch the process that started them.

    Raises UserError if the connection to another process is lost.
    """
    done, launcher = threading.Event(), trainer.strategy.launcher
    if hasattr(launcher, "procs"):  # Lightning fills it when it starts the other processes
        threading.Thread(target=_watch_started, args=(launcher,), daemon=True).start()
    if int(os.environ.get("LOCAL_RANK") or 0) > 0 and not {"SLURM_PROCID", "TORCHELASTIC_RUN_ID"} & os.environ.keys():
        threading.Thread(target=_watch_parent, args=(os.getppid(), done), daemon=True).start()
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size == 1 or not any(word in str(error).lower() for word in LOST):
            raise
        time.sleep(3 * POLL_SECONDS)  # the process that started the others prints the cause and ends this one
        raise UserError(
            f"process {trainer.global_rank} of {trainer.world_size} has lost the others: one of them has ended and "
            f"prints the cause itself; {REMEDY}"
        ) from error
    finally:
        done.set()


def _watch_started(launcher) -> None:
    while True:
        time.sleep(STARTED_POLL_SECONDS)
        processes = launcher.procs
        codes = [process.poll() for process in processes]
        if codes and all(code == 0 for code in codes):
            return
        for rank, code in enumerate(codes, 1):
            if code:
                for process in processes:
                    process.send_signal(
                        signal.SIGKILL
                    )  # ended ones are skipped; in a collective no other signal works
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                _end(f"process {rank} of {len(processes) + 1} {how}; {REMEDY}")


def _watch_parent(parent: int, done: threading.Event) -> None:
    misses = 0
    while misses < 2 and not done.wait(POLL_SECONDS):  # twice: the parent may finish just before this process
        misses = misses + 1 if os.getppid() != parent else 0
    if not done.is_set():
        _end(f"the first process has ended; {REMEDY}")


def _end(message: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
    os._exit(1)  # the main thread may wait in a collective, where no exception reaches it
