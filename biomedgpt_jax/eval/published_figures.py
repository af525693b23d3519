"""What papers and their repositories report, as rows of `published.Figure`.

Only figures whose source is known stand here; those that were taken from memory, or that two sources give
differently, say so. Nothing is converted: what a metric means is in `metric`, and `protocol` is empty where no
protocol of ours computes the same number.
"""

from biomedgpt_jax.eval.published import ALL, UNSTATED, Figure

NOTEBOOK = "LLaVA-Med v1.0.0, the notebook of its results"
TABLE = "LLaVA-Med v1.0.0, table of fine-tuned models"
LITERATURE = "other papers, as LLaVA-Med v1.0.0's table quotes them"
HUATUO = "HuatuoGPT-Vision, README"
NATURE = "BiomedGPT, Nature Medicine 2024 (arXiv 2305.17100), as summaries quote it"
RECALL, CLOSED = "recall of the truth's words", "yes/no accuracy"
ZERO, TUNED = "zero-shot", "fine-tuned"
FROM_MEMORY = "taken from memory, not checked against the paper"

# Data set, ours with the same test questions, which of them, how many: the six columns of LLaVA-Med's tables.
_SIX = (
    ("vqa_rad", ("vqa_rad_official",), "open", 179),
    ("vqa_rad", ("vqa_rad_official",), "closed", 272),
    ("slake", ("slake",), "open", 645),
    ("slake", ("slake",), "closed", 416),
    ("path_vqa", ("path_vqa",), "open", 3370),
    ("path_vqa", ("path_vqa",), "closed", 3391),
)


def _llava_med(model: str, setting: str, values: tuple[float, ...], source: str) -> list[Figure]:
    """A row of LLaVA-Med's tables: recall of open and accuracy of closed questions."""
    named = {"open": (RECALL, "llava-med/v1", "recall"), "closed": (CLOSED, "llava-med/v1", "accuracy")}
    return [
        Figure(model, setting, data, exact, kind, n, *named[kind], value, None, source)
        for (data, exact, kind, n), value in zip(_SIX, values, strict=True)
    ]


def _quoted(model: str, values: tuple[float | None, ...]) -> list[Figure]:
    """A row of the same table about another paper, whose open questions were scored in its own way."""
    metric = "accuracy over its own answers"
    return [
        Figure(model, TUNED, data, (), kind, None, metric, "", "", value, None, LITERATURE)
        for (data, _, kind, _), value in zip(_SIX, values, strict=True)
        if value is not None
    ]


def _other(
    model: str,
    setting: str,
    data: str,
    questions: str,
    metric: str,
    value: float,
    source: str,
    *,
    exact: tuple[str, ...] = (),
    n: int | None = None,
    ours: tuple[str, str] = ("", ""),
    margin: float | None = None,
    doubt: str = "",
) -> Figure:
    """Any other figure; `ours` are the protocol and the score that compute it."""
    return Figure(model, setting, data, exact, questions, n, metric, *ours, value, margin, source, doubt)


LLAVA_MED = [
    *_llava_med("LLaVA-7B v0", ZERO, (20.74, 59.19, 26.82, 50.24, 8.74, 45.65), NOTEBOOK),
    *_llava_med("LLaVA-Med, stage 1 alone", ZERO, (15.27, 12.50, 18.55, 13.46, 6.26, 13.51), NOTEBOOK),
    *_llava_med("LLaVA-Med, 10K, 3 epochs", ZERO, (25.79, 57.35, 31.50, 51.68, 8.49, 59.66), NOTEBOOK),
    *_llava_med("LLaVA-Med, 60K, 3 epochs", ZERO, (30.51, 61.76, 37.48, 51.44, 11.46, 52.08), NOTEBOOK),
    *_llava_med("LLaVA-Med, 60K-IM, 1 epoch", ZERO, (29.67, 61.40, 38.44, 52.40, 11.41, 56.24), NOTEBOOK),
    *_llava_med("LLaVA-Med, 60K-IM, 3 epochs", ZERO, (28.23, 61.40, 39.17, 52.16, 12.30, 54.05), NOTEBOOK),
    *_llava_med("LLaVA-Med, BiomedCLIP, 60K-IM", ZERO, (37.84, 60.66, 39.73, 54.33, 11.65, 49.07), NOTEBOOK),
    *_llava_med("LLaVA-Med 13B, 60K-IM", ZERO, (31.66, 61.40, 37.71, 49.76, 11.34, 49.63), NOTEBOOK),
    *_llava_med("LLaVA", TUNED, (50.00, 65.07, 78.18, 63.22, 7.74, 63.20), TABLE),
    *_llava_med("LLaVA-Med, from LLaVA", TUNED, (61.52, 84.19, 83.08, 85.34, 37.95, 91.21), TABLE),
    *_llava_med("LLaVA-Med, from Vicuna", TUNED, (64.39, 81.98, 84.71, 83.17, 38.87, 91.65), TABLE),
    *_llava_med("LLaVA-Med, BiomedCLIP", TUNED, (64.75, 83.09, 87.11, 86.78, 39.60, 91.09), TABLE),
    *_llava_med("LLaVA-Med 13B", TUNED, (64.58, 77.94, 84.97, 85.58, 38.82, 92.39), TABLE),
    *_quoted("VL Encoder-Decoder", (71.49, 82.47, None, None, 71.49, 85.61)),
    *_quoted("Q2ATransformer", (79.19, 81.20, None, None, 54.85, 88.85)),
    *_quoted("Prefix tuning of a language model", (None, None, 84.30, 82.01, 40.00, 87.00)),
    *_quoted("PubMedCLIP", (60.10, 80.00, 78.40, 82.50, None, None)),
    *_quoted("BiomedCLIP", (67.60, 79.80, 82.05, 89.70, None, None)),
    *_quoted("M2I2", (66.50, 83.50, 74.70, 91.10, 36.30, 88.00)),
]


def _huatuo(model: str, values: tuple[float, float, float, float]) -> list[Figure]:
    sets = ("vqa_rad", "slake", "path_vqa", "pmc_vqa")
    metric = "accuracy of closed questions"
    return [
        _other(model, UNSTATED, data, "closed", metric, value, HUATUO) for data, value in zip(sets, values, strict=True)
    ]


_STLLAVA = "STLLaVA-Med, model zoo"
OTHERS = [
    *_huatuo("LLaVA-v1.5-LLaMA3-8B", (54.2, 59.4, 54.1, 36.4)),
    *_huatuo("LLaVA-v1.5-LLaMA3-8B + PubMedVision", (63.8, 74.5, 59.9, 52.7)),
    *_huatuo("LLaVA-v1.6-34B", (58.6, 67.3, 59.1, 44.4)),
    *_huatuo("LLaVA-Med-7B", (51.4, 48.6, 56.8, 24.7)),
    *_huatuo("HuatuoGPT-Vision-34B", (68.1, 76.9, 63.5, 58.2)),
    *(
        _other(
            "STLLaVA-Med-7B", UNSTATED, data, kind, RECALL if kind == "open" else CLOSED, value, _STLLAVA,
        )
        for (data, _, kind, _), value in zip(_SIX, (37.12, 60.35, 46.69, 57.69, 11.92, 52.90), strict=True)
    ),
    _other("TinyLLaVA-Med", UNSTATED, "vqa_rad", "closed", CLOSED, 64.54, "TinyLLaVA-Med"),
    _other("TinyLLaVA-Med", UNSTATED, "slake", "closed", CLOSED, 70.70, "TinyLLaVA-Med"),
    _other(
        "LLaVA-Tri", UNSTATED, "vqa_rad", UNSTATED, UNSTATED, 81.6, "MedTrinity-25M",
        doubt="a user found all test images in the training split that its authors shared",
    ),
    _other("LLaVA-Tri, a user's run", UNSTATED, "vqa_rad", "closed", CLOSED, 72.06, "MedTrinity-25M, issue 4"),
    _other("LLaVA-Tri", UNSTATED, "slake", UNSTATED, UNSTATED, 87.8, "MedTrinity-25M"),
]  # fmt: skip

_VQA = "exact match with the one reference"
# The protocols of its released scripts, of which it is not shown that they made the paper's figures.
_MATCH, _ROUGE = ("biomedgpt/v1", "accuracy"), ("biomedgpt-summary/v1", "rouge_l")
_USER, _KIT = "BiomedGPT, issue {}", "MedEvalKit, zero-shot of the Hugging Face checkpoint"
_SIZES = "a later paper's table"
_BASE = "BiomedGPT-Base"
_CAPTION_ROUGE, _CIDER = ("biomedgpt-caption/v1", "rouge_l"), ("biomedgpt-caption/v1", "cider_d")
_MACRO = ("classify/v1", "macro_f1")


def _base(data: str, questions: str, metric: str, value: float, **more: object) -> Figure:
    """A figure of BiomedGPT-Base, fine-tuned."""
    source = more.pop("source", NATURE)
    return _other(_BASE, TUNED, data, questions, metric, value, source, **more)  # pyright: ignore


BIOMEDGPT = [
    _base("vqa_rad", ALL, _VQA, 73.2, ours=_MATCH),
    _base(
        "vqa_rad", ALL, _VQA, 93.0, ours=_MATCH, source=_USER.format(20),
        doubt="a user's run of the released checkpoint, probably trained on test questions",
    ),
    _base("vqa_rad", ALL, _VQA, 33.4, ours=_MATCH, source=_USER.format(6), doubt="a user's run of an earlier file"),
    _base("slake", ALL, _VQA, 86.1, ours=_MATCH),
    _base("slake", "open", _VQA, 84.3, ours=_MATCH),
    _base("slake", "closed", _VQA, 89.9, ours=_MATCH),
    _base("slake", ALL, _VQA, 85.8, ours=_MATCH, source=_USER.format(20)),
    _base("slake", "open", _VQA, 82.3, ours=_MATCH, source=_USER.format(20)),
    _base("slake", "closed", _VQA, 91.1, ours=_MATCH, source=_USER.format(20)),
    _base("path_vqa", "open", _VQA, 28.0, ours=_MATCH),
    _base("path_vqa", "closed", _VQA, 88.0, ours=_MATCH),
    _base("path_vqa", ALL, _VQA, 56.9, ours=_MATCH, source="BiomedGPT, preprint (issue 12)"),
    _base("iu_xray", ALL, "CIDEr", 40.1, ours=_CIDER),
    _base("iu_xray", ALL, "CIDEr", 36.0, ours=_CIDER, source="BiomedGPT, an earlier version"),
    _base("iu_xray", ALL, "METEOR", 12.9, doubt=FROM_MEMORY),
    _base("iu_xray", ALL, "ROUGE-L", 28.5, ours=_CAPTION_ROUGE, doubt=FROM_MEMORY),
    _base("peir_gross", ALL, "CIDEr", 122.7, ours=_CIDER),
    _base("peir_gross", ALL, "METEOR", 15.4),
    _base(
        "peir_gross", ALL, "ROUGE-L", 36.0, ours=_CAPTION_ROUGE,
        doubt=f"{FROM_MEMORY}; another site has 30.2",
    ),
    _base("mimic_cxr", ALL, "METEOR", 15.9),
    _base("mimic_cxr", ALL, "ROUGE-L", 28.7, ours=_CAPTION_ROUGE, doubt=FROM_MEMORY),
    _base("mimic_cxr", ALL, "CIDEr", 23.4, ours=_CIDER, doubt=FROM_MEMORY),
    _base("mednli", ALL, "accuracy", 83.8, ours=_MATCH, exact=("mednli",), n=1422),
    _base("meqsum", ALL, "ROUGE-L", 52.3, ours=_ROUGE, exact=("meqsum",), n=100),
    _base("mimic_cxr_summaries", ALL, "ROUGE-L", 44.4, ours=_ROUGE),
    _base("mimic_iii_summaries", ALL, "ROUGE-L", 30.7, ours=_ROUGE),
    _base("healthcaremagic", ALL, "ROUGE-L", 42.0, ours=_ROUGE, doubt=f"about, {FROM_MEMORY}"),
    _base("montgomery", ALL, "accuracy", 89.7, ours=_MATCH),
    _base("shenzhen", ALL, "accuracy", 97.0, ours=_MATCH),
    _base(
        "cbis_ddsm_mass", ALL, "macro F1", 57.2, ours=_MACRO,
        doubt=f"{FROM_MEMORY}; a summary of the paper has 51.1",
    ),
    _base(
        "cbis_ddsm_calcification", ALL, "macro F1", 72.8, ours=_MACRO,
        doubt=f"{FROM_MEMORY}; a summary of the paper has 67.9",
    ),
    _base("mimic_iii_mortality", ALL, "accuracy", 89.5, ours=_MATCH),
    _base("trec_trials_2022", ALL, "accuracy", 85.2, ours=_MATCH, margin=1.5),
    _base("seer", ALL, "accuracy", 50.0, ours=_MATCH, margin=5.3),
    _base("organcmnist", ALL, "accuracy", 91.0, ours=_MATCH, n=8268),
    _base("organcmnist", ALL, "accuracy", 91.01, ours=_MATCH, n=8268, source=_USER.format(54)),
    _base(
        "organcmnist", ALL, "accuracy", 88.9, ours=_MATCH, n=8268,
        source="BiomedGPT, an earlier version",
    ),
    _base(
        "pneumoniamnist", ALL, "accuracy", 90.8, ours=_MATCH, n=624,
        source="BiomedGPT, an earlier version",
    ),
    *(
        _other(f"BiomedGPT-{size}", TUNED, data, kind, _VQA, value, _SIZES, ours=_MATCH)
        for size, values in (
            ("Small", (13.4, 57.8, 66.5, 73.3, 10.7, 84.2)),
            ("Medium", (53.6, 65.1, 78.3, 86.8, 12.5, 85.7)),
        )
        for (data, _, kind, _), value in zip(_SIX, values, strict=True)
    ),
    _other(
        "Instruct-BiomedGPT-Base", ZERO, "vqa_rad", ALL, UNSTATED, 54.7, NATURE, margin=5.7
    ),
    _other("GPT-4V", ZERO, "vqa_rad", ALL, UNSTATED, 53.0, NATURE, margin=6.7),
    *(
        _other(_BASE, ZERO, data, ALL, UNSTATED, value, _KIT)
        for data, value in (("vqa_rad", 16.6), ("slake", 13.6), ("path_vqa", 11.3), ("pmc_vqa", 27.6))
    ),
    _other(_BASE, TUNED, "iu_xray", ALL, "BLEU", 6.9, "an independent test of the IU X-ray checkpoint"),
    _other(
        _BASE, TUNED, "iu_xray", ALL, "ROUGE-L", 25.6, "an independent test of the IU X-ray checkpoint",
        ours=_CAPTION_ROUGE,
    ),
]  # fmt: skip

FIGURES = (*LLAVA_MED, *OTHERS, *BIOMEDGPT)
