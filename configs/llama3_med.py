"""Llama3-Med in two stages: align (the connector), then instruct (decoder and connector).

    biomedgpt train --workdir=runs/align \
        --config=configs/llama3_med.py:stage=1,tower=weights/h-optimus-0,decoder=weights/llama-3.1-8b,data=data/pubmedvision_align
    biomedgpt train --workdir=runs/instruct --config.init.run=runs/align \
        --config=configs/llama3_med.py:stage=2,tune=lora,tower=...,decoder=...,data=data/pubmedvision_instruct

The numbers are those of the published training scripts, which are not shown to be the paper's:
pretrain.sh (stage 1), finetune.sh (stage 2, full), finetune_lora.sh (lora), finetune_qlora.sh (qlora); batch
sizes are the README's targets (256 and 128 samples), in packed rows here. `tower` and `decoder` name a weights
folder made by `biomedgpt import`, or a preset, whose weights are then random and must be allowed to be; `weights` names
a whole imported model instead. `hardware=v5e-64` lays the run out for that slice (verbs/hardware.py says how); without
it `fsdp` takes all devices. `rows` are the packed rows of a step, over all devices.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from biomedgpt_jax.verbs.command_line import Config
from biomedgpt_jax.verbs.config_args import choose, parse_args
from biomedgpt_jax.verbs.hardware import mesh_for

# script value of the peak learning rate: (decoder, connector)
RATES = {"full": (2e-5, 2e-5), "lora": (2e-4, 2e-4), "qlora": (2e-4, 2e-4)}


def get_config(arg: str | None = None) -> ConfigDict:
    args = parse_args(
        arg,
        stage=1,
        tune="full",
        tower="bioptimus/H-optimus-0",
        decoder="llama-3.1-8b",
        scales=(224, 672, 1344),
        connector="mlp2x_gelu",
        data="",
        weights="",
        hardware="",
        rows=0,
    )
    if args["weights"]:  # the folder says what the call does not
        unsaid = {"tower": "", "decoder": "", "scales": (), "connector": ""}
        args |= {key: empty for key, empty in unsaid.items() if f"{key}=" not in (arg or "")}
    choose("stage", str(args["stage"]), ("1", "2"))
    tune = choose("tune", args["tune"], tuple(RATES))
    config = base(args["tower"], args["decoder"], args["scales"], args["connector"], args["data"])
    config.init.weights = args["weights"]
    if args["stage"] == 1:
        config.optim.learning_rate = 1e-3
        config.data.template = "align_eos"
        config.train.batch_rows = 64
        config.tune = ConfigDict({"tower": False, "connector": True, "decoder": "frozen"})
    else:
        decoder_rate, connector_rate = RATES[tune]
        config.optim.learning_rate = decoder_rate
        config.optim.group_rates = ConfigDict({"connector": connector_rate})
        config.train.batch_rows = 32
        config.tune = ConfigDict({"tower": False, "connector": True, "decoder": "full" if tune == "full" else "lora"})
        config.lora.base = "nf4" if tune == "qlora" else "bfloat16"
    config.train.batch_rows = args["rows"] or config.train.batch_rows
    if args["hardware"]:
        config.mesh = ConfigDict(mesh_for(args["hardware"], config.train.batch_rows))
    return config


def base(tower: str, decoder: str, scales: tuple[int, ...], connector: str, data: str) -> Config:
    """What both stages and the small runs share; every key that the trainer reads is here."""
    return ConfigDict(
        {
            "family": "llama3_med",
            "seed": 42,
            "model": {
                "tower": tower,
                "second_tower": "",  # a DINOv2 beside a CLIP: mixture of features, with connector=mof_mlp
                "scales": scales,  # one scale: no pyramid
                "keep_largest_map": False,
                "feature_layer": placeholder(int),  # not set: as published for the tower
                "final_norm": placeholder(bool),
                "keep_prefix": False,
                "connector": connector,
                "decoder": decoder,
                "compute_dtype": "bfloat16",
                "frozen_dtype": "bfloat16",
                "remat": {"tower": "full", "decoder": "full"},  # none, minimal, dots, full or offload
            },
            "init": {
                "run": "",  # an earlier run, whose trained parameters are taken over
                "weights": "",  # an imported LLaVA or Llama3-Med; its folder says the sizes, `model` above may be empty
                "random": ("connector",),  # parts that may start at random; all others need weights
            },
            "tokenizer": {
                "path": "",  # a tokenizer file or folder; empty: the one in the decoder's weights folder
                "train_vocab_size": 0,  # above 0: trained on the training texts, for models from scratch
            },
            "data": {
                "paths": (data,) if data else (),
                "weights": (1.0,) if data else (),
                "split": "train",
                "features": "",  # a cache made by `biomedgpt prepare --features`, read in the place of images
                "template": "llama3",
                "geometry": "pad",  # pad, resize or crop; with -fast: JPEG files are halved while they are decoded
                "row_tokens": 4096,
                "image_slots": 10,  # of 256 tokens: tokens and slots run out together (benchmarks/packing.py)
                "pack": True,
                "on_overflow": "error",
                "allow": (),  # codes of `biomedgpt lint`: errors of the data that a run goes on with; scores say them
                "workers": 8,
                "threads": 4,  # in each worker
                "cache_images": False,
            },
            "tune": {"tower": False, "connector": True, "decoder": "full"},
            "lora": {"rank": 128, "alpha": 256.0, "base": "bfloat16", "tile": placeholder(int)},
            "optim": {
                "learning_rate": 2e-5,
                "group_rates": {},
                "warmup_ratio": 0.03,
                "rate_decay": "cosine",  # or linear
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "decay_vectors": False,  # biases, norms and other vectors too
                "clip_norm": 1.0,
            },
            "train": {
                "batch_rows": 32,  # rows of `row_tokens` in a step, over all devices
                "accumulate": 1,
                "epochs": 1,
                "average_decay": 0.0,  # of a moving average of what is trained, which then answers; 0: none
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
            },
            "mesh": {"data": 1, "fsdp": -1, "tensor": 1, "context": 1},
            "log": {"tensorboard": True, "wandb": False},
            "compile_cache": "",  # a folder for compiled programs; "": the user's cache (none on CPUs); "off": none
            "profile": {"start": 0, "steps": 3},  # a trace for xprof from this step on; 0: none
        }
    )
