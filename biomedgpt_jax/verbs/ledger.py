"""Lists the parameters of a configuration: what is trained, at which rate, in which type, bytes per device.

    biomedgpt ledger --config=configs/llama3_med.py:stage=2,tune=lora
    biomedgpt ledger --config=configs/biomedgpt.py:size=huge

From shapes alone: no weights, no data, no accelerator.
"""

from absl import flags

from biomedgpt_jax.train.ledger import print_ledger
from biomedgpt_jax.verbs import command_line
from biomedgpt_jax.verbs.console import make_console
from biomedgpt_jax.verbs.families import training_config
from biomedgpt_jax.verbs.train import build_parts

EXAMPLE = "biomedgpt ledger --config=configs/llama3_med.py:stage=2,tune=lora"


def define(values: flags.FlagValues) -> None:
    command_line.define_config(values, None)


def run(values: flags.FlagValues) -> None:
    parts = build_parts(training_config(values, EXAMPLE), total_steps=1)
    print_ledger(parts.ledger(), make_console())
