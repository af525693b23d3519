"""The model card (README.md) of an export: what it is, from what, how good, and what it is not for."""

from dataclasses import dataclass

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
# By architecture: Python that a reader of the card can run inside the folder.
USAGE = {
    "LlavaForConditionalGeneration": f"""\
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

folder = "."
model = LlavaForConditionalGeneration.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
{_QUESTION}answer = answer[:, inputs["input_ids"].shape[1] :]
print(processor.decode(answer[0], skip_special_tokens=True))""",
    "Llama3MedForConditionalGeneration": f"""\
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor

folder = "."
# Runs the two Python files of this folder; modeling_llama3med.py says how to load it without remote code.
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
{_QUESTION}print(processor.decode(answer[0], skip_special_tokens=True))""",
    "LlamaForCausalLM": """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)""",
}


@dataclass(frozen=True)
class Origin:
    """A part that the model was made from; `sha256` identifies the exact bytes."""

    name: str
    role: str  # "vision tower", "decoder", "training data", ...
    licence: str | None
    sha256: str | None


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


def render_card(card: Card, *, usage: str, facts: tuple[tuple[str, str], ...]) -> str:
    """Markdown with the front matter that the Hugging Face hub reads.

    Args:
        usage: Python code that loads the folder and asks it something.
        facts: rows of the table about the model.
    """
    front = ["---", f"license: {card.licence}", "library_name: transformers", "pipeline_tag: image-text-to-text"]
    front += ["tags: [medical, vision-language, llama3-med, biomedgpt-jax]", "---", ""]
    lines = [*front, f"# {card.title}", "", "## Intended use", "", INTENDED_USE, ""]
    lines += ["## Use", "", "```python", usage, "```", ""]
    lines += ["## Model", "", *_table(("", ""), facts), ""]
    origins = [(o.role, o.name, o.licence or "unknown: ask its source", o.sha256 or "") for o in card.origins]
    if origins:
        lines += ["## Made from", "", *_table(("role", "name", "licence", "sha256"), origins), ""]
    lines += ["## Scores", "", *_scores(card.scores), ""]
    if card.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in card.notes), ""]
    return "\n".join(lines)


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
