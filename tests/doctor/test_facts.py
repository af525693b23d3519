"""Folders are probed by writing, and left as they were."""

import pytest

from biomedgpt_jax.doctor.facts import gather_facts, made, marked, probe_folder, sees


def test_a_folder_is_probed_and_left_as_it_was(tmp_path):
    folder = tmp_path / "new" / "run"
    with made((str(folder), None)):
        probed = probe_folder(str(folder), 1 << 20)
        with marked(str(folder), "abc"):
            assert sees(str(folder), "abc")
            assert not sees(str(folder), "other")
            assert not sees(str(tmp_path), "abc")
    assert probed.error == ""
    assert probed.write_speed > 0
    assert probed.free is not None and probed.free > 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_stays(tmp_path):
    with made((str(tmp_path / "run"),)):
        (tmp_path / "run" / "of another").write_text("")
    assert (tmp_path / "run" / "of another").is_file()


@pytest.mark.parametrize("path", ["file/run", "gs://a-bucket-that-nobody-can-read-here/run"])
def test_what_cannot_be_written_is_said(tmp_path, path, monkeypatch):
    (tmp_path / "file").write_text("")
    target = path if path.startswith("gs:") else str(tmp_path / path)
    with made((target,)):
        probed = probe_folder(target, 1 << 10)
    assert probed.error
    assert probed.write_speed == 0


def test_facts_of_this_machine(tmp_path):
    facts = gather_facts(str(tmp_path), None)
    assert (facts.platform, facts.local_devices, facts.all_devices, facts.device_error) == ("cpu", 8, 8, "")
    assert {"jax", "flax", "python", "biomedgpt_jax"} <= facts.versions.keys()
    assert facts.memory_free > 100 << 20
    assert facts.workdir is not None and facts.workdir.error == ""
    assert facts.cache is None
