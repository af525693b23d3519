"""DICOM to RGB: rescale, window, MONOCHROME1, palettes, frames. Needs the extra `medical` (imported when
used).

Formulas: DICOM PS3.3 C.7.6.3 (photometric interpretation), C.11.1 (modality) and C.11.2.1.2 (VOI window).
"""

import io
import warnings
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.limits import MAX_FILE_BYTES, MAX_PIXELS, refuse_bytes, refuse_pixels

T = TypeVar("T")
DEFLATED = b"1.2.840.10008.1.2.1.99"  # the transfer syntax whose data set is compressed by zlib
# Fields that may name a person or a place, or lead to one (of the basic confidentiality profile of PS3.15 E.1).
IDENTIFYING = (
    "PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName",
    "PatientBirthDate", "PatientBirthTime", "PatientAddress", "PatientTelephoneNumbers", "PatientComments",
    "MedicalRecordLocator", "MilitaryRank", "EthnicGroup", "Occupation", "AdditionalPatientHistory", "AccessionNumber",
    "StudyID", "StudyDate", "SeriesDate", "AcquisitionDate", "AcquisitionDateTime", "ContentDate", "AdmissionID",
    "ReferringPhysicianName", "ReferringPhysicianAddress", "ReferringPhysicianTelephoneNumbers", "PhysiciansOfRecord",
    "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "RequestingPhysician", "OperatorsName",
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber",
)  # fmt: skip
INSTALL = "DICOM needs pydicom and its decoders: pip install 'biomedgpt-jax[medical]'"


def is_dicom(data: bytes) -> bool:
    """True for a DICOM part-10 file (128 bytes, then DICM)."""
    return data[128:132] == b"DICM"


def decode(data: bytes, name: str = "image", frame: int = 0, window: tuple[float, float] | None = None) -> np.ndarray:
    """A DICOM file -> uint8 [h w 3].

    Grey: modality rescale or LUT, then the window (centre, width) given here, else the header's first window,
    else the header's VOI LUT, else the image's own range without its padding value; MONOCHROME1 is inverted.
    Colour: RGB as stored, YBR and palettes converted. Raises DataError with the reason.
    """
    return _read(data, name, lambda dataset: _render(dataset, name, frame, window))


def frame_count(data: bytes, name: str = "image") -> int:
    """Number of frames of a DICOM file."""
    return _read(data, name, lambda dataset: _frames(dataset, name))


def identifying(data: bytes, name: str = "image") -> tuple[str, ...]:
    """Names of the fields of `IDENTIFYING` that a DICOM file fills, and BurnedInAnnotation where it says YES; not what
    they hold.
    """

    def filled(dataset: Any) -> tuple[str, ...]:
        burned = ("BurnedInAnnotation",) if dataset.get("BurnedInAnnotation") == "YES" else ()
        return (*(field for field in IDENTIFYING if str(dataset.get(field) or "").strip()), *burned)

    return _read(data, name, filled)


def _read(data: bytes, name: str, use: Callable[[Any], T]) -> T:
    try:
        import pydicom
    except ImportError as reason:
        raise DataError(f"{name}: {INSTALL}") from reason
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd but readable headers are common in real files
            _refuse_inflated_bomb(data, name)
            return use(pydicom.dcmread(io.BytesIO(data)))
    except DataError:
        raise
    # pydicom and the codec plugins raise nearly every kind of exception on damaged files.
    except Exception as reason:
        raise DataError(f"{name}: not a readable DICOM image ({len(data)} bytes): {reason}") from reason


def _refuse_inflated_bomb(data: bytes, name: str) -> None:
    """Counts what a deflated file holds, a piece at a time: pydicom would inflate it as a whole."""
    if DEFLATED not in data[132:2048]:
        return
    stream, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
    rest = data[144 + int.from_bytes(data[140:144], "little") :]  # behind group 2, whose length is its first element
    while rest and count <= MAX_FILE_BYTES:
        count += len(stream.decompress(rest, 1 << 20))
        rest = stream.unconsumed_tail
    refuse_bytes(count, f"{name}, inflated")


def _render(dataset: Any, name: str, frame: int, window: tuple[float, float] | None) -> np.ndarray:
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    if "PixelData" not in dataset:
        raise DataError(f"{name}: this DICOM file holds no image ({dataset.get('SOPClassUID', 'no SOP class')})")
    rows, columns, samples = dataset.Rows, dataset.Columns, dataset.SamplesPerPixel
    # Compressed pixels may be few bytes and say that they are many.
    refuse_pixels(rows * columns * samples, 3 * MAX_PIXELS, name, f"{rows} x {columns} of {samples} samples")
    frames = _frames(dataset, name)
    if not 0 <= frame < frames:
        raise DataError(f"{name}: frame {frame} asked, the file holds frames 0 to {frames - 1}")
    pixels = pixel_array(dataset, index=frame)
    kind = dataset.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        return _to_bytes(pixels, 8 if kind != "PALETTE COLOR" else pixels.dtype.itemsize * 8)
    grey = _grey(dataset, pixels, frame, window)
    if (kind == "MONOCHROME1") != (dataset.get("PresentationLUTShape") == "INVERSE" and kind == "MONOCHROME2"):
        grey = 255 - grey
    return np.repeat(grey[..., None], 3, axis=-1)


def _grey(dataset: Any, stored: np.ndarray, frame: int, window: tuple[float, float] | None) -> np.ndarray:
    """Stored values [h w] -> uint8 [h w], before any inversion."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    transform = _frame_item(dataset, frame, "PixelValueTransformationSequence")
    values = np.asarray(apply_modality_lut(stored, transform), np.float64)
    voi = _frame_item(dataset, frame, "FrameVOILUTSequence")
    if window is None and "WindowCenter" in voi and "WindowWidth" in voi:
        window = _first(voi.WindowCenter), _first(voi.WindowWidth)
    if window is not None:
        return apply_window(values, *window, function=voi.get("VOILUTFunction") or "LINEAR")
    if dataset.get("VOILUTSequence"):
        table = apply_voi(values.astype(stored.dtype), dataset)
        return _to_bytes(table, int(dataset.VOILUTSequence[0].LUTDescriptor[2]))
    padding = dataset.get("PixelPaddingValue")
    inside = values if padding is None else values[stored != padding]
    low, high = (inside.min(), inside.max()) if inside.size else (0.0, 0.0)
    shown = (values - low) * 255.0 / (high - low if high > low else np.inf)
    return np.rint(np.clip(shown, 0, 255)).astype(np.uint8)


def apply_window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """VOI window of PS3.3 C.11.2.1.2, to uint8. `function`: LINEAR, LINEAR_EXACT or SIGMOID."""
    if (width < 1 and function == "LINEAR") or width <= 0:
        raise DataError(f"window width {width} is not usable ({function})")
    if function == "SIGMOID":
        shown = 1.0 / (1.0 + np.exp(-4.0 * (values - center) / width))
    elif function == "LINEAR_EXACT":
        shown = (values - center) / width + 0.5
    else:
        shown = (values - (center - 0.5)) / max(width - 1.0, 1e-9) + 0.5
    return np.rint(np.clip(shown, 0.0, 1.0) * 255.0).astype(np.uint8)


def _frames(dataset: Any, name: str) -> int:
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames < 1:
        raise DataError(f"{name}: NumberOfFrames is {frames}; expected 1 or more")
    return frames


def _frame_item(dataset: Any, frame: int, sequence: str) -> Any:
    """The functional group of this frame in enhanced multi-frame files, else the data set itself."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or []
    candidates = list(groups[frame : frame + 1]) + list(dataset.get("SharedFunctionalGroupsSequence") or [])
    for group in candidates:
        if group.get(sequence):
            return group[sequence][0]
    return dataset


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, (list, tuple)) or hasattr(value, "__getitem__") else value)


def _to_bytes(values: np.ndarray, bits: int) -> np.ndarray:
    if bits <= 8 and values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    return np.rint(np.clip(values.astype(np.float64) * (255.0 / (2**bits - 1)), 0, 255)).astype(np.uint8)
