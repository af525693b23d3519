"""An image to one of a list of classes."""

from biomedgpt_jax.data.instructions.form import Form, Kind
from biomedgpt_jax.data.instructions.variant import Instructions, Variant

CLASSIFICATION = Instructions(
    "classification",
    needs=frozenset({"question"}),
    given=frozenset({"options", "lettered"}),
    variants=(
        Variant("only", "{question} Reply with exactly one of these classes and nothing else: {options}.",
                Form(Kind.CLASS)),
        Variant("label", "Label this image. {question} The possible labels are: {options}. Write the label only.",
                Form(Kind.CLASS)),
        Variant("letter", "{question}\n{lettered}\nGive the letter of the right class, no words.", Form(Kind.LETTER)),
        Variant("json", 'Classify the picture: {question} Choose from: {options}. Answer with a JSON object of the '
                'form {{"class": "..."}} and no other text.', Form(Kind.CLASS, json="class")),
        Variant("list", "Here is a medical image and the list of all admissible answers: {options}. {question} "
                "Copy the one that fits from the list.", Form(Kind.CLASS)),
        Variant("reader", "You sort images for a clinic. {question} Your answer is read by a program, so it must be "
                "one of: {options}, without any explanation.", Form(Kind.CLASS)),
        Variant("which", "Which of the following describes the image best: {options}? {question} Say just that.",
                Form(Kind.CLASS)),
        Variant("letter-held", "Look at the image. {question} Pick one option:\n{lettered}\nYour whole answer is one "
                "letter.", Form(Kind.LETTER)),
    ),
)  # fmt: skip
