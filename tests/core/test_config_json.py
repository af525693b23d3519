import json
from dataclasses import dataclass
from enum import Enum

import pytest

from biomedgpt_jax.core.config_json import from_json, to_json
from biomedgpt_jax.core.errors import RunError


class Shade(Enum):
    DARK = "dark"


@dataclass(frozen=True)
class Ring:
    radius: float
    marks: tuple[int, ...]


@dataclass(frozen=True)
class Dot:
    shade: Shade


@dataclass(frozen=True)
class Picture:
    shape: Ring | Dot
    behind: Ring | None
    size: tuple[int, float]
    name: str


PICTURE = Picture(Dot(Shade.DARK), Ring(2.0, (1, 2, 3)), (4, 0.5), "x")


def test_there_and_back():
    text = json.dumps(to_json(PICTURE))
    assert from_json(Picture, json.loads(text), "file") == PICTURE


def test_whole_numbers_stay_floats():
    data = to_json(Ring(2.0, ()))
    data["radius"] = 2
    assert isinstance(from_json(Ring, data, "file").radius, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "extra"),
        ({"name": 3}, "expected str, found 3"),
        ({"shape": {"type": "Square"}}, "expected one of"),
    ],
)
def test_a_file_of_another_version_is_refused(change, message):
    with pytest.raises(RunError, match=message):
        from_json(Picture, to_json(PICTURE) | change, "model.json")
