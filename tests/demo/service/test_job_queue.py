"""The job queue: order, limit, cancellation, and errors that reach their own caller only."""

import threading
import time

import pytest

from demo.service import job_queue as module
from demo.service.job_queue import JobQueue
from demo.service.messages import Busy, Cancelled, Progress


@pytest.fixture
def gate():
    """Work that reports once, waits for `free`, and raises its task if that is an exception."""
    free = threading.Event()

    def work(job, report):
        report(Progress(0, 1, 2))
        while not free.wait(0.01):
            job.check()
        if isinstance(job.task, BaseException):
            raise job.task
        return job.task

    work.free = free
    return work


def started(queue, task, **options):
    """A follower whose task is in the queue."""
    follower = queue.follow(task, options.pop("cancelled", threading.Event()), **options)
    next(follower)
    return follower


def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_callers_get_the_number_of_jobs_ahead_and_their_own_result(gate):
    queue = JobQueue(gate, max_waiting=4)
    followers = [started(queue, name) for name in "abc"]
    until(lambda: queue.length == 3 and next(followers[0]).step == 1)
    assert [next(f).ahead for f in followers] == [0, 1, 2]
    gate.free.set()
    assert [list(f)[-1] for f in followers] == ["a", "b", "c"]
    queue.close()


def test_a_full_queue_refuses_until_a_job_leaves(gate):
    queue = JobQueue(gate, max_waiting=2)
    followers = [started(queue, 0)]
    until(lambda: next(followers[0]).step == 1)
    followers += [started(queue, n) for n in (1, 2)]
    with pytest.raises(Busy, match="2 requests wait"):
        started(queue, 3)
    followers[1].close()
    followers[1] = started(queue, 4)
    gate.free.set()
    assert [list(f)[-1] for f in followers] == [0, 4, 2]
    queue.close()


@pytest.mark.parametrize("how", ["event", "close"])
def test_cancelling_a_running_job_frees_the_worker(gate, how):
    queue, cancelled = JobQueue(gate, max_waiting=2), threading.Event()
    first = started(queue, 1, cancelled=cancelled)
    until(lambda: next(first).step == 1)
    second = started(queue, 2)
    if how == "event":
        cancelled.set()
        with pytest.raises(Cancelled):
            list(first)
    else:
        first.close()
    until(lambda: next(second).step == 1)  # the second is in work while the gate is still closed
    gate.free.set()
    assert list(second)[-1] == 2
    queue.close()


def test_an_error_reaches_its_own_caller_only(gate):
    queue = JobQueue(gate, max_waiting=3)
    followers = [started(queue, task) for task in (MemoryError("m"), 1, SystemExit(3), 2)]
    gate.free.set()
    with pytest.raises(MemoryError):
        list(followers[0])
    assert list(followers[1])[-1] == 1
    with pytest.raises(SystemExit):
        list(followers[2])
    assert list(followers[3])[-1] == 2
    queue.close()


def test_a_job_without_listener_is_cancelled(gate, monkeypatch):
    monkeypatch.setattr(module, "LISTENER_TIMEOUT", 0.2)
    queue = JobQueue(gate, max_waiting=2)
    forgotten = started(queue, 1)
    until(lambda: queue.length == 0)
    with pytest.raises(Cancelled, match="no listener"):
        list(forgotten)
    queue.close()


def test_closing_cancels_all_jobs_and_refuses_new_ones(gate):
    queue = JobQueue(gate, max_waiting=3)
    followers = [started(queue, n) for n in range(3)]
    queue.close()
    for follower in followers:
        with pytest.raises(Cancelled):
            list(follower)
    with pytest.raises(Busy):
        started(queue, 9)


def test_progress_is_repeated(gate, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.05)
    queue = JobQueue(gate, max_waiting=1)
    follower = started(queue, 1)
    until(lambda: next(follower).step == 1)
    assert next(follower) == next(follower) == Progress(0, 1, 2)
    gate.free.set()
    queue.close()
