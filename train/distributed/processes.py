"""The processes of one run: the first speaks for all, and where one dies the others end too, within seconds."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:  # the device is said before the seconds that its import takes
    import pytorch_lightning as pl

POLL_SECONDS = 1.0
STARTED_POLL_SECONDS = 0.05  # Lightning looks every 5 s and kills all without a word: who looks first speaks
REMEDY = "model.resume=auto goes on from the last checkpoint"
LOST = ("closed by peer", "reset by peer", "broken pipe", "nccl", "socket timeout")  # in the words of gloo and NCCL


def first_process() -> bool:
    """Whether this is the first of all processes, or the only one; known before torch is asked."""
    ranks = [os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK")]
    rank = next((int(r) for r in ranks if r), 0)
    return rank == 0 and not int(os.environ.get("NODE_RANK") or 0)


def say(line: str) -> None:
    """A line on stdout, once for all processes."""
    if first_process():
        print(line, flush=True)


def quiet_unless_first() -> None:
    """Warnings are said once."""
    if not first_process():
        logging.getLogger().setLevel(logging.ERROR)


@contextmanager
def watched(trainer: "pl.Trainer") -> Iterator[None]:
    """While the block runs, the death of another process of this machine ends this one with an error.

    Without it a process waits for a dead one until its library's timeout, half an hour: Lightning looks after the
    processes that it has started, but says nothing; they do not look after the one that started them.

    Raises:
        UserError: if the connection to another process is lost.
    """
    done = threading.Event()
    launcher = trainer.strategy.launcher
    if hasattr(launcher, "procs"):  # filled when the others are started; watched until all have ended well
        threading.Thread(target=_watch_started, args=(launcher,), daemon=True).start()
    if _started_by_lightning():
        threading.Thread(target=_watch_starter, args=(os.getppid(), done), daemon=True).start()
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size == 1 or not any(word in str(error).lower() for word in LOST):
            raise
        time.sleep(3 * POLL_SECONDS)  # the one who started the others says which and how, and does not come back
        raise UserError(
            f"process {trainer.global_rank} of {trainer.world_size} has lost the others: one of them has ended, and "
            f"says why itself; {REMEDY}"
        ) from error
    finally:
        done.set()


def _started_by_lightning() -> bool:
    return (
        int(os.environ.get("LOCAL_RANK") or 0) > 0 and not {"SLURM_PROCID", "TORCHELASTIC_RUN_ID"} & os.environ.keys()
    )


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
                    process.send_signal(signal.SIGKILL)  # skips those that have ended; a collective minds no other
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                _end(f"process {rank} of {len(processes) + 1} {how}; {REMEDY}")


def _watch_starter(parent: int, done: threading.Event) -> None:
    misses = 0
    while misses < 2 and not done.wait(POLL_SECONDS):  # twice: the first may just have finished before this one
        misses = misses + 1 if os.getppid() != parent else 0
    if not done.is_set():
        _end(f"the first process has ended; {REMEDY}")


def _end(message: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
    os._exit(1)  # the main thread may wait in a collective, where no exception reaches it
