"""From the configuration of `biomedgpt synth` to what the package synth works with; every wrong value is named here."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.data.loopback import is_loopback
from biomedgpt_jax.data.source import PreparedSplit
from biomedgpt_jax.synth import anthropic_client, openai_client
from biomedgpt_jax.synth.asking import Retry
from biomedgpt_jax.synth.asks import Form, Protocol, Settings, Task
from biomedgpt_jax.synth.costs import Prices
from biomedgpt_jax.synth.endpoint import Address, Opened
from biomedgpt_jax.synth.languages import LANGUAGES
from biomedgpt_jax.synth.material import Left, sources
from biomedgpt_jax.synth.prompts import FOLDER, KINDS, Prompt, read_prompt
from biomedgpt_jax.verbs.command_line import Config, suggest

SECTIONS = ("synth", "endpoint", "checks", "limits", "prices")
_CLIENTS = {Protocol.ANTHROPIC: anthropic_client, Protocol.OPENAI: openai_client}
# OpenAI's own models know the new name alone, most other servers the old one.
_TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")


def settings_of(config: Config) -> Settings:
    """Raises UsageError for a value that cannot be."""
    asked, checks = config.endpoint, config.checks
    if not asked.model:
        raise UsageError("config.endpoint.model is empty; name the model, with configs/synth.py:model=NAME.")
    _one_of("synth.language", config.synth.language, LANGUAGES)
    words = {kind: _bounds(f"checks.{kind}_words", checks[f"{kind}_words"]) for kind in KINDS}
    _positive("endpoint.max_tokens", asked.max_tokens)
    _positive("checks.tries", checks.tries)
    extra = asked.extra.to_dict() | ({} if asked.temperature is None else {"temperature": asked.temperature})
    own = address_of(config).host == openai_client.OWN_HOST
    token_field = asked.token_field or _TOKEN_FIELDS[own]
    return Settings(
        protocol=_protocol(config),
        model=asked.model,
        max_tokens=asked.max_tokens,
        token_field=_one_of("endpoint.token_field", token_field, _TOKEN_FIELDS),
        extra=extra,
        send_images=config.synth.send_images,
        form=Form(config.synth.language, _bounds("checks.turns", checks.turns), words),
    )


def address_of(config: Config) -> Address:
    """With the key of the environment, which may be missing; see `require_key`."""
    asked, client = config.endpoint, _CLIENTS[_protocol(config)]
    if asked.timeout <= 0:
        raise UsageError(f"config.endpoint.timeout = {asked.timeout}: expected seconds above 0.")
    variable = asked.key_variable or client.KEY_VARIABLE
    return Address(asked.url or client.URL, os.environ.get(variable, ""), variable, asked.timeout, asked.stream)


def open_endpoint(config: Config, settings: Settings) -> Opened:
    """Raises UsageError without a key, which only endpoints on this machine can do without."""
    address = address_of(config)
    if not address.key and is_loopback(address.host):
        address = replace(address, key="none")
    if not address.key:
        raise UsageError(
            f"The variable {address.key_variable} of the environment, with the key for {address.host}, is not set. "
            "Keys are read from there alone."
        )
    opened = {Protocol.ANTHROPIC: anthropic_client.open_anthropic, Protocol.OPENAI: openai_client.open_openai}
    return opened[settings.protocol](address, settings)


def prompts_of(config: Config) -> tuple[Prompt, ...]:
    folder = Path(config.synth.prompts_folder) if config.synth.prompts_folder else FOLDER
    names = config.synth.prompts
    if not names or len(set(names)) < len(names):
        raise UsageError(f"config.synth.prompts = {tuple(names)}: expected at least one name, none twice.")
    prompts = tuple(read_prompt(name, folder) for name in names)
    if len({prompt.kind for prompt in prompts}) < len(prompts):
        raise UsageError(f"config.synth.prompts = {tuple(names)}: expected one version of each kind.")
    return prompts


def splits_of(config: Config) -> tuple[PreparedSplit, ...]:
    paths = config.synth.data
    if not paths:
        raise UsageError("config.synth.data is empty; name prepared folders, with configs/synth.py:data=FOLDER.")
    if config.synth.rows < 0:
        raise UsageError(f"config.synth.rows = {config.synth.rows}: expected 0 (all) or more.")
    return tuple(PreparedSplit(path, config.synth.split) for path in dict.fromkeys(paths))


def tasks_of(
    config: Config, splits: tuple[PreparedSplit, ...], prompts: tuple[Prompt, ...], settings: Settings
) -> Iterator[Task | Left]:
    """A task for each source and prompt, none twice, in the order of the data; and the rows that are no source."""
    seen: set[str] = set()
    for split in splits:
        for source in sources(split, config.synth.rows, config.synth.seed, config.synth.caption):
            if isinstance(source, Left):
                yield source
                continue
            for task in (Task(source, prompt, settings) for prompt in prompts):
                if task.key not in seen:
                    seen.add(task.key)
                    yield task


def prices_of(config: Config, budget: float | None) -> Prices | None:
    """Raises UsageError for one price without the other, or a budget or images without what they cost."""
    given = config.prices
    known = [price is not None for price in (given.input, given.output)]
    if any(known) and not all(known):
        raise UsageError("config.prices has one of input and output; give both, of a million tokens.")
    if any(known) and min(given.input, given.output) < 0:
        raise UsageError("config.prices: expected no price below 0.")
    if budget is not None and not any(known):
        raise UsageError(
            "--budget needs prices: --config.prices.input=... --config.prices.output=... of a million tokens, as your "
            "provider states them for this model. None are built in."
        )
    if budget is not None and budget <= 0:
        raise UsageError(f"--budget={budget:g}: expected more than 0.")
    if config.synth.send_images and any(known) and not given.image_tokens:
        raise UsageError("config.prices.image_tokens is 0; say what an image costs, or leave the prices out.")
    return Prices(given.input, given.output, given.currency) if any(known) else None


def retry_of(config: Config) -> Retry:
    limits = config.limits
    for name in ("concurrency", "attempts", "first_seconds", "longest_seconds"):
        _positive(f"limits.{name}", limits[name])
    for name in ("requests_per_minute", "tokens_per_minute"):
        if limits[name] < 0:
            raise UsageError(f"config.limits.{name} = {limits[name]}: expected 0 (no limit) or more.")
    return Retry(limits.attempts, limits.first_seconds, limits.longest_seconds)


def _protocol(config: Config) -> Protocol:
    return Protocol(_one_of("endpoint.provider", config.endpoint.provider, tuple(each.value for each in Protocol)))


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UsageError(f"config.{key} = {value!r}: expected one of {', '.join(choices)}.{suggest(value, choices)}")
    return value


def _positive(key: str, value: float | int) -> None:
    if value <= 0:
        raise UsageError(f"config.{key} = {value}: expected more than 0.")


def _bounds(key: str, value: tuple[int, int]) -> tuple[int, int]:
    if len(value) != 2 or not 1 <= value[0] <= value[1]:
        raise UsageError(f"config.{key} = {tuple(value)}: expected a least and a most, such as (3, 8).")
    return int(value[0]), int(value[1])
