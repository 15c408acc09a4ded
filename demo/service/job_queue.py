"""A bounded job queue for one worker; each caller receives the number of jobs ahead."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from demo.service.messages import Busy, Cancelled, Progress

HEARTBEAT = 1.0  # seconds after which the queue repeats the last progress
LISTENER_TIMEOUT = 120.0  # seconds without a listener after which the queue cancels a job


@dataclass(eq=False)
class Job:
    """One job of the queue: its task, and the progress that its listener receives."""

    task: Any
    cancelled: threading.Event
    done: bool = False
    result: Any = None
    error: BaseException | None = None
    news: Progress | None = None
    last_listened: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raises Cancelled if the request was cancelled or no client listens; called between two steps."""
        if self.cancelled.is_set():
            raise Cancelled("cancelled")
        if time.monotonic() - self.last_listened > LISTENER_TIMEOUT:
            raise Cancelled("cancelled: no listener")


class JobQueue:
    """Runs jobs in order of arrival, one at a time.

    Args:
        work: runs a job and returns its result; `report(progress)` sends progress. The queue raises its errors in
            that job's listener only.
        max_waiting: jobs that may wait besides the running one.
    """

    def __init__(self, work: Callable[[Job, Callable[[Progress], None]], Any], max_waiting: int):
        self._work, self._max_waiting = work, max_waiting
        self._waiting: deque[Job] = deque()
        self._now: Job | None = None
        self._change = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work_on, name="generator", daemon=True)
        self._worker.start()

    def follow(self, task: Any, cancelled: threading.Event, steps: int = 0) -> Iterator[Any]:
        """Yields the progress of a task, then its result; closing the generator cancels the task.

        Raises Busy if the queue is full, and Cancelled if the task was cancelled.
        """
        job = Job(task, cancelled)
        with self._change:
            if self._closed or len(self._waiting) >= self._max_waiting + (self._now is None):
                raise Busy(f"{len(self._waiting)} requests wait already; try again in a few minutes")
            self._waiting.append(job)
            self._change.notify_all()
        try:
            yield from self._listen(job, steps)
        finally:
            with self._change:
                if not job.done:
                    job.cancelled.set()
                if job in self._waiting:
                    self._waiting.remove(job)
                self._change.notify_all()

    @property
    def length(self) -> int:
        """Number of waiting and running jobs."""
        with self._change:
            return len(self._waiting) + (self._now is not None)

    def close(self) -> None:
        """Cancels every job and ends the worker after its current step."""
        with self._change:
            self._closed = True
            for job in (*self._waiting, self._now):
                if job is not None:
                    job.cancelled.set()
            self._change.notify_all()
        self._worker.join(timeout=30.0)

    def _listen(self, job: Job, steps: int) -> Iterator[Any]:
        last, sent = None, 0.0
        while True:
            with self._change:
                job.last_listened = time.monotonic()
                ahead = self._waiting.index(job) + (self._now is not None) if job in self._waiting else 0
                news = job.news if job.news is not None else Progress(ahead, 0, steps)
                if not job.done and news == last and job.last_listened - sent < HEARTBEAT:
                    self._change.wait(0.2)
                    news = None
            if job.done:
                break
            if job.cancelled.is_set():
                raise Cancelled("cancelled")
            if news is not None:
                last, sent = news, time.monotonic()
                yield news
        if job.error is not None:
            raise job.error
        yield job.result

    def _work_on(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    for job in self._waiting:
                        job.error, job.done = Cancelled("cancelled: the server is closing"), True
                    return self._change.notify_all()
                job = self._now = self._waiting.popleft()
                self._change.notify_all()
            result = error = None
            try:
                job.check()
                result = self._work(job, lambda news, job=job: self._report(job, news))
            except BaseException as caught:  # an error in one job must not stop the others
                error = caught
            with self._change:
                job.result, job.error, job.done, self._now = result, error, True, None
                self._change.notify_all()

    def _report(self, job: Job, news: Progress) -> None:
        with self._change:
            job.news = news
            self._change.notify_all()
