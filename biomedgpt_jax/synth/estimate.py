"""What is still to be asked, and what that will cost, before anything is sent."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from biomedgpt_jax.data.lint.privacy import PATTERNS
from biomedgpt_jax.synth.asks import Task
from biomedgpt_jax.synth.costs import BYTES_PER_TOKEN, MESSAGE_TOKENS, Prices
from biomedgpt_jax.synth.outcomes import Accepted, Judge, Open, Rejected, Waiting


@dataclass
class Estimate:
    """`requests`: one for each task that is open; `input_tokens` about, `output_tokens` at most what those take.
    `private`: sources that hold what looks like a name, a date or a number of a record, by code.
    """

    tasks: int = 0
    accepted: int = 0
    rejected: int = 0
    waiting: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    mentions_left: int = 0
    private: Counter[str] = field(default_factory=Counter)

    def money(self, prices: Prices) -> float:
        """Of one request for each open task, if all answers are as long as they may be."""
        return prices.of(self.input_tokens, self.output_tokens)


def estimate(tasks: Iterable[Task], judge: Judge, image_tokens: int) -> Estimate:
    made = Estimate()
    told = set()
    for task in tasks:
        made.tasks += 1
        outcome = judge.look(task)
        made.accepted += isinstance(outcome, Accepted)
        made.rejected += isinstance(outcome, Rejected)
        made.waiting += isinstance(outcome, Waiting)
        if not isinstance(outcome, Open):
            continue
        size, images = task.size(outcome.told)
        made.requests += 1
        made.input_tokens += round(size / BYTES_PER_TOKEN) + MESSAGE_TOKENS + images * image_tokens
        made.output_tokens += task.settings.max_tokens
        if task.source.id not in told:
            told.add(task.source.id)
            made.mentions_left += task.source.mentions_left
            made.private.update(code for code, pattern in PATTERNS.items() if pattern.search(task.source.text))
    return made
