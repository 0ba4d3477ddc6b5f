"""Names that people write under ``training`` and that are not to be set there, each with what to write instead."""

from __future__ import annotations

from collections.abc import Mapping

_HUB = "publish.store says where models go"
_METRICS = "it computes `metrics` after every evaluation"
_RESUME = "a killed training resumes from its newest complete checkpoint"
_COLUMNS = "dataset.text and dataset.label name the columns"
_FROM_MODEL = "it comes from model.base"
_STEP = "each step does one thing"

# Fields of TrainingArguments, and parameters of Trainer, that retrainer decides.
OWNED: Mapping[str, str] = {
    "output_dir": "checkpoints belong to the run's artifact",
    "do_train": _STEP,
    "do_eval": _STEP,
    "do_predict": _STEP,
    "remove_unused_columns": "it hands the model exactly the columns that it needs",
    "label_names": _COLUMNS,
    "length_column_name": "rows are grouped by their number of tokens",
    "resume_from_checkpoint": _RESUME,
    "restore_callback_states_from_checkpoint": _RESUME,
    "save_only_model": "a checkpoint without the optimizer's state could not be resumed",
    "enable_jit_checkpoint": "it ends a training on SIGTERM by itself",
    "local_rank": "resources.processes says how many processes train",
    "disable_tqdm": "progress goes to the task log and the terminal",
    "prediction_loss_only": _METRICS,
    "include_for_metrics": _METRICS,
    "batch_eval_metrics": _METRICS,
    "eval_do_concat_batches": _METRICS,
    "include_inputs_for_metrics": _METRICS,
    "push_to_hub": _HUB,
    "hub_token": _HUB,
    "hub_private_repo": _HUB,
    "hub_model_id": _HUB,
    "hub_strategy": _HUB,
    "hub_always_push": _HUB,
    "hub_revision": _HUB,
    "push_to_hub_model_id": _HUB,
    "push_to_hub_organization": _HUB,
    "push_to_hub_token": _HUB,
    "model": _FROM_MODEL,
    "model_init": _FROM_MODEL,
    "processing_class": _FROM_MODEL,
    "tokenizer": _FROM_MODEL + ", and the Trainer's parameter of that name is called processing_class today",
    "train_dataset": "dataset.train names it",
    "eval_dataset": "dataset.validation names it",
    "data_collator": "batches are padded to their longest row",
    "compute_metrics": _METRICS,
}

# What follows "today it is".
RENAMED: Mapping[str, str] = {
    "evaluation_strategy": "'eval_strategy'",
    "evaluate_during_training": "'eval_strategy: steps'",
    "per_gpu_train_batch_size": "'per_device_train_batch_size'",
    "per_gpu_eval_batch_size": "'per_device_eval_batch_size'",
    "no_cuda": "'use_cpu'",
    "group_by_length": "'train_sampling_strategy: group_by_length' (which is retrainer's default)",
    "warmup_ratio": "'warmup_steps', where a number below 1 is the share of all steps",
    "adafactor": "'optim: adafactor'",
    "torchdynamo": "'torch_compile_backend'",
    "xpu_backend": "'ddp_backend'",
    "sharded_ddp": "'fsdp'",
    "fsdp_min_num_params": "'fsdp_config: {min_num_params: ...}'",
    "fsdp_transformer_layer_cls_to_wrap": "'fsdp_config: {transformer_layer_cls_to_wrap: ...}'",
    "dispatch_batches": "'accelerator_config: {dispatch_batches: ...}'",
    "split_batches": "'accelerator_config: {split_batches: ...}'",
    "include_tokens_per_second": "'include_num_input_tokens_seen'",
    "tpu_metrics_debug": "'debug: tpu_metrics_debug'",
    "half_precision_backend": "'fp16' or 'bf16', which always use torch's own",
    "fp16_backend": "'fp16', which always uses torch's own",
}

REMOVED: Mapping[str, str] = {
    "overwrite_output_dir": "retrainer never overwrites an artifact; drop it",
    "logging_dir": "logs are in the run's folder; TensorBoard reads the variable TENSORBOARD_LOGGING_DIR",
    "save_safetensors": "checkpoints are always safetensors; drop it",
    "fp16_opt_level": "it belonged to Apex; 'fp16: true' or 'bf16: true' is enough",
    "jit_mode_eval": "what is served is an ONNX graph; drop it",
    "use_ipex": "torch has taken it in; drop it",
    "use_mps_device": "the device is found by itself; drop it, or set 'use_cpu: true'",
    "past_index": "no classifier used it; drop it",
    "use_legacy_prediction_loop": "there is one loop; drop it",
    "tpu_num_cores": "retrainer trains on CPU or GPU; drop it",
    "ray_scope": "it belonged to hyperparameter search; drop it",
    "mp_parameters": "it belonged to SageMaker; drop it",
    "_n_gpu": "resources.gpus says how many GPUs are leased",
}

# What people write although no version had it. What follows "write".
ELSEWHERE: Mapping[str, str] = {
    "batch_size": "'per_device_train_batch_size'",
    "train_batch_size": "'per_device_train_batch_size'",
    "eval_batch_size": "'per_device_eval_batch_size'",
    "epochs": "'num_train_epochs'",
    "num_epochs": "'num_train_epochs'",
    "lr": "'learning_rate'",
    "scheduler": "'lr_scheduler_type'",
    "lr_scheduler": "'lr_scheduler_type'",
    "optimizer": "'optim'",
    "early_stopping": "'early_stopping_patience: N'",
    "patience": "'early_stopping_patience'",
    "max_length": "'max_length' under 'model'",
    "max_seq_length": "'max_length' under 'model'",
    "metrics": "'metrics' at the top level",
    "gpus": "'gpus' under 'resources'",
}
