"""A queue of prompts and the one thread that uses the device: what comes together is answered in one batch."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from biomedgpt_jax.verbs.assistant import UNREAD_TOKENS, Assistant, Prompt, Said


@dataclass
class Job:
    """A prompt, and whom to tell.

    `tell` is called in the desk's thread: with what is said so far if someone `reads_along`, and with the whole or with
    what went wrong. Whoever no longer waits sets `dropped`.
    """

    prompt: Prompt
    tell: Callable[[Said | Exception], None]
    reads_along: bool
    dropped: bool = False


class AnswerDesk:
    """Answers jobs in the order they come, up to `assistant.rows` at a time.

    A batch begins when it is full or its first job has waited `wait_s`; what comes later waits for the next one.
    """

    def __init__(self, assistant: Assistant, wait_s: float):
        self._assistant, self._wait_s = assistant, wait_s
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._given_up = False
        self.batches = 0  # answered so far

    def open(self) -> None:
        self._thread.start()

    def ask(self, job: Job) -> None:
        self._jobs.put(job)

    def close(self, *, finish: bool = True) -> None:
        """Answers what was asked before, then ends; or else after the next token, for no thread may outlive JAX."""
        self._given_up = not finish
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs, last = self._others(job)
            jobs = [job for job in jobs if not job.dropped]
            if jobs and not self._given_up:
                self._answer(jobs)
                self.batches += 1
            if last:
                return

    def _others(self, first: Job) -> tuple[list[Job], bool]:
        """Those who come in time, and whether the desk is to close after them."""
        jobs, until = [first], time.monotonic() + self._wait_s
        while len(jobs) < self._assistant.rows:
            try:
                job = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _answer(self, jobs: list[Job]) -> None:
        waiting = dict(enumerate(jobs))
        try:
            underway = self._assistant.begin([job.prompt for job in jobs])
            while True:
                for number, job in list(waiting.items()):
                    said = underway.said[number]
                    if job.dropped:
                        underway.drop(number)
                    elif said.end or job.reads_along:
                        job.tell(said)
                    if job.dropped or said.end:
                        del waiting[number]
                if not waiting or self._given_up:
                    return
                underway.go_on(1 if any(job.reads_along for job in waiting.values()) else UNREAD_TOKENS)
        except Exception as error:  # whatever went wrong, those who wait must hear of it, and the desk goes on
            for job in waiting.values():
                job.tell(error)
