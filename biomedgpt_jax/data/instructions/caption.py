"""An image to a text about it: captions of figures, and reports of chest X-rays."""

from biomedgpt_jax.data.instructions.form import Form, Kind
from biomedgpt_jax.data.instructions.variant import Instructions, Variant

_NOTHING = frozenset[str]()

CAPTION = Instructions(
    "caption",
    needs=_NOTHING,
    given=_NOTHING,
    variants=(
        Variant("describe", "Describe this medical image.", Form(Kind.TEXT)),
        Variant("caption", "Write the caption of this figure in at most forty words.", Form(Kind.TEXT, words=40)),
        Variant("english", "What can be seen here? Write in English.", Form(Kind.TEXT, language="en")),
        Variant("sentence", "Sum up the picture in a single sentence.", Form(Kind.TEXT, sentences=1)),
        Variant("json", 'Caption the image. Return only JSON: {{"caption": "..."}}', Form(Kind.TEXT, json="caption")),
        Variant("student", "Explain to a medical student what the image shows, in no more than eighty words.",
                Form(Kind.TEXT, words=80)),
        Variant("brief-held", "In thirty words or fewer, say what this picture is about.", Form(Kind.TEXT, words=30)),
        Variant("json-held", 'Produce a JSON object with one key, "description", that holds a description of the '
                "image. No text around it.", Form(Kind.TEXT, json="description")),
    ),
)  # fmt: skip

REPORT = Instructions(
    "report",
    needs=_NOTHING,
    given=_NOTHING,
    variants=(
        Variant("report", "Write the report of this chest X-ray.", Form(Kind.TEXT)),
        Variant("findings", "State the findings of this radiograph in at most one hundred words.",
                Form(Kind.TEXT, words=100)),
        Variant("english", "Report the X-ray in English, as a radiologist would.", Form(Kind.TEXT, language="en")),
        Variant("short", "What does the radiograph show? At most fifty words.", Form(Kind.TEXT, words=50)),
        Variant("json", 'Dictate the report of this study. Return only JSON: {{"report": "..."}}',
                Form(Kind.TEXT, json="report")),
        Variant("sentences", "Describe heart, lungs and bones of this X-ray in no more than six sentences.",
                Form(Kind.TEXT, sentences=6)),
        Variant("ward-held", "The ward waits for the report on this chest film. Keep it within eighty words.",
                Form(Kind.TEXT, words=80)),
        Variant("json-held", 'Put your reading of the X-ray into the field "findings" of a JSON object, and give that '
                "object alone.", Form(Kind.TEXT, json="findings")),
    ),
)  # fmt: skip
