"""A document to its summary."""

from biomedgpt_jax.data.instructions.form import Form, Kind
from biomedgpt_jax.data.instructions.variant import Instructions, Variant

SUMMARY = Instructions(
    "summary",
    needs=frozenset({"document"}),
    given=frozenset(),
    variants=(
        Variant("summarise", "Summarise the following text.\n{document}", Form(Kind.TEXT)),
        Variant("short", "Give the gist of this text in at most thirty words.\n{document}", Form(Kind.TEXT, words=30)),
        Variant("sentence", "Condense what follows into one sentence.\n{document}", Form(Kind.TEXT, sentences=1)),
        Variant("english", "Write a summary in English.\nText: {document}", Form(Kind.TEXT, language="en")),
        Variant("json", 'Summarise the text. Return only JSON: {{"summary": "..."}}\n{document}',
                Form(Kind.TEXT, json="summary")),
        Variant("hurry", "The reader is in a hurry: what matters here, in no more than sixty words?\n{document}",
                Form(Kind.TEXT, words=60)),
        Variant("held", "What is this about? Twenty words at the most.\n{document}", Form(Kind.TEXT, words=20)),
        Variant("json-held", 'Shorten the text and put the result into the field "gist" of a JSON object, with nothing '
                "around it.\n{document}", Form(Kind.TEXT, json="gist")),
    ),
)  # fmt: skip
