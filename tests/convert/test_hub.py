"""An upload sends the folder's bytes; what the hub refuses is one clear message."""

import json

import huggingface_hub
import pytest

from biomedgpt_jax.convert.hub import check_name, push_folder
from biomedgpt_jax.core.errors import RunError, UsageError
from tests.convert.hub_server import Hub, serve_hub


@pytest.fixture
def folder(tmp_path):
    export = tmp_path / "export"
    export.mkdir()
    (export / "README.md").write_text("---\nlicense: other\n---\n")
    (export / "config.json").write_text(json.dumps({"a": 1}))
    (export / "model.safetensors").write_bytes(bytes(range(256)) * 500)
    return export


@pytest.fixture
def point_at(monkeypatch, tmp_path):
    """Makes the hub's library talk to an address, as the environment would in a new process."""

    def point(address, token):
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.hf_api, "ENDPOINT", address, raising=False)
        monkeypatch.setattr(huggingface_hub.hf_api.constants, "ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", token)
        huggingface_hub.utils._http.close_session()

    yield point
    monkeypatch.undo()
    huggingface_hub.utils._http.close_session()


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the hub's library of itself
def test_the_uploaded_bytes_are_the_folders(folder, point_at):
    hub = Hub("my-lab", "secret")
    with serve_hub(hub) as address:
        point_at(address, "secret")
        assert push_folder(folder, "my-lab/rad", private=True) == f"{address}/my-lab/rad"
        # Once more, into the repository that is there.
        push_folder(folder, "my-lab/rad", private=True)
    assert hub.repos == {"my-lab/rad": {file.name: file.read_bytes() for file in folder.iterdir()}}
    assert hub.private == {"my-lab/rad": True}


@pytest.mark.parametrize(
    ("token", "name", "message"),
    [
        ("wrong", "my-lab/rad", "answered 401: you are not logged in: run `hf auth login`"),
        ("secret", "others/rad", "answered 403: the token may not write to others/rad"),
    ],
)
def test_a_refusal_says_what_to_do(folder, point_at, token, name, message):
    with serve_hub(Hub("my-lab", "secret")) as address:
        point_at(address, token)
        with pytest.raises(RunError, match=message) as raised:
            push_folder(folder, name, private=False)
    assert f"The export in {folder} is whole" in str(raised.value)


def test_no_network(folder, point_at):
    with serve_hub(Hub("my-lab", "secret")) as address:
        pass
    point_at(address, "secret")
    with pytest.raises(RunError, match="cannot be reached"):
        push_folder(folder, "my-lab/rad", private=False)


@pytest.mark.parametrize("name", ["rad", "a/b/c", "my lab/rad", ""])
def test_names_that_are_none(name):
    with pytest.raises(UsageError, match="expected owner/name"):
        check_name(name)
