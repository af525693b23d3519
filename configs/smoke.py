"""The small run of launch/smoke.sh: a Llama3-Med that learns to read VQA-RAD in minutes on two CPU cores.

    biomedgpt train --workdir=runs/stage1 --config=configs/smoke.py:stage=1,data=data/vqa_rad

No pretrained weights are at hand there, so everything starts at random and stage 1 trains all of it; stage 2 then
freezes the tower, as the published recipe does, and goes on with decoder and connector.
"""

from llama3_med import base
from ml_collections import ConfigDict

from biomedgpt_jax.verbs.config_args import choose, parse_args


def get_config(arg: str | None = None) -> ConfigDict:
    args = parse_args(arg, stage=1, data="", body_parts="", vocabulary=1000)
    first = choose("stage", str(args["stage"]), ("1", "2")) == "1"
    config = base("smoke-clip", "smoke", (64,), "mlp2x_gelu", args["data"])
    config.model.feature_layer = -1  # all blocks of so small a tower
    config.model.compute_dtype = config.model.frozen_dtype = "float32"
    config.model.remat = {"tower": "none", "decoder": "none"}
    config.init.random = ("tower", "connector", "decoder")
    config.tokenizer.train_vocab_size = args["vocabulary"]
    config.tune = ConfigDict({"tower": first, "connector": True, "decoder": "full"})
    config.eval.paths = config.data.paths
    if args["body_parts"]:
        # A tower that starts at random needs to see the easy question often before it sees anything else.
        config.data.paths = (*config.data.paths, args["body_parts"])
        config.data.weights = (0.5, 0.5) if first else (0.75, 0.25)
    config.data.row_tokens = 256
    config.data.image_slots = 4
    config.data.workers = 0
    config.data.cache_images = True
    config.optim.learning_rate = 1e-3 if first else 1e-4
    config.optim.b2 = 0.98
    config.optim.warmup_ratio = 0.05
    config.optim.weight_decay = 0.05
    config.train.epochs = 4 if first else 2
    if not args["body_parts"]:
        config.train.epochs = 10 if first else 1  # the built-in set is a quarter of the size
    config.train.batch_rows = 8
    config.train.loss_chunk = 256
    config.train.log_every = 20
    config.train.save_every = 100
    return config
