"""The small run of `launch/smoke.sh biomedgpt`: a BiomedGPT that learns to classify and to answer in minutes.

    biomedgpt train --workdir=runs/small --config=configs/smoke_biomedgpt.py:data=data/vqa_rad

Everything starts at random, with a vocabulary that is trained on the data's texts; one model classifies the body part
(without a question) and answers all other questions, each from the closed list of the training answers.
"""

from biomedgpt import base
from ml_collections import ConfigDict

from biomedgpt_jax.verbs.config_args import parse_args

WORDS, CODES, BINS = 600, 16, 16
MARKS = 5  # <s> <pad> </s> <unk> <mask>


def get_config(arg: str | None = None) -> ConfigDict:
    args = parse_args(arg, data="", body_parts="", epochs=5)
    config = base("smoke", 64, args["data"])
    config.model.vocab_size = WORDS + MARKS + CODES + BINS
    config.model.dropout = config.model.drop_path = 0.0
    config.model.compute_dtype = "float32"
    config.init.random = True
    config.tokenizer.train_words, config.tokenizer.codes, config.tokenizer.bins = WORDS, CODES, BINS
    config.eval.paths = config.data.paths
    if args["body_parts"]:
        config.data.paths = (*config.data.paths, args["body_parts"])
        config.data.weights = (0.6, 0.4)
    config.data.classified = ("organ",)
    config.data.answers = "train"
    config.data.source_tokens, config.data.target_tokens = 48, 48
    config.data.on_overflow = "skip"
    config.data.workers = 0
    config.data.cache_images = True
    config.optim.learning_rate = 1e-3
    config.optim.b2 = 0.98
    config.optim.warmup_ratio = 0.05
    config.train.batch_rows = 32
    config.train.epochs = args["epochs"]
    config.train.average_decay = 0.98
    config.train.log_every = 20
    config.train.save_every = 100
    config.eval.batch_rows = 32
    return config
