"""BiomedGPT: pre-training, fine-tuning on one task, or instruction tuning on a mixture.

    biomedgpt train --workdir=runs/vqa --config=configs/biomedgpt.py:task=vqa,weights=weights/base,data=data/vqa_rad
    biomedgpt train --workdir=runs/blood --config=configs/biomedgpt.py:task=classify,weights=...,data=data/blood
    biomedgpt ledger --config=configs/biomedgpt.py:size=huge

The numbers of pretrain, vqa, classify, caption, nli and summarise are those of the official scripts, for the batch of
all their devices together (pretrain's is that of tiny); batch and image size depend on the model's size as there.
`weights` is a folder made by `biomedgpt import`, which says the model; with those of tiny or medium say `size` too, or
batch and pictures are base's. `size` alone (tiny, medium, base, large, huge) begins at random, which must be allowed.
Ours, as nothing is published: everything of large and huge but their sizes (they take base's settings), and all of
instruct (one epoch over a mixture, free-form prompts, open answers). `hardware=v5e-16` lays the run out for that slice,
best with `size`: a model that a chip holds easily is not split.
Pre-training mixes pairs, texts, image codes and detection, published 8:2:1:1:

    --config.data.paths="('P','T','C','D')" --config.data.weights="(8.0,2.0,1.0,1.0)"
"""

from dataclasses import dataclass

from ml_collections import ConfigDict

from biomedgpt_jax.models.biomedgpt_config import PUBLISHED_PARAMETERS
from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.config_args import choose, parse_args
from biomedgpt_jax.verbs.hardware import mesh_for

SIZES = ("smoke", "tiny", "medium", "base", "large", "huge")


@dataclass(frozen=True)
class Recipe:
    """Of a task. Three numbers are those of tiny, medium and base."""

    rate: float
    epochs: int
    warmup: float
    batch: tuple[int, int, int]  # rows of a step: rows of a device, devices and accumulated parts multiplied
    image: tuple[int, int, int]  # pixels; 0: text alone
    smoothing: float
    source_tokens: int
    target_tokens: int
    answers: str = ""  # train: a closed list, of the training split
    method: str = "greedy"
    task: str = ""  # of every sample; "": as each says
    average: float = 0.0
    embeddings: bool = True
    pixels: str = "half"
    drop_worst: float = 0.0
    noise: float = 0.0
    answer_tokens: int = 0
    words: str = ""
    augmentation: str = ""


_VQA = Recipe(5e-5, 100, 0.04, (1024, 512, 256), (256, 256, 384), 0.1, 128, 160, "train", average=0.9999,
              embeddings=False, answer_tokens=40)  # fmt: skip
RECIPES = {
    "vqa": _VQA,
    "classify": Recipe(5e-5, 5, 0.6, (1536, 1536, 768), (384, 384, 384), 0.1, 32, 64, "train", "candidates",
                       "classification", embeddings=False, pixels="imagenet", augmentation="classified"),
    "caption": Recipe(1e-5, 100, 0.06, (128, 128, 128), (480, 480, 480), 0.1, 32, 64, method="beam", task="caption",
                      embeddings=False, drop_worst=0.2),
    "nli": Recipe(7e-5, 200, 0.06, (576, 576, 288), (0, 0, 0), 0.0, 512, 512, "train", "candidates", "nli"),
    "summarise": Recipe(1e-3, 300, 0.06, (320, 320, 320), (0, 0, 0), 0.1, 512, 256, method="beam", task="summary",
                        noise=0.2),
    "pretrain": Recipe(5e-5, 20, 0.01, (160, 160, 160), (256, 256, 256), 0.0, 288, 272, augmentation="captioned"),
    "instruct": Recipe(5e-5, 1, 0.04, (256, 256, 256), (384, 384, 384), 0.1, 256, 256, task="instruction"),
}  # fmt: skip
PROTOCOLS = {"classify": "classify/v1", "nli": "classify/v1", "caption": "report/v1", "summarise": "report/v1"}
# Beams, length penalty, words in a row said once. The penalty of captions is ours (fairseq's default): none was found.
BEAMS = {"caption": (10, 1.0, 3), "summarise": (5, 0.7, 3)}
MOST_SAID = {"summarise": 128, "instruct": 128}  # tokens of an answer


def get_config(arg: str | None = None) -> ConfigDict:
    args = parse_args(arg, task="vqa", size="", weights="", data="", eval="", hardware="", rows=0)
    task = choose("task", args["task"], tuple(RECIPES))
    size = choose("size", args["size"] or "base", SIZES)
    recipe, column = RECIPES[task], min(max(SIZES.index(size) - 1, 0), 2)
    config = base(args["size"] or ("" if args["weights"] else "base"), recipe.image[column], args["data"])
    config.init.weights = args["weights"]
    config.model.pixels = recipe.pixels
    config.data.task, config.data.words, config.data.noise = recipe.task, recipe.words, recipe.noise
    config.data.answers, config.data.augmentation = recipe.answers, recipe.augmentation
    config.data.source_tokens, config.data.target_tokens = recipe.source_tokens, recipe.target_tokens
    config.data.answer_tokens = recipe.answer_tokens
    config.loss = ConfigDict({"label_smoothing": recipe.smoothing, "drop_worst": recipe.drop_worst, "drop_after": 600})
    config.tune.embeddings = recipe.embeddings
    config.optim.learning_rate, config.optim.warmup_ratio = recipe.rate, recipe.warmup
    config.train.epochs, config.train.batch_rows = recipe.epochs, args["rows"] or recipe.batch[column]
    config.train.average_decay = recipe.average
    if task == "pretrain":
        config.optim.clip_norm = 5.0
        config.data.pretraining, config.data.patches_kept, config.data.source_buckets = True, 196, ()
    config.eval.protocol = PROTOCOLS.get(task, config.eval.protocol)
    config.eval.method = recipe.method
    config.eval.beams, config.eval.length_penalty, config.eval.no_repeat = BEAMS.get(task, (1, 0.0, 0))
    config.eval.max_new_tokens = MOST_SAID.get(task, config.eval.max_new_tokens)
    config.eval.paths = (args["eval"],) if args["eval"] else ()
    if args["hardware"]:
        parameters = PUBLISHED_PARAMETERS.get(args["size"])
        config.mesh = ConfigDict(mesh_for(args["hardware"], config.train.batch_rows, parameters))
    return config


def base(size: str, image_size: int, data: str) -> Config:
    """What all recipes and the small run share; every key that the trainer reads is here."""
    return ConfigDict(
        {
            "family": "biomedgpt",
            "seed": 1,
            "model": {
                "size": size,  # "": as config.init.weights says
                "vocab_size": 0,  # 0: the published 59,457; else of a model from scratch
                "text_positions": 0,  # 0: as the size says (1,024); more stretch the tables of imported weights
                "image_size": image_size or 256,
                "pixels": "half",  # means and deviations that normalise: half or imagenet
                "dropout": 0.1,
                "drop_path": 0.1,
                "batch_norm": "local",  # local (each device for itself, as published), synced or frozen
                "compute_dtype": "bfloat16",
                "frozen_dtype": "float32",
                "remat": {"layers": "none"},  # none, minimal, dots, full or offload
            },
            "init": {
                "run": "",  # an earlier run, whose answering parameters are taken over
                "weights": "",  # an imported BiomedGPT
                "random": False,  # whether a run may begin without weights
            },
            "tokenizer": {
                "path": "",  # a folder of BART's files; empty: the one in the folder of weights
                "train_words": 0,  # above 0: trained on the training texts, with so many image codes and bins
                "codes": 8192,
                "bins": 1000,
            },
            "data": {
                "paths": (data,) if data else (),
                "weights": (1.0,) if data else (),
                "split": "train",
                "task": "",  # how every sample is put; "": as each says
                "classified": (),  # tasks of samples, such as organ, that are put as classification
                "words": "",  # limits in words, SOURCE/TARGET; "": as published for the task
                "hint": "",  # the field of a sample's meta that is told with the question, at test time too
                "lower_answers": True,
                "geometry": "resize",
                "pictures": image_size > 0,
                "answers": "",  # a closed list: train (of the training splits) or a file; "": open
                "source_tokens": 128,
                "source_buckets": (),  # smaller static shapes; sources go to the first that holds them
                "target_tokens": 64,  # what the decoder reads, with what it is given
                "answer_tokens": 0,  # of an answer without its end; 0: as many as target_tokens leave
                "augmentation": "",  # of pictures: captioned, classified (flips them), classified-unflipped
                "pretraining": False,  # several examples of each row, by its task
                "mask_ratio": 0.3,  # of the words of a text that pre-training hides
                "flips": False,  # of pictures whose objects pre-training finds; refused where a text names sides
                "patches_kept": 0,  # that pre-training sees of a picture with its caption or question; 0: all
                "noise": 0.0,  # share of the decoder's words that are replaced by random ones
                "on_overflow": "error",
                "allow": (),  # codes of `biomedgpt lint`: errors of the data that a run goes on with; scores say them
                "workers": 8,
                "threads": 4,  # in each worker
                "cache_images": False,
            },
            "tune": {"embeddings": True},
            "loss": {
                "label_smoothing": 0.0,
                "drop_worst": 0.0,  # share of the tokens of highest loss that is left out
                "drop_after": 600,  # updates
            },
            "optim": {
                "learning_rate": 5e-5,
                "group_rates": {},
                "warmup_ratio": 0.04,
                "rate_decay": "linear",
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.01,
                "decay_vectors": True,
                "clip_norm": 1.0,
            },
            "train": {
                "batch_rows": 256,  # rows in a step, over all devices
                "accumulate": 1,
                "epochs": 1,
                "average_decay": 0.0,
                "loss_chunk": 512,  # tokens of a row whose logits exist at a time
                "log_every": 10,
                "save_every": 500,
                "keep": 3,
            },
            "eval": {
                "paths": (),  # prepared sets scored when training starts and ends
                "split": "test",
                "protocol": "strict/v1",
                "batch_rows": 16,
                "max_new_tokens": 32,
                "method": "greedy",  # greedy, beam, or candidates: all answers of a closed list
                "beams": 1,
                "length_penalty": 0.0,
                "no_repeat": 0,
                "min_length": 1,  # tokens of what a beam says, as published: no empty answer
            },
            "mesh": {"data": 1, "fsdp": -1, "tensor": 1, "context": 1},
            "log": {"tensorboard": True, "wandb": False},
            "compile_cache": "",  # a folder for compiled programs; "": the user's cache (none on CPUs); "off": none
            "profile": {"start": 0, "steps": 3},  # a trace for xprof from this step on; 0: none
        }
    )
