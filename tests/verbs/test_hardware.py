"""The mesh that a configuration takes for a slice."""

import math

import pytest

from biomedgpt_jax.core.topology import parse
from biomedgpt_jax.models.biomedgpt_config import PUBLISHED_PARAMETERS
from biomedgpt_jax.verbs import command_line, ledger
from biomedgpt_jax.verbs.hardware import mesh_for
from tests.command import biomedgpt, config


@pytest.mark.parametrize(
    ("hardware", "rows", "expected"),
    [
        ("v5e-16", 32, (1, 16, 1, 1)),
        ("v5e-64", 32, (1, 32, 1, 2)),  # more chips than rows: two share one
        ("v5e-64", 64, (1, 64, 1, 1)),
        ("v6e-256", 32, (1, 32, 1, 8)),
        ("2xv5e-256", 64, (2, 32, 1, 8)),
        ("v4-32", 32, (1, 16, 1, 1)),  # 16 chips
        ("v5p-32", 64, (1, 16, 1, 1)),
        ("tpu7x-32", 64, (1, 32, 1, 1)),  # 16 chips of two devices
        ("h100-1", 32, (1, 1, 1, 1)),
        ("a100-8", 32, (1, 8, 1, 1)),
        ("h100-32", 32, (4, 8, 1, 1)),  # four hosts
    ],
)
def test_a_slice_has_a_mesh(hardware, rows, expected):
    mesh = mesh_for(hardware, rows)
    assert tuple(mesh.values()) == expected and tuple(mesh) == ("data", "fsdp", "tensor", "context")
    assert math.prod(expected) == parse(hardware).devices
    assert rows % (mesh["data"] * mesh["fsdp"]) == 0


@pytest.mark.parametrize(
    ("size", "hardware", "expected"),
    [
        ("base", "v5e-16", (16, 1)),  # 3.4 GiB of 15.75
        ("large", "v5e-16", (4, 4)),  # 8.8 GiB
        ("huge", "v5e-16", (2, 8)),  # 17.3 GiB
        ("huge", "v6e-16", (4, 4)),  # of 31.25
        ("huge", "2xv5e-16", (4, 8)),
        ("huge", "v5e-4", (1, 4)),  # more than the share, on all there are
    ],
)
def test_a_small_model_is_not_split_thinly(size, hardware, expected):
    mesh = mesh_for(hardware, 256, PUBLISHED_PARAMETERS[size])
    assert (mesh["data"], mesh["fsdp"]) == expected and math.prod(mesh.values()) == parse(hardware).devices


def test_a_size_of_biomedgpt_says_how_far_it_is_split(monkeypatch):
    monkeypatch.setattr("sys.argv", ["biomedgpt"])
    found = command_line.parse(ledger, [config("biomedgpt.py:task=vqa,size=large,hardware=v5e-16,rows=256")]).config
    assert dict(found.mesh) == {"data": 4, "fsdp": 4, "tensor": 1, "context": 1}


def test_a_configuration_names_its_hardware(monkeypatch):
    monkeypatch.setattr("sys.argv", ["biomedgpt"])
    found = command_line.parse(ledger, [config("llama3_med.py:stage=2,hardware=2xv5e-256,rows=512")]).config
    assert found.train.batch_rows == 512 and dict(found.mesh) == {"data": 2, "fsdp": 256, "tensor": 1, "context": 1}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            "hardware=2xv5e-256",
            "has 512 devices for 32 rows in a step, and at most 8 devices share a row: give rows=64",
        ),
        ("hardware=v5e-63", "there is no such size; there are v5e-1, v5e-4"),
        ("hardware=v5x-64", "there is no chip 'v5x'"),
    ],
)
def test_hardware_that_cannot_be_is_refused(arguments, text):
    called = biomedgpt("ledger", config(f"llama3_med.py:stage=2,{arguments}"))
    assert called.code == 2 and text in called.err, called
