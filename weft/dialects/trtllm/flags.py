"""TensorRT-LLM's words: flags of its commands and keys of its YAML files. Data only."""

from __future__ import annotations

from dataclasses import replace

from weft.dialects.flags import Flag, Table, parse_table

_FLAGS = """
* --tensor_parallel_size --tp_size --tp  int
* --pipeline_parallel_size --pp_size --pp  int
* --context_parallel_size --cp_size --cp  int
* --moe_expert_parallel_size --ep_size --ep --moe_ep_size --expert_parallel_size  int
* --moe_tensor_parallel_size --moe_tp_size  int
* --moe_cluster_parallel_size --cluster_size --moe_cluster_size  int
* --gpus_per_node  int
* --enable_attention_dp  switch
--config --extra_llm_api_options --config_file -c --extra_engine_args as config_file  str
--server_role  str
--model --model_dir as model  str
--model_path  str
--host  str
--port  int
--served_model_name  str
--tokenizer  str
--custom_tokenizer  str
--backend  str
--dtype  str
--max_batch_size as max_num_seqs  int
--max_num_tokens as max_num_batched_tokens  int
--max_seq_len as max_model_len  int
--max_beam_width  int
--max_input_len  int
--free_gpu_memory_fraction --kv_cache_free_gpu_memory_fraction --kv_cache_fraction as free_gpu_memory_fraction  float
--kv_cache_free_gpu_mem_fraction as free_gpu_memory_fraction  float
--kv_cache_dtype  str
--moe_backend  str
--attention_backend  str
--num_postprocess_workers  int
--input_processor_workers  int
--media_load_workers  int
--trust_remote_code  switch
--revision --hf_revision as revision  str
--reasoning_parser  str
--tool_parser  str
--metadata_server_config_file -m  str
--fail_fast_on_attention_window_too_large  switch
--otlp_traces_endpoint  str
--disagg_cluster_uri  str
--enable_chunked_prefill  switch
--disable_kv_cache_reuse  switch
--use_cuda_graph  switch
--print_iter_log  switch
--media_io_kwargs  str
--chat_template  str
--custom_module_dirs  str
--allow_request_chat_template  switch
--log_level -l  str
--middleware  str
--post_processor_hook  str
--agent_percentage  float
--agent_types  str
--telemetry  boolean
--grpc  switch
--enable_visual_gen  switch
--visual_gen_args  str
--video_pruning_rate  float
--server_start_timeout -t  int
--request_timeout -r  int
--schedule_style -s  str
--metrics_log_interval  int
--extra_encoder_options  str
--dataset  str
--warmup  int
--num_requests  int
--concurrency  int
--streaming  switch
--scenario  str
--report_json  str
--iteration_log  str
--engine_dir  str
--target_input_len  int
--target_output_len  int
--ignore_eos  maybe
--quantization  str
--spec_decode_algo  str
--spec_decode_nextn --spec_decode_max_draft_len as spec_decode_max_draft_len  int
--publish_events_and_metrics  switch
--disaggregation_mode  str
--disaggregation_strategy  str
--kv_block_size as block_size  int
--workspace -w  str
--prompt  str
--disable_overlap_scheduler  switch
--enable_block_reuse as enable_prefix_caching  switch
"""


def _both_spellings(flag: Flag) -> Flag:
    """Flags are spelled with underscores; the same with dashes is meant alike."""
    dashed = ["--" + name[2:].replace("_", "-") for name in flag.names if name.startswith("--")]
    return replace(flag, names=tuple(dict.fromkeys((*flag.names, *dashed))))


TABLE = Table(tuple(_both_spellings(flag) for flag in parse_table(_FLAGS)), prefixes=False)

SIZES = {
    "tensor_parallel_size": ("tp_size", "tp", "world_size"),
    "pipeline_parallel_size": ("pp_size", "pp"),
    "context_parallel_size": ("cp_size", "cp"),
    "moe_expert_parallel_size": ("ep_size", "ep", "moe_ep_size"),
    "moe_tensor_parallel_size": ("moe_tp_size",),
    "moe_cluster_parallel_size": ("cluster_size", "moe_cluster_size"),
    "gpus_per_node": (),
    "enable_attention_dp": (),
    "enable_lm_head_tp_in_adp": (),
}
"""Keys of a file that decide the layout, and what else they are called."""

RENAMED = {
    "max_batch_size": "max_num_seqs",
    "max_num_tokens": "max_num_batched_tokens",
    "max_seq_len": "max_model_len",
    "kv_cache_config.tokens_per_block": "block_size",
    "kv_cache_config.enable_block_reuse": "enable_prefix_caching",
    "kv_cache_config.free_gpu_memory_fraction": "free_gpu_memory_fraction",
    "kv_cache_config.dtype": "kv_cache_dtype",
    "moe_config.backend": "moe_backend",
}
"""Keys of a file -> names of options that several engines share, or that the flags have."""

_PLAIN_KEYS = """
model tokenizer tokenizer_mode custom_tokenizer skip_tokenizer_init trust_remote_code dtype revision
tokenizer_revision backend enable_lora lora_config batched_logits_processor guided_decoding_backend speculative_config
max_batch_size max_input_len max_seq_len max_beam_width max_num_tokens load_format enable_chunked_prefill
kv_cache_config stream_interval iter_stats_max_iterations request_stats_max_iterations return_perf_metrics
peft_cache_config scheduler_config cache_transceiver_config gather_generation_logits num_postprocess_workers
postprocess_tokenizer_dir reasoning_parser fail_fast_on_attention_window_too_large garbage_collection_gen0_threshold
build_config cuda_graph_config attention_dp_config checkpoint_loader checkpoint_format mm_encoder_only
disable_overlap_scheduler attn_backend sampler_type enable_iter_perf_stats enable_iter_req_stats batch_wait_timeout_ms
batch_wait_timeout_iters batch_wait_max_tokens_ratio print_iter_log perf_metrics_max_requests torch_compile_config
enable_autotuner enable_layerwise_nvtx_marker enable_min_latency force_dynamic_quantization allreduce_strategy
decoding_config kv_connector_config orchestrator_type sparse_attention_config ray_worker_extension_cls
ray_placement_config normalize_log_probs batching_type enable_mixed_sampler enable_trtllm_sampler use_torch_sampler
kv_cache_dtype moe_backend use_cuda_graph cuda_graph_batch_sizes cuda_graph_padding_enabled cuda_graph_max_batch_size
moe_max_num_tokens moe_load_balancer quant_config embedding_parallel_mode enable_energy_metrics env_overrides
otlp_traces_endpoint nvfp4_gemm_config num_serve_frontends video_pruning_rate disable_flashinfer_sampling
max_stats_len mm_processor_kwargs workspace host port hostname server_role chat_template served_model_name
telemetry_config encode_only disagg_cluster layer_wise_benchmarks_config runtime compile_backend free_mem_ratio
transforms model_kwargs skip_loading_weights simple_shard_only shard_matrix_dims sharding_source yaml_extra
model_factory kv_cache_free_gpu_memory_fraction tool_parser num_instances urls router max_retries
max_attention_window_size enable_iter_perf free_gpu_memory_fraction enable_attention_dp_balance
"""
KEYS = frozenset(
    (
        *_PLAIN_KEYS.split(),
        *SIZES,
        *(alias for aliases in SIZES.values() for alias in aliases),
        *("pp_partition", "cp_config", "moe_config"),
    )
)
"""Keys that a file of one engine may have at its top."""

SERVERS = {
    "context_servers": "prefill",
    "generation_servers": "decode",
    "ctx": "prefill",
    "gen": "decode",
    "context": "prefill",
    "generation": "decode",
    "prefill": "prefill",
    "decode": "decode",
}
"""Sections that describe an engine of a disaggregated deployment, and its role."""

ROLE_KEYS = (
    *("context", "generation", "ctx", "gen", "ctx_tp_size", "gen_tp_size", "num_ctx_servers", "num_gen_servers"),
    *("ctx_tensor_parallel_size", "gen_tensor_parallel_size"),
)
"""Two of these keys make a text look like a disaggregated deployment of this engine."""

CP_TYPES = ("ULYSSES", "STAR", "RING", "HELIX")
OWN_KEYS = (
    *("enable_attention_dp", "moe_config", "moe_expert_parallel_size", "moe_tensor_parallel_size", "kv_cache_config"),
    *("cuda_graph_config", "cache_transceiver_config", "disable_overlap_scheduler", "initial_global_assignments"),
    *("layer_updates_per_iter", "context_servers", "generation_servers", "enable_lm_head_tp_in_adp", "pp_partition"),
    *("print_iter_log", "free_gpu_memory_fraction", "moe_cluster_parallel_size", "attention_dp_config"),
)
"""Keys that no other engine has."""
