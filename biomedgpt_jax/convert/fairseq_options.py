"""Settings of a fairseq run that say nothing about what its model computes: data, optimisation, logging, decoding.

A checkpoint stores all settings of its training in one list. What is neither here nor read by biomedgpt_settings.py is
refused where it is set to anything.
"""

import re

# Groups of options by how their names begin.
_GROUPS = (
    "adam|adagrad|adafactor|amp|azureml|best_checkpoint|bpe|bucket_cap|cache|caption|checkpoint|code_dict|constraint"
    "|curriculum|data|dataset|ddp|detection|detok|distributed|drop_worst|ema|eval|fp16|fp32|gen|gpt2|heartbeat|image_data"
    "|keep|label|load_checkpoint|localsgd|log|lr|mask|max_(area|aspect|bins|coordinate|epoch|image|len|object|sentences"
    "|src|tgt|tokens|update|valid)|memory_efficient|min_(area|aspect|image|len|loss|lr)|neg_sample|no_(epoch|last"
    "|progress|repeat|reshard|save|seed|shuffle)|num_(bins|seqs|shards|workers)|optimizer|patch_image|pipeline|plasma"
    "|poisson|print|profile|prompt_type|pure_(image|text)|random|replace|required|reset|restore|rouge|sample|save|scst"
    "|selected|shard|skip|slowmo|src_|stop|tensorboard|text_(data|selected)|tgt_|tokenizer|total_num|train_|update"
    "|use_(bmuf|bpe|dual|ema|encouraging|latest|old|plasma|rdrop|sharded|static|vqvae|weighted)|val|vqgan|wandb|warmup"
    "|weight_decay|write_checkpoints|zero"
)
_NAMES = (
    "_name|acc_thresh|action|add_caption|add_object|all_gather_list_size|ans2label_dict|ans2label_file|arch"
    "|average_sync|batch_size|bf16|block_lr|block_momentum|broadcast_buffers|cand|clip_model_path|clip_norm"
    "|combine_valid_subsets|config_yaml|continue_once|cpu|cpu_offload|criterion|device_id|disable_validation"
    "|empty_cache_freq|end_learning_rate|eos|eos_penalty|epoch_row_count|fast_stat_sync|find_unused_parameters"
    "|finetune_from_model|fix_batches_to_gpus|fixed_validation_seed|force_anneal|global_sync_iter"
    "|gradient_as_bucket_view|grouped_shuffling|ignore_eos|ignore_prefix_size|ignore_unused_valid_subsets"
    "|imagenet_default_mean_and_std|insert|interactive|is_label|is_large_scale|keep_ratio|left_pad_source"
    "|left_pad_target|length_bound|local_rank|log_end|maximize_best_checkpoint_metric|merges|model_parallel_size"
    "|noise_ratio|nprocs_per_node|num_class|object|on_cpu_convert_precision|orig_patch_image_size|pad|path"
    "|patience|permute|permute_sentences|poolers|power|pretrain_seed|reg_alpha|report_accuracy|rotate|scoring|seed"
    "|sentence_avg|simul_type|source_lang|spectral_norm_classification_head|store_ema|suppress_crashes|target_lang"
    "|task|threshold_loss_scale|tpu|unconstrained_training|unk|upsample_primary|use_nbm|user_dir|uses_ema"
    "|valid_batch_size|valid_subset|validate_after_updates|validate_interval|validate_interval_updates|zero_shot"
)
# Options of the model that act in training alone, or on heads that nothing here has.
_TRAINING = (
    "activation_dropout|adapter_dim|adaptive_softmax_dropout|attention_dropout|bitfit|checkpoint_activations"
    "|decoder_drop_path_rate|decoder_embed_path|decoder_layerdrop|decoder_prompt_dim|decoder_prompt_length"
    "|decoder_prompt_projection|decoder_prompt_type|dropout|encoder_drop_path_rate|encoder_embed_path"
    "|encoder_layerdrop|encoder_prompt_dim|encoder_prompt_length|encoder_prompt_projection|encoder_prompt_type"
    "|freeze_decoder|freeze_decoder_embedding|freeze_encoder|freeze_encoder_embedding|freeze_resnet"
    "|min_params_to_wrap|offload_activations|pooler_activation_fn|pooler_classifier|pooler_dropout|quant_noise_pq"
    "|quant_noise_pq_block_size|quant_noise_scalar|quantization_config_path|relu_dropout|resnet_drop_path_rate"
    "|resnet_model_path"
)
_IGNORED = re.compile(rf"({_NAMES}|{_TRAINING}|({_GROUPS})(_.*)?)")


def is_training_option(name: str) -> bool:
    """Whether a setting is known to be of a run and not of its model's function."""
    return _IGNORED.fullmatch(name) is not None
