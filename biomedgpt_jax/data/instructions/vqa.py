"""Questions about an image: open ones, those answered by yes or no, and those with options."""

from biomedgpt_jax.data.instructions.form import Form, Kind
from biomedgpt_jax.data.instructions.variant import Instructions, Variant

_QUESTION = frozenset({"question"})

OPEN = Instructions(
    "vqa-open",
    needs=_QUESTION,
    given=frozenset(),
    variants=(
        Variant("few-words", "{question} Answer in at most five words.", Form(Kind.TEXT, words=5)),
        Variant("look", "Look at the image and answer the question. {question}", Form(Kind.TEXT)),
        Variant("ten-words", "Question about this picture: {question} Keep the answer under eleven words.",
                Form(Kind.TEXT, words=10)),
        Variant("english", "{question} Write your answer in English.", Form(Kind.TEXT, language="en")),
        Variant("json", '{question} Return only JSON: {{"answer": "..."}}', Form(Kind.TEXT, json="answer")),
        Variant("sentence", "A colleague asks you about this image: {question} Reply with one sentence at most.",
                Form(Kind.TEXT, sentences=1)),
        Variant("brief-held", "Tell me briefly, in no more than eight words: {question}", Form(Kind.TEXT, words=8)),
        Variant("json-held", 'Examine the scan. {question} Your reply must be a single JSON object with the key '
                '"finding", whose value is the answer.', Form(Kind.TEXT, json="finding")),
    ),
)  # fmt: skip

YES_NO = Instructions(
    "vqa-yes-no",
    needs=_QUESTION,
    given=frozenset(),
    variants=(
        Variant("only", "{question} Answer yes or no.", Form(Kind.YES_NO)),
        Variant("one-word", "{question} Reply with a single word, yes or no, and do not explain it.",
                Form(Kind.YES_NO)),
        Variant("decide", "Decide from the image alone: {question} Say yes or say no.", Form(Kind.YES_NO)),
        Variant("json", '{question} Return only JSON: {{"answer": "yes"}} or {{"answer": "no"}}.',
                Form(Kind.YES_NO, json="answer")),
        Variant("check", "Check this statement of a question against the picture. {question} Permitted answers: yes, "
                "no.", Form(Kind.YES_NO)),
        Variant("form", "Fill in a form that has two boxes, yes and no. {question} Which box do you tick?",
                Form(Kind.YES_NO)),
        Variant("strict-held", "{question} I need exactly one of the two words yes and no.", Form(Kind.YES_NO)),
        Variant("json-held", 'Inspect the scan. {question} Put yes or no into the field "present" of a JSON object and '
                "write nothing else.", Form(Kind.YES_NO, json="present")),
    ),
)  # fmt: skip

CHOICE = Instructions(
    "vqa-choice",
    needs=_QUESTION,
    given=frozenset({"options", "lettered"}),
    variants=(
        Variant("letter", "{question}\n{lettered}\nAnswer with the letter alone.", Form(Kind.LETTER)),
        Variant("text", "{question} Choose from: {options}. Repeat the right option word for word.",
                Form(Kind.OPTION)),
        Variant("letter-image", "Use the image to answer this multiple-choice question.\n{question}\n{lettered}\nWrite "
                "one letter.", Form(Kind.LETTER)),
        Variant("json", '{question}\n{lettered}\nReturn only JSON with the letter: {{"answer": "..."}}',
                Form(Kind.LETTER, json="answer")),
        Variant("exam", "An examination shows the image and asks: {question} The possible answers are: {options}. "
                "Give one of them and no reason.", Form(Kind.OPTION)),
        Variant("pick", "{question}\nOne of these is right:\n{lettered}\nName its letter, nothing more.",
                Form(Kind.LETTER)),
        Variant("letter-held", "Study the figure, then settle this: {question}\n{lettered}\nOnly the letter counts, so "
                "send only the letter.", Form(Kind.LETTER)),
        Variant("text-held", "{question} Select the correct entry of this list and copy it: {options}.",
                Form(Kind.OPTION)),
    ),
)  # fmt: skip
