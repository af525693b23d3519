"""Splits by image and case, so that nothing of a test patient is seen in training."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from biomedgpt_jax.data.rows import BadRow, Row
from biomedgpt_jax.data.spec import RawSplit

# Percent of the keys; the rest is for training.
HELD_OUT = (("test", 20), ("validation", 10))


def group_keys(links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """For (image, case) pairs: image -> the least image name of its group.

    Two images are in one group when a chain of shared cases joins them.
    """
    parent: dict[str, str] = {}

    def find(node: str) -> str:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    images = set()
    for image, case in links:
        images.add(image)
        parent[find("image:" + image)] = find("case:" + case)
    least: dict[str, str] = {}
    for image in sorted(images):
        least.setdefault(find("image:" + image), image)
    return {image: least[find("image:" + image)] for image in images}


def hash_split(key: str, shares: Sequence[tuple[str, int]], rest: str) -> str:
    """The split of a key: sha256(key) modulo 100 against cumulated percent shares, else `rest`.

    Independent of order and of the other keys: adding data never moves a sample to another split.
    """
    bucket = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100
    limit = 0
    for name, share in shares:
        limit += share
        if bucket < limit:
            return name
    return rest


def split_groups(keys: Mapping[str, str], shares: Sequence[tuple[str, int]], rest: str) -> dict[str, str]:
    """Image -> split, all images of a group in the same split."""
    return {image: hash_split(key, shares, rest) for image, key in keys.items()}


def split_rows(
    rows: Callable[[], Iterable[Row | BadRow]],
    key: Callable[[Row], str],
    shares: Sequence[tuple[str, int]] = HELD_OUT,
    rest: str = "train",
) -> dict[str, RawSplit]:
    """Rows that come unsplit, by `hash_split` of their key (a patient, an image). Bad rows are told with `rest`."""

    def part(split: str) -> Iterator[Row | BadRow]:
        for row in rows():
            if split == (rest if isinstance(row, BadRow) else hash_split(key(row), shares, rest)):
                yield row

    names = (rest, *(name for name, _ in reversed(shares)))
    return {name: RawSplit(lambda name=name: part(name), None) for name in names}
