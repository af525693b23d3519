"""Instruction data written by a language model from captions:

    biomedgpt synth --out=data/roco_synth --config=configs/synth.py:data=data/roco,provider=anthropic,model=MODEL
    biomedgpt synth --out=data/roco_synth --config=configs/synth.py:data=data/roco,provider=openai,model=MODEL \
        --config.endpoint.url=http://127.0.0.1:8000/v1

`provider=openai` is any endpoint that speaks that protocol. The key is read from the environment (ANTHROPIC_API_KEY,
OPENAI_API_KEY). Nothing is sent before an estimate is printed; --estimate prints it alone. See docs/synth.md.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from biomedgpt_jax.verbs.config_args import choose, parse_args


def get_config(arg: str | None = None) -> ConfigDict:
    args = parse_args(arg, data=("",), provider="anthropic", model="", split="train")
    return ConfigDict(
        {
            "synth": {
                "data": tuple(path for path in args["data"] if path),  # prepared folders
                "split": args["split"],
                "rows": 0,  # of each folder, drawn by the seed; 0: all
                "seed": 0,
                "caption": "",  # field of meta with the caption; "": looked for, else the answer of a captioning row
                "prompts": ("conversation_v1", "description_v1", "reasoning_v1"),
                "prompts_folder": "",  # your own prompts; "": those of the package
                "language": "English",  # or Chinese
                "send_images": False,  # to a model that sees
            },
            "endpoint": {
                "provider": choose("provider", args["provider"], ("anthropic", "openai")),
                "model": args["model"],
                "url": "",  # "": the provider's own
                "key_variable": "",  # "": ANTHROPIC_API_KEY or OPENAI_API_KEY
                "timeout": 120.0,  # seconds
                "stream": False,
                "max_tokens": 1500,
                "token_field": "",  # max_tokens or max_completion_tokens; "": as the provider's own endpoint has it
                "temperature": placeholder(float),  # not sent unless given: some models refuse it
                "extra": ConfigDict(),  # other fields of the request's body
                "credentialed_host": "",  # a host that may read credentialed data, by an agreement that you hold
            },
            "checks": {
                "tries": 3,  # requests per row and prompt until an answer is good
                "turns": (3, 8),
                "conversation_words": (1, 120),  # of each answer
                "description_words": (15, 250),
                "reasoning_words": (15, 250),
            },
            "limits": {
                "concurrency": 4,
                "requests_per_minute": 0,  # 0: no limit
                "tokens_per_minute": 0,
                "attempts": 6,  # of a request that meets a busy or broken endpoint
                "first_seconds": 1.0,  # pause before the second attempt, doubled for each one after
                "longest_seconds": 60.0,
                "resend": True,  # ask again what was in flight when a run was killed or a connection broke
            },
            # Of a million tokens; none are known here. Batches have their own.
            "prices": {
                "input": placeholder(float),
                "output": placeholder(float),
                "currency": "USD",
                "image_tokens": 0,  # what an image costs; must be given to send images
            },
        }
    )
