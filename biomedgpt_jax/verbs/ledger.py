"""Lists the parameters of a configuration: what is trained, at which rate, in which type, bytes per device.

    biomedgpt ledger --config=configs/llama3_med.py:stage=2,tune=lora

From shapes alone: no weights, no data, no accelerator.
"""

from absl import flags

from biomedgpt_jax.train.ledger import make_ledger, print_ledger
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.model_spec import spec_from_config
from biomedgpt_jax.verbs.train import SECTIONS, build_parts

EXAMPLE = "biomedgpt ledger --config=configs/llama3_med.py:stage=2,tune=lora"


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)


def run(values: flags.FlagValues) -> None:
    config = command_line.require_config(values, EXAMPLE, SECTIONS)
    parts = build_parts(config, spec_from_config(config), total_steps=1)
    print_ledger(make_ledger(parts.abstract, parts.optimizer), make_console())
