"""The model card (README.md) of an export: what it is, from what, how good, and what it is not for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CREDENTIALED = "credentialed"  # as manifests of data call such an access
INTENDED_USE = """\
This model is for research. It is not a medical device, it has not been tested for clinical use, and its answers
can be wrong in ways that look right. Do not use it to diagnose, to treat, or to decide anything about a patient.
Images and questions that identify a person must not be given to a copy that others run."""

_QUESTION = """\
content = [
    {"type": "image", "image": Image.open("picture.png")},
    {"type": "text", "text": "Which organ is shown?"},
]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
).to(model.dtype)
answer = model.generate(**inputs, max_new_tokens=64)
"""
_PLAIN_ANSWER = """\
print(processor.decode(answer[0], skip_special_tokens=True))"""
_ANSWER_AFTER_PROMPT = f"""\
answer = answer[:, inputs["input_ids"].shape[1] :]
{_PLAIN_ANSWER}"""
_TOWER = """\
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

folder = "."
model = AutoModel.from_pretrained(folder)
processor = AutoImageProcessor.from_pretrained(folder)
with torch.no_grad():
    features = model(**processor(Image.open("picture.png").convert("RGB"), return_tensors="pt")).last_hidden_state"""
# By what loads the folder: Python that a reader of the card can run inside it.
_USAGE = {
    "LlavaForConditionalGeneration": f"""\
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

folder = "."
model = LlavaForConditionalGeneration.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
{_QUESTION}{_ANSWER_AFTER_PROMPT}""",
    "Llama3MedForConditionalGeneration": f"""\
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

folder = "."
# Runs the two Python files of this folder; modeling_llama3med.py says how to load it without remote code.
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
{_QUESTION}{_PLAIN_ANSWER}""",
    "PeftModelForCausalLM of LlavaForConditionalGeneration": f"""\
from peft import PeftModel
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

folder = "."
# Not any other copy of the base: this one has the connector that was trained with the adapter.
base = LlavaForConditionalGeneration.from_pretrained(f"{{folder}}/base")
model = PeftModel.from_pretrained(base, folder)
processor = AutoProcessor.from_pretrained(f"{{folder}}/base")
{_QUESTION}{_ANSWER_AFTER_PROMPT}""",
    "PeftModelForCausalLM of Llama3MedForConditionalGeneration": f"""\
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

folder = "."
# Not any other copy of the base: this one has the connector that was trained with the adapter.
base = AutoModelForCausalLM.from_pretrained(f"{{folder}}/base", trust_remote_code=True)
model = PeftModel.from_pretrained(base, folder)
processor = AutoProcessor.from_pretrained(f"{{folder}}/base", trust_remote_code=True)
{_QUESTION}{_PLAIN_ANSWER}""",
    "AutoModelForCausalLM": """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)""",
    "vit_giant_patch14_reg4_dinov2": """\
import timm

folder = "."
model = timm.create_model(f"local-dir:{folder}", pretrained=True)""",
    "OFAModel": """\
from glob import glob

import torch
from safetensors.torch import load_file
from transformers import OFAModel, OFATokenizer  # OFA's fork of transformers 4.15 to 4.18

folder = "."
# The fork reads no safetensors.
weights = {key: tensor for file in glob(f"{folder}/*.safetensors") for key, tensor in load_file(file).items()}
torch.save(weights, f"{folder}/pytorch_model.bin")
model = OFAModel.from_pretrained(folder)
tokenizer = OFATokenizer.from_pretrained(folder)""",
    "fairseq's ofa": """\
import torch

checkpoint = torch.load("checkpoint.pt", weights_only=True)
settings, weights = checkpoint["cfg"]["model"], checkpoint["model"]""",
    **dict.fromkeys(("CLIPVisionModel", "SiglipVisionModel", "Dinov2Model", "Dinov2WithRegistersModel"), _TOWER),
}
_LIBRARIES = {"PeftModelForCausalLM": "peft", "vit_giant_patch14_reg4_dinov2": "timm", "fairseq's": "fairseq"}
_FAMILIES = {"OFAModel": "biomedgpt", "fairseq's ofa": "biomedgpt"}
_TASKS = {
    "AutoModelForCausalLM": "text-generation",
    **dict.fromkeys(
        (
            "CLIPVisionModel",
            "SiglipVisionModel",
            "Dinov2Model",
            "Dinov2WithRegistersModel",
            "vit_giant_patch14_reg4_dinov2",
        ),
        "image-feature-extraction",
    ),
}


@dataclass(frozen=True)
class Origin:
    """A part that the model was made from; `sha256` identifies the exact bytes."""

    name: str
    role: str  # "vision tower", "decoder", "training data", ...
    licence: str | None
    sha256: str | None  # of the bytes; of imported weights, the hash of all arrays
    access: str = ""  # of data, as its manifest says


@dataclass(frozen=True)
class Score:
    """One number with the protocol that made it; two of different protocols do not compare."""

    data: str
    protocol: str
    metric: str
    value: float
    low: float  # of the 95% bootstrap interval
    high: float
    n: int
    baseline: float | None  # the majority answer


@dataclass(frozen=True)
class Card:
    title: str
    licence: str  # of the exported weights: the strictest of their origins
    origins: tuple[Origin, ...]
    scores: tuple[Score, ...]
    notes: tuple[str, ...]
    companions: Mapping[str, str]  # small files that go beside the card: name -> text


def write_card(folder: Path, card: Card, loader: str, facts: tuple[tuple[str, str], ...]) -> None:
    """README.md and the companions; for the arguments see `render_card`."""
    for name, text in {**card.companions, "README.md": render_card(card, loader, facts)}.items():
        (folder / name).write_text(text, encoding="utf-8")


def render_card(card: Card, loader: str, facts: tuple[tuple[str, str], ...]) -> str:
    """Markdown with the front matter that the Hugging Face hub reads.

    Args:
        loader: the class that loads the folder; for an adapter "PeftModelForCausalLM of" that of its base.
        facts: rows of the table about the model.
    """
    library = _LIBRARIES.get(loader.split()[0], "transformers")
    task = _TASKS.get(loader, "image-text-to-text")
    front = ["---", f"license: {card.licence}", f"library_name: {library}", f"pipeline_tag: {task}"]
    front += [f"tags: [medical, vision-language, {_FAMILIES.get(loader, 'llama3-med')}, biomedgpt-jax]", "---", ""]
    lines = [*front, f"# {card.title}", "", "## Intended use", "", INTENDED_USE, ""]
    lines += ["## Use", "", "```python", _USAGE[loader], "```", ""]
    lines += ["## Model", "", *_table(("", ""), facts), ""]
    if note := licence_note(card.origins):
        lines += ["## Licences", "", note, ""]
    origins = [(o.role, o.name, o.licence or "unknown: ask its source", o.sha256 or "") for o in card.origins]
    if origins:
        lines += ["## Made from", "", *_table(("role", "name", "licence", "sha256"), origins), ""]
    lines += ["## Scores", "", *_scores(card.scores), ""]
    if card.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in card.notes), ""]
    return "\n".join(lines)


def licence_note(origins: tuple[Origin, ...]) -> str | None:
    """What whoever publishes the weights must know: their parts' licences differ, or one is unknown."""
    stated = sorted({origin.licence for origin in origins if origin.licence})
    unknown = [f"{origin.role} {origin.name}" for origin in origins if not origin.licence]
    notes = []
    if len(stated) > 1:
        notes.append(f"The parts and the data have different licences ({', '.join(stated)}); all of them bind.")
    if guarded := credentialed(origins):
        notes.append(
            f"Trained on credentialed data ({', '.join(guarded)}): weights may give parts of it away, so share them "
            "with people under the same agreement alone."
        )
    if unknown:
        notes.append(f"The licence is unknown of {', '.join(unknown)}: ask the source before you share the weights.")
    return " ".join(notes) or None


def credentialed(origins: tuple[Origin, ...]) -> list[str]:
    """Names of the data sets that only people under an agreement may have."""
    return sorted({origin.name for origin in origins if origin.access == CREDENTIALED})


def shared_licence(origins: tuple[Origin, ...]) -> str:
    """The one licence of all origins, else "other", as the hub calls what no single name says."""
    found = {origin.licence or "" for origin in origins}
    return found.pop() if len(found) == 1 and re.fullmatch(r"\S+", "".join(found)) else "other"


def _scores(scores: tuple[Score, ...]) -> list[str]:
    if not scores:
        return ["This model has not been scored."]
    rows = [
        (
            score.data,
            score.protocol,
            score.metric,
            f"{score.value:.1%} ({score.low:.1%} to {score.high:.1%})",
            "" if score.baseline is None else f"{score.baseline:.1%}",
            str(score.n),
        )
        for score in scores
    ]
    return _table(("data", "protocol", "metric", "score (95% interval)", "majority answer", "n"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]] | tuple[tuple[str, ...], ...]) -> list[str]:
    cells = [head, ("---",) * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in cells]
