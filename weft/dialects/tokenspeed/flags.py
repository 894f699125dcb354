"""TokenSpeed's flags: names, kinds and what became of them. Data only; the sizes' meaning is in `tokenspeed`."""

from __future__ import annotations

from weft.dialects.flags import Table, parse_table

_SIZES = """
* --tensor-parallel-size --tp as tensor_parallel_size  int
* --attn-tp-size  int
* --dense-tp-size  int
* --moe-tp-size  int
* --data-parallel-size --dp-size --dp as data_parallel_size  int
* --expert-parallel-size --ep-size --ep as expert_parallel_size  int
* --enable-expert-parallel  switch
* --pipeline-parallel-size --pp-size --pp as pipeline_parallel_size  int
* --pp-layer-partition  str
* --decode-context-parallel-size --dcp-size --dcp as decode_context_parallel_size  int
* --prefill-context-parallel-size --pcp as prefill_context_parallel_size  int
* --attn-head-tp-size  int
* --lm-head-tp-size  int
* --world-size  int
* --nprocs-per-node  int
* --nnodes  int
* --node-rank  int
* --all2all-backend  str  choices none|deepep|flashinfer_nvlink_one_sided
* --enable-eplb  switch
* --eplb-algorithm  str
* --eplb-rebalance-num-iterations  int
* --ep-num-redundant-experts  int
* --disaggregation-mode  str  choices null|prefill|decode|encode
--dist-init-addr  str
"""

_ENGINE = """
--model --model-path as model  str
--host  str
--port  int
--served-model-name  str
--dtype  str
--quantization  str
--kv-cache-dtype  str
--max-model-len --context-length as max_model_len  int
--max-num-seqs  int
--chunked-prefill-size as max_num_batched_tokens  int
--max-prefill-tokens  int
--max-total-tokens  int
--block-size --page-size as block_size  int
--gpu-memory-utilization --mem-fraction-static as gpu_memory_utilization  float
--seed  int
--device  str
--tokenizer --tokenizer-path as tokenizer  str
--tokenizer-mode  str
--load-format  str
--revision  str
--trust-remote-code  switch
--chat-template  str
--reasoning-parser  str
--tool-call-parser  str
--grammar-backend  str
--api-key  str
--log-level  str
--enable-metrics  switch
--mm-encoder-tp-mode  str  choices weights|data
--load-balance-method  str  choices round_robin|shortest_queue|minimum_cache_usage
--load-watch-interval  float
--moe-backend  str
--draft-moe-backend  str
--attention-backend  str
--drafter-attention-backend  str
--sampling-backend  str
--deepep-mode  str  choices auto|normal|low_latency
--low-latency-max-num-tokens-per-gpu  int
--init-expert-location  str
--ep-dispatch-algorithm  str
--expert-distribution-recorder-mode  str
--expert-distribution-recorder-buffer-size  int
--enable-expert-distribution-metrics  switch
--enable-allreduce-fusion  switch
--comm-fusion-max-num-tokens  int
--force-deterministic-rsag  switch
--disable-sampling-tp-sync  switch
--distributed-timeout-seconds --distributed_timeout_seconds as distributed_timeout_seconds  int
--disable-symm-mem  switch
--disable-nccl-nvls  switch
--enable-p2p-check  switch
--dp-sampling  switch
--tp-batch-invariant  str
--base-gpu-id  int
--gpu-id-step  int
--data-parallel-address  str
--data-parallel-rpc-port  int
--speculative-algorithm  str
--speculative-config  json
--speculative-draft-model-path  str
--speculative-num-steps  int
--speculative-eagle-topk  int
--speculative-num-draft-tokens  int
--disable-cuda-graph  switch
--enforce-eager  switch
--max-cudagraph-capture-size --cuda-graph-max-bs as cuda_graph_max_bs  int
--cudagraph-capture-sizes  list
--disable-radix-cache  switch
--enable-prefix-caching  boolean
--disable-overlap-schedule  switch
--enable-memory-saver  switch
--kvstore-ratio  float
--enable-kvstore  switch
--disaggregation-bootstrap-port  int
--disaggregation-transfer-backend  str
--disaggregation-ib-device  str
--watchdog-timeout  float
--headless  switch
--hf-overrides  json
--engine-startup-timeout  float
--control-port  int
--skip-tokenizer-init  switch
--download-dir  str
--kv-cache-quant-method  str
--quantization-param-path  str
--stream-interval  int
--stream-output  switch
--weight-version  str
--disable-prefix-caching  switch
--disable-prefill-graph  switch
--disable-kda-prefill-graph  switch
--disable-cudagraph-memory-reserve  switch
--prefill-graph-capture-token-sizes --prefill-graph-capture-sizes as prefill_graph_capture_token_sizes  list
--prefill-graph-capture-batch-sizes  list
--emulate-rank-zero  switch
--moe-mxfp4-fp8-activation  switch
--speculative-draft-model-quantization  str
--eagle3-layers-to-capture  list
--disable-replay-ssm  switch
--enable-replay-ssm  switch  deprecated: it is on by default
--attention-use-fp4-indexer-cache  switch
--enable-mixed-batch  switch
--disable-kvstore  switch
--enable-output-logprobs  switch
--enable-log-requests  boolean
"""

TABLE = Table(parse_table(_SIZES) + parse_table(_ENGINE))

NAMES = {
    "host": "--host",
    "dist_init_addr": "--dist-init-addr",
    "port": "--port",
    "served_model_name": "--served-model-name",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "kv_cache_dtype": "--kv-cache-dtype",
    "max_model_len": "--max-model-len",
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--chunked-prefill-size",
    "block_size": "--block-size",
    "expert_placement": "--init-expert-location",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "seed": "--seed",
    "trust_remote_code": "--trust-remote-code",
    "tool_call_parser": "--tool-call-parser",
    "reasoning_parser": "--reasoning-parser",
}
"""Option -> flag, for writing."""

OFF = {"enable_prefix_caching": "--disable-prefix-caching"}
"""Option that is on by default -> the flag that turns it off."""
