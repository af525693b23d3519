"""Grouping and splitting."""

from biomedgpt_jax.data.splits import group_keys, hash_split, split_groups


def test_chains_of_shared_cases_are_one_group():
    links = [("c", "1"), ("b", "1"), ("b", "2"), ("a", "2"), ("d", "3")]
    assert group_keys(links) == {"a": "a", "b": "a", "c": "a", "d": "d"}
    assert group_keys(reversed(links)) == group_keys(links)


def test_hash_split_is_stable_and_close_to_the_shares():
    shares = (("test", 20), ("validation", 10))
    # sha256("abc") = ba7816bf...15ad, modulo 100 is 65.
    assert hash_split("abc", shares, "train") == "train"
    split = split_groups({str(i): str(i) for i in range(4000)}, shares, "train")
    counts = {name: list(split.values()).count(name) for name in ("train", "validation", "test")}
    assert 700 < counts["test"] < 900
    assert 330 < counts["validation"] < 470
