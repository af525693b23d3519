"""BiomedGPT through the command line, from shapes alone and in a tiny run."""


import pytest

from tests.command import biomedgpt, config

PUBLISHED = {"tiny": "33,488,336", "medium": "92,892,000", "base": "182,238,536", "large": "472,977,152"}


@pytest.mark.parametrize("size", [*PUBLISHED, "huge"])
def test_the_ledger_counts_as_published(size):
    called = biomedgpt("ledger", config(f"biomedgpt.py:task=vqa,size={size}"))
    assert called.code == 0, called
    text = " ".join(called.out.split())
    assert f"{(PUBLISHED | {'huge': '929,486,848'})[size]} parameters" in text
    width = {"tiny": 256, "medium": 512, "base": 768, "large": 1024, "huge": 1280}[size]
    assert f"Not counted: {63 * width:,} of padding" in text
