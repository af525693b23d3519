"""Named, versioned ways to score an answer. A score is only comparable with one of the same protocol.

A change that could move any number makes a new version; a published version never changes. Each family is in a file of
its own, with its source and its known faults.
"""

from biomedgpt_jax.core.errors import UsageError
from biomedgpt_jax.eval.biomedgpt import BIOMEDGPT_CAPTION_V1, BIOMEDGPT_SUMMARY_V1, BIOMEDGPT_V1
from biomedgpt_jax.eval.captions import CAPTION_V1, REPORT_V1
from biomedgpt_jax.eval.classes import CLASSIFY_V1, MEDMNIST_V1
from biomedgpt_jax.eval.llava_med import LLAVA_MED_V1
from biomedgpt_jax.eval.pmc_vqa import PMC_VQA_V1
from biomedgpt_jax.eval.protocol import Protocol
from biomedgpt_jax.eval.strict import STRICT_V1
from biomedgpt_jax.eval.summaries import SUMMARY_V1

ALL = (
    STRICT_V1,
    LLAVA_MED_V1,
    BIOMEDGPT_V1,
    PMC_VQA_V1,
    CLASSIFY_V1,
    MEDMNIST_V1,
    REPORT_V1,
    CAPTION_V1,
    BIOMEDGPT_CAPTION_V1,
    SUMMARY_V1,
    BIOMEDGPT_SUMMARY_V1,
)
PROTOCOLS = {protocol.id: protocol for protocol in ALL}


def protocol(name: str) -> Protocol:
    """The protocol called "name/version"; UsageError names the known ones."""
    if name not in PROTOCOLS:
        raise UsageError(f"unknown metric protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
