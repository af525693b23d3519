"""Questions without an image: of examinations, with options, and open ones."""

from biomedgpt_jax.data.instructions.form import Form, Kind
from biomedgpt_jax.data.instructions.variant import Instructions, Variant

_QUESTION = frozenset({"question"})

EXAMINATION = Instructions(
    "examination",
    needs=_QUESTION,
    given=frozenset({"options", "lettered"}),
    variants=(
        Variant("letter", "{question}\n{lettered}\nAnswer with the letter alone.", Form(Kind.LETTER)),
        Variant("text", "{question} Choose from: {options}. Repeat the right option word for word.",
                Form(Kind.OPTION)),
        Variant("board", "This question stood in a medical board examination.\n{question}\n{lettered}\nMark one "
                "letter.", Form(Kind.LETTER)),
        Variant("json", '{question}\n{lettered}\nReturn only JSON with the letter: {{"answer": "..."}}',
                Form(Kind.LETTER, json="answer")),
        Variant("single", "Exactly one of these answers is right: {options}. {question} Give it without a reason.",
                Form(Kind.OPTION)),
        Variant("teacher", "Your teacher asks: {question}\nThe options are\n{lettered}\nSay the letter, nothing more.",
                Form(Kind.LETTER)),
        Variant("letter-held", "Solve this item and send back a single letter.\n{question}\n{lettered}",
                Form(Kind.LETTER)),
        Variant("json-held", 'Solve this item: {question} The candidates are: {options}. Put the text of the right '
                'one into the field "solution" of a JSON object; give the object alone.',
                Form(Kind.OPTION, json="solution")),
    ),
)  # fmt: skip

QUESTION = Instructions(
    "question",
    needs=_QUESTION,
    given=frozenset(),
    variants=(
        Variant("plain", "{question}", Form(Kind.TEXT)),
        Variant("short", "Answer this medical question in at most fifty words: {question}",
                Form(Kind.TEXT, words=50)),
        Variant("english", "{question} Please answer in English.", Form(Kind.TEXT, language="en")),
        Variant("sentence", "In one sentence: {question}", Form(Kind.TEXT, sentences=1)),
        Variant("json", '{question} Return only JSON: {{"answer": "..."}}', Form(Kind.TEXT, json="answer")),
        Variant("patient", "A patient wants to know: {question} Explain it in no more than two hundred words.",
                Form(Kind.TEXT, words=200)),
        Variant("held", "Give a short reply, thirty words at the most. {question}", Form(Kind.TEXT, words=30)),
        Variant("json-held", 'Reply to this with a JSON object that has one key, "reply": {question}',
                Form(Kind.TEXT, json="reply")),
    ),
)  # fmt: skip
