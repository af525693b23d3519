"""Whether a patient fits a clinical trial."""

from biomedgpt_jax.data.instructions.form import Form, Kind
from biomedgpt_jax.data.instructions.variant import Instructions, Variant

TRIAL = Instructions(
    "trial",
    needs=frozenset({"first", "second"}),
    given=frozenset({"options", "lettered"}),
    variants=(
        Variant("eligible", "Is the patient eligible for the trial? Answer with one of: {options}.\nPatient: {first}\n"
                "Trial: {second}", Form(Kind.CLASS)),
        Variant("screen", "Screen this patient for the study below. Permitted results: {options}. Write the result "
                "alone.\nCase: {first}\nCriteria: {second}", Form(Kind.CLASS)),
        Variant("letter", "What is the standing of the patient in respect of the trial?\n{lettered}\nGive only the "
                "letter.\nPatient: {first}\nTrial: {second}", Form(Kind.LETTER)),
        Variant("json", 'Match patient and trial ({options}). Return only JSON: {{"match": "..."}}\nPatient: {first}\n'
                "Trial: {second}", Form(Kind.CLASS, json="match")),
        Variant("coordinator", "You coordinate a study. Decide by its criteria about the person described; your "
                "decision must be one of: {options}.\nPerson: {first}\nStudy: {second}", Form(Kind.CLASS)),
        Variant("judge", "Judge by the inclusion and exclusion criteria and answer in the words of this list: "
                "{options}.\nSummary of the patient: {first}\nCriteria of the trial: {second}", Form(Kind.CLASS)),
        Variant("held", "Could this patient be enrolled? Say exactly one of: {options}.\nNote: {first}\n"
                "Protocol: {second}", Form(Kind.CLASS)),
        Variant("json-held", 'Assess eligibility, using only the terms {options}. Reply with a JSON object that has '
                'the single key "eligibility".\nPatient: {first}\nTrial: {second}',
                Form(Kind.CLASS, json="eligibility")),
    ),
)  # fmt: skip
