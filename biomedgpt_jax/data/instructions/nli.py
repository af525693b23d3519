"""Whether one text follows from another. Texts stand last, because long ones are cut at their end."""

from biomedgpt_jax.data.instructions.form import Form, Kind
from biomedgpt_jax.data.instructions.variant import Instructions, Variant

NLI = Instructions(
    "nli",
    needs=frozenset({"first", "second"}),
    given=frozenset({"options", "lettered"}),
    variants=(
        Variant("imply", "Does the first statement imply the second? Answer with one of: {options}.\nFirst: {first}\n"
                "Second: {second}", Form(Kind.CLASS)),
        Variant("follows", "Read the premise and say whether the hypothesis follows from it. Allowed answers: "
                "{options}.\nPremise: {first}\nHypothesis: {second}", Form(Kind.CLASS)),
        Variant("letter", "Is the claim true of the patient in the note?\n{lettered}\nGive the letter alone.\n"
                "Note: {first}\nClaim: {second}", Form(Kind.LETTER)),
        Variant("json", 'Judge whether text 1 entails text 2 ({options}). Return only JSON: {{"answer": "..."}}\n'
                "Text 1: {first}\nText 2: {second}", Form(Kind.CLASS, json="answer")),
        Variant("conclude", "May a doctor who has read A conclude B? Choose a single answer from: {options}.\n"
                "A: {first}\nB: {second}", Form(Kind.CLASS)),
        Variant("support", "Say whether the record supports the sentence. Use only these answers: {options}.\n"
                "Record: {first}\nSentence: {second}", Form(Kind.CLASS)),
        Variant("held", "Given the clinical text below, how certain is the statement under it? Pick from: {options}, "
                "and add nothing.\nClinical text: {first}\nStatement: {second}", Form(Kind.CLASS)),
        Variant("letter-held", "Compare both sentences. What holds for the second, given the first?\n{lettered}\n"
                "One letter, please.\n1: {first}\n2: {second}", Form(Kind.LETTER)),
    ),
)  # fmt: skip
