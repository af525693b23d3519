"""A text and a question about it with listed answers: outcomes (death in hospital), treatments, abstracts."""

from biomedgpt_jax.data.instructions.form import Form, Kind
from biomedgpt_jax.data.instructions.variant import Instructions, Variant

_NEEDS = frozenset({"question", "context"})

OUTCOME = Instructions(
    "reading-yes-no",
    needs=_NEEDS,
    given=frozenset(),
    variants=(
        Variant("only", "{question} Answer yes or no from the text below.\n{context}", Form(Kind.YES_NO)),
        Variant("one-word", "Read the notes and answer with the single word yes or no. {question}\nNotes: {context}",
                Form(Kind.YES_NO)),
        Variant("predict", "Predict from what is written here, and commit yourself to yes or no: {question}\n"
                "{context}", Form(Kind.YES_NO)),
        Variant("json", '{question} Return only JSON: {{"answer": "yes"}} or {{"answer": "no"}}.\nText: {context}',
                Form(Kind.YES_NO, json="answer")),
        Variant("judge", "As the physician in charge, judge this: {question} Say yes or say no, without reasons.\n"
                "Record: {context}", Form(Kind.YES_NO)),
        Variant("form", "The form asks: {question} It takes yes or no. What do you enter?\nBasis: {context}",
                Form(Kind.YES_NO)),
        Variant("held", "With nothing but the following text at hand, {question} Exactly one word, yes or no.\n"
                "{context}", Form(Kind.YES_NO)),
        Variant("json-held", 'Consider the text and settle the question: {question} Give a JSON object whose key '
                '"decision" is yes or no.\n{context}', Form(Kind.YES_NO, json="decision")),
    ),
)  # fmt: skip

READING = Instructions(
    "reading-choice",
    needs=_NEEDS,
    given=frozenset({"options", "lettered"}),
    variants=(
        Variant("only", "{question} Answer with one of: {options}.\nText: {context}", Form(Kind.CLASS)),
        Variant("letter", "{question}\n{lettered}\nUse the text below and give the letter alone.\n{context}",
                Form(Kind.LETTER)),
        Variant("read", "Read the passage, then choose the answer from: {options}. {question}\nPassage: {context}",
                Form(Kind.CLASS)),
        Variant("json", '{question} Possible answers: {options}. Return only JSON: {{"answer": "..."}}\n'
                "Text: {context}", Form(Kind.CLASS, json="answer")),
        Variant("evidence", "What does the evidence below say? {question} Permitted answers: {options}. No "
                "explanation.\nEvidence: {context}", Form(Kind.CLASS)),
        Variant("clerk", "A clerk enters your answer into a field that accepts only: {options}. {question}\n"
                "Source: {context}", Form(Kind.CLASS)),
        Variant("held", "Take the following as given and answer in the terms {options} only. {question}\n{context}",
                Form(Kind.CLASS)),
        Variant("letter-held", "After reading, name the letter of the right answer and no more. {question}\n"
                "{lettered}\nReading: {context}", Form(Kind.LETTER)),
    ),
)  # fmt: skip
