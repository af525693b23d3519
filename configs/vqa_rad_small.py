"""A real small LLaVA on VQA-RAD: DINOv2-S, SmolLM2-135M-Instruct, two stages; see benchmarks/vqa_rad_small/.

    biomedgpt train --workdir=runs/stage1 \
        --config=configs/vqa_rad_small.py:stage=1,tower=weights/tower,decoder=weights/decoder,data=data/official
    biomedgpt train --workdir=runs/stage2 --config.init.run=runs/stage1 \
        --config=configs/vqa_rad_small.py:stage=2,tower=weights/tower,decoder=weights/decoder,data=data/official

Stage 1 trains the connector, stage 2 the connector and adapters in all linears of the decoder. Both read the same
questions: VQA-RAD has no captions to align on.
"""

from llama3_med import base
from ml_collections import ConfigDict

from biomedgpt_jax.verbs.config_args import choose, parse_args


def get_config(arg: str | None = None) -> ConfigDict:
    args = parse_args(arg, stage=1, tower="", decoder="", data="", features="", scales=(70, 210))
    first = choose("stage", str(args["stage"]), ("1", "2")) == "1"
    config = base(args["tower"], args["decoder"], args["scales"], "mlp2x_gelu", args["data"])
    config.model.compute_dtype = config.model.frozen_dtype = "float32"
    config.model.remat = {"tower": "none", "decoder": "none"}
    config.data.template = "chatml"
    config.data.features = args["features"]
    config.data.row_tokens = 256
    config.data.image_slots = 7
    config.data.workers = 0
    config.data.cache_images = True
    config.tune = ConfigDict({"tower": False, "connector": True, "decoder": "frozen" if first else "lora"})
    config.lora.rank, config.lora.alpha = 32, 64.0
    config.optim.learning_rate = 1e-3
    config.optim.warmup_ratio = 0.05
    config.train.batch_rows = 4
    config.train.epochs = 1 if first else 2
    config.train.loss_chunk = 32
    config.train.log_every = 5
    config.train.save_every = 30
    config.train.keep = 1
    return config
