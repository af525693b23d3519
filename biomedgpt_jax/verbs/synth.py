"""Has a language model write instruction data from captions: conversations, descriptions, questions to reason about.

    biomedgpt synth --out=data/roco_synth --config=configs/synth.py:data=data/roco,provider=anthropic,model=MODEL

Prints what it will cost, asks, checks each answer against its caption, and writes OUT/prepared (data as of `biomedgpt
prepare`), OUT/rows (the same as files that prepare reads), rejects.jsonl, report.json and report.html. Every answer is
in OUT/journal.jsonl before it counts: the same command goes on after a kill, a budget or a breakdown, and pays for no
answer twice.

--estimate       print the estimate and end
--budget=5       stop before more than that can have been spent in this folder, by config.prices
--batch=write    write what is open to OUT/batches as batch files of the provider, instead of asking
--batch=send     hand these files to the provider;  --batch=fetch  take the results of those that have ended
--batch=read --results=FILE,FILE   take result files that were fetched by other means

Exit code 1: it ended before all was asked; standard error says why.
"""

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absl import flags

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.data.loopback import is_loopback
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.data.writer import locked
from biomedgpt_jax.synth.asking import Asker
from biomedgpt_jax.synth.asks import Settings, Task
from biomedgpt_jax.synth.batch_files import FOLDER as BATCHES
from biomedgpt_jax.synth.batch_files import read_results, write_batches
from biomedgpt_jax.synth.batch_service import Service, fetch_batches, send_batches
from biomedgpt_jax.synth.costs import Gauge, Prices, Purse, money
from biomedgpt_jax.synth.endpoint import Trouble, refuse_third_party, restricted
from biomedgpt_jax.synth.estimate import Estimate, estimate
from biomedgpt_jax.synth.grounding import read_terms
from biomedgpt_jax.synth.journal import Journal
from biomedgpt_jax.synth.material import Left
from biomedgpt_jax.synth.outcomes import Judge
from biomedgpt_jax.synth.prompts import Prompt
from biomedgpt_jax.synth.rates import Rates
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.progress import progress
from biomedgpt_jax.verbs.synth_report import finish, print_estimate
from biomedgpt_jax.verbs.synth_settings import (
    SECTIONS,
    address_of,
    open_endpoint,
    prices_of,
    prompts_of,
    retry_of,
    settings_of,
    splits_of,
    tasks_of,
)

EXAMPLE = (
    "biomedgpt synth --out=data/roco_synth --config=configs/synth.py:data=data/roco,provider=anthropic,model=MODEL"
)


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)
    flags.DEFINE_string("out", None, "Folder to write, and to go on in.", flag_values=values)
    flags.DEFINE_float("budget", None, "The most that may be spent in this folder.", flag_values=values)
    flags.DEFINE_boolean("estimate", False, "Print the estimate and end.", flag_values=values)
    flags.DEFINE_enum("batch", None, list(_BATCH), "Batch files instead of requests.", flag_values=values)
    flags.DEFINE_list("results", [], "Result files for --batch=read.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    config = command_line.require_config(values, EXAMPLE, SECTIONS)
    out = command_line.require_folder(values, "out", EXAMPLE)
    if bool(values.results) != (values.batch == "read"):
        raise UsageError("--results=FILE,FILE goes with --batch=read, and --batch=read with --results.")
    settings, prompts, splits = settings_of(config), prompts_of(config), splits_of(config)
    retry_of(config)
    prices = prices_of(config, values.budget)
    host = address_of(config).host
    refuse_third_party((split.manifest for split in splits), host, config.endpoint.credentialed_host)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out), Journal(out) as journal:
        judge = Judge(journal, read_terms(), config.checks.tries, config.limits.resend, out / BATCHES)
        work = Work(config, settings, prompts, splits, journal, judge, out, prices, values.budget)
        made = estimate(work.tasks(), judge, config.prices.image_tokens)
        _warn(work, made, host)
        print_estimate(make_console(), made, prices, config)
        if values.estimate:
            return 0
        ended = _BATCH[values.batch](work, values.results) if values.batch else _ask(work, made)
        finish(work.tasks, judge, work.facts(), out, ended)
    if ended:
        print(f"biomedgpt synth: {ended}. The same command goes on.", file=sys.stderr)
    return 1 if ended else 0


@dataclass
class Work:
    """All that a call works with."""

    config: Config
    settings: Settings
    prompts: tuple[Prompt, ...]
    splits: tuple[PreparedSplit, ...]
    journal: Journal
    judge: Judge
    out: Path
    prices: Prices | None
    budget: float | None

    def tasks(self) -> Iterator[Task]:
        return (task for task in self._all() if isinstance(task, Task))

    def left(self) -> dict[str, int]:
        """Rows that are no source, by reason."""
        counts: dict[str, int] = {}
        for each in self._all():
            if isinstance(each, Left):
                counts[each.reason] = counts.get(each.reason, 0) + 1
        return counts

    def facts(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "host": address_of(self.config).host,
            "prompts": {prompt.name: prompt.sha256 for prompt in self.prompts},
            "left": self.left(),
            "spent": vars(self.journal.spent),
            "money": money(self.journal.spent, self.prices) if self.prices else None,
            "budget": self.budget,
            "manifests": {split.name: split.manifest for split in self.splits},
        }

    def purse(self) -> Purse:
        return Purse(self.journal, self.prices, self.budget)

    def gauge(self) -> Gauge:
        return Gauge(self.config.prices.image_tokens)

    def _all(self) -> Iterator[Task | Left]:
        return tasks_of(self.config, self.splits, self.prompts, self.settings)


def _warn(work: Work, made: Estimate, host: str) -> None:
    """To standard error, counts alone."""
    names = restricted((split.manifest for split in work.splits), host)
    if names:
        print(f"warning: {', '.join(names)} goes to {host}; see whether its terms allow that", file=sys.stderr)
    if made.private and not is_loopback(host):
        counts = ", ".join(f"{code} {count}" for code, count in sorted(made.private.items()))
        print(f"warning: captions and mentions that go to {host} match patterns of {counts}", file=sys.stderr)


def _ask(work: Work, made: Estimate) -> str:
    """Asks what is open; why it ended early, or ""."""
    if not made.requests:
        return ""
    limits = work.config.limits
    rates = Rates(limits.requests_per_minute, limits.tokens_per_minute, threading.Event())
    with open_endpoint(work.config, work.settings) as endpoint, progress() as advance:
        asker = Asker(
            endpoint=endpoint,
            journal=work.journal,
            judge=work.judge,
            purse=work.purse(),
            rates=rates,
            gauge=work.gauge(),
            retry=retry_of(work.config),
            concurrency=limits.concurrency,
            say=lambda text: print(text, file=sys.stderr),
        )
        advance("ask", 0, made.tasks, _so_far(work))
        asker.ask_all(work.tasks(), lambda done: advance("ask", done, made.tasks, _so_far(work)))
    for why, count in sorted(asker.met.items()):
        print(f"met {count} times: {why}", file=sys.stderr)
    return asker.ended


def _so_far(work: Work) -> str:
    spent = work.journal.spent
    if work.prices is None:
        return f"{spent.input_tokens + spent.output_tokens} tokens"
    return f"{money(spent, work.prices):.4g} {work.prices.currency}"


def _write(work: Work, results: list[str]) -> str:
    files, empty = write_batches(work.tasks(), work.judge, work.journal, work.purse(), work.gauge(), work.out / BATCHES)
    for file in files:
        print(f"wrote {file}")
    return "the budget allows no other request" if empty else ""


def _send(work: Work, results: list[str]) -> str:
    return _serve(
        work, lambda service: print(*(f"sent {file}" for file in send_batches(service, work.out / BATCHES)), sep="\n")
    )


def _fetch(work: Work, results: list[str]) -> str:
    def fetch(service: Service) -> None:
        ended, others = fetch_batches(service, work.out / BATCHES)
        for name, state in others.items():
            print(f"{name}: {state}")
        _take(work, [str(file) for file in ended])

    return _serve(work, fetch)


def _take(work: Work, results: list[str]) -> str:
    host = address_of(work.config).host
    for file in results:
        read = read_results(Path(file), host, work.settings.protocol, work.journal)
        print(
            f"{file}: {read.answers} answers, {read.known} known before, {read.unpaid} to be asked again, "
            f"{read.failed} refused, {len(read.strange)} lines left out"
        )
        for line in read.strange[:10]:
            print(f"left out {line}", file=sys.stderr)
    return ""


def _serve(work: Work, do: Any) -> str:
    """Why the provider would not, or ""."""
    with open_endpoint(work.config, work.settings) as endpoint:
        client: Any = endpoint
        try:
            do(Service(client.client, work.settings.protocol, address_of(work.config)))
        except Trouble as error:
            return str(error)
    return ""


_BATCH = {"write": _write, "send": _send, "fetch": _fetch, "read": _take}
