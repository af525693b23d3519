"""DICOM rendering on files written here, checked against the standard's formulas."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from biomedgpt_jax.data import dicom
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.images import decode_rgb, storable


def dicom_bytes(pixels, photometric="MONOCHROME2", **fields):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3.4"
    dataset.PhotometricInterpretation = photometric
    dataset.SamplesPerPixel = 3 if photometric == "RGB" else 1
    if photometric == "RGB":
        dataset.PlanarConfiguration = 0
    spatial = pixels.shape[:-1] if photometric == "RGB" else pixels.shape
    if len(spatial) == 3:
        dataset.NumberOfFrames = spatial[0]
    dataset.Rows, dataset.Columns = spatial[-2:]
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in fields.items():
        setattr(dataset, name, value)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


STORED = np.array([[0, 1000, 1024, 1064, 1104, 3000]], np.int16)


def test_rescale_then_window():
    data = dicom_bytes(STORED, RescaleSlope="1", RescaleIntercept="-1024", WindowCenter=40, WindowWidth=100)
    hounsfield = STORED[0].astype(float) - 1024
    expected = np.clip(((hounsfield - 39.5) / 99 + 0.5), 0, 1) * 255
    shown = decode_rgb(data, (0, 0, 0))
    assert shown.shape == (1, 6, 3)
    np.testing.assert_array_equal(shown[0, :, 0], np.rint(expected))
    np.testing.assert_array_equal(shown[..., 0], shown[..., 2])
    wide = dicom.decode(data, window=(40.0, 2000.0))
    assert 100 < wide[0, 2, 0] < 140  # water in the middle of a wide window


def test_monochrome1_is_inverted():
    plain = dicom.decode(dicom_bytes(STORED, WindowCenter=1000, WindowWidth=2000))
    inverted = dicom.decode(dicom_bytes(STORED, "MONOCHROME1", WindowCenter=1000, WindowWidth=2000))
    np.testing.assert_array_equal(inverted, 255 - plain)
    assert plain[0, 0, 0] == 0


def test_without_a_window_the_range_leaves_out_padding():
    pixels = np.array([[-2000, 0, 50, 100]], np.int16)
    padded = dicom.decode(dicom_bytes(pixels, PixelPaddingValue=-2000))
    assert padded[0, :, 0].tolist() == [0, 0, 128, 255]
    assert dicom.decode(dicom_bytes(pixels))[0, 1, 0] == 243


@pytest.mark.parametrize(
    ("function", "expected"), [("LINEAR_EXACT", [0, 128, 255]), ("SIGMOID", [30, 128, 225]), ("LINEAR", [0, 129, 255])]
)
def test_window_functions(function, expected):
    # sigmoid at half a width from the centre: 1 / (1 + e^2)
    shown = dicom.apply_window(np.array([-50.0, 0.0, 50.0]), 0.0, 100.0, function)
    assert shown.tolist() == expected


def test_frames_and_colour():
    frames = np.stack([np.full((2, 3), value, np.uint8) for value in (10, 200)])
    data = dicom_bytes(frames, WindowCenter=128, WindowWidth=256)
    assert dicom.frame_count(data) == 2
    assert [int(dicom.decode(data, frame=i)[0, 0, 0]) for i in (0, 1)] == [10, 200]
    with pytest.raises(DataError, match="frames 0 to 1"):
        dicom.decode(data, "echo.dcm", frame=2)
    rgb = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(dicom.decode(dicom_bytes(rgb, "RGB")), rgb)


def test_storable_renders_grey_png():
    png = storable(dicom_bytes(STORED, WindowCenter=1000, WindowWidth=2000), "scan.dcm")
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode, image.size) == ("PNG", "L", (6, 1))


def test_bad_dicom_names_the_file():
    data = dicom_bytes(np.zeros((64, 64), np.int16))
    with pytest.raises(DataError, match=r"ct9\.dcm: not a readable DICOM image"):
        decode_rgb(data[:2000], (0, 0, 0), "ct9.dcm")
    empty = pydicom.dcmread(io.BytesIO(data))
    del empty.PixelData
    out = io.BytesIO()
    empty.save_as(out)
    with pytest.raises(DataError, match="holds no image"):
        dicom.decode(out.getvalue())


def test_real_files_of_pydicom():
    path = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    with open(path, "rb") as file:
        shown = dicom.decode(file.read(), "CT_small.dcm")
    assert shown.shape == (128, 128, 3)
    assert shown.min() == 0
    assert shown.max() == 255


def test_without_pydicom_the_error_says_what_to_install():
    script = """
import sys
sys.modules["pydicom"] = None
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.images import decode_rgb
try:
    decode_rgb(bytes(128) + b"DICM", (0, 0, 0), "ct.dcm")
except DataError as error:
    print(error)
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.startswith("ct.dcm: DICOM needs pydicom")
    assert "biomedgpt-jax[medical]" in done.stdout
