import numpy as np
import pytest
import torch

from biomedgpt_jax.convert.torch_file import TorchFile
from biomedgpt_jax.core.errors import RunError


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_reads_what_torch_saves_in_every_dtype_and_layout(tmp_path, zipped):
    base = torch.randn(4, 6)
    tensors = {
        "plain": torch.randn(3, 5),
        "transposed": base.t(),
        "slice of a storage": base[1:3, 2:5],
        "bfloat16": torch.randn(7).to(torch.bfloat16),
        "half": torch.randn(2, 2).to(torch.float16),
        "long": torch.arange(5),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    read = TorchFile(tmp_path / "a.pth")
    assert set(read) == set(tensors)
    for key, tensor in tensors.items():
        found = read[key]
        assert str(found.dtype) == str(tensor.dtype).removeprefix("torch."), key
        np.testing.assert_array_equal(found.astype(np.float64), tensor.detach().double().numpy(), err_msg=key)


def test_a_module_state_dict_is_read(tmp_path):
    layer = torch.nn.Linear(3, 2)
    torch.save(layer.state_dict(), tmp_path / "a.pth")
    read = TorchFile(tmp_path / "a.pth")
    np.testing.assert_array_equal(read["weight"], layer.weight.detach().numpy())


class _Trap:
    def __reduce__(self):
        import os

        return os.mkdir, ("trapped",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])
def test_code_in_the_file_is_refused_and_does_not_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(1), "trap": _Trap()}, "a.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(RunError, match=r"asks for posix.mkdir.*can run code"):
        TorchFile("a.pth")
    assert not (tmp_path / "trapped").exists()


def test_bad_files_are_named(tmp_path):
    file = tmp_path / "a.pth"
    with pytest.raises(RunError, match="is not a file"):
        TorchFile(file)
    torch.save({"model": {"weight": torch.ones(1)}}, file)
    with pytest.raises(RunError, match="entry 'model' is no tensor"):
        TorchFile(file)
    torch.save({"weight": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(RunError, match="not a PyTorch weight file"):
        TorchFile(file)
    torch.save(torch.ones(1), file)
    with pytest.raises(RunError, match="expected the file to be a dict of tensors"):
        TorchFile(file)
