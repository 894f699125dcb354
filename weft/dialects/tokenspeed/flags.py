"""TokenSpeed's flags: names, kinds and what became of them. Data only; `sizes` has the meaning of the sizes."""

from __future__ import annotations

from weft.dialects.common_flags import COMMON, COMMON_NAMES, SGLANG_AND_TOKENSPEED, VLLM_AND_TOKENSPEED
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
* --all2all-backend  str  choices none|deepep|flashinfer_nvlink_one_sided
* --disaggregation-mode  str  choices null|prefill|decode|encode
"""

_ENGINE = """
--model --model-path as model  str
--max-model-len --context-length as max_model_len  int
--block-size --page-size as block_size  int
--gpu-memory-utilization --mem-fraction-static as gpu_memory_utilization  float
--tokenizer --tokenizer-path as tokenizer  str
--load-balance-method  str  choices round_robin|shortest_queue|minimum_cache_usage
--draft-moe-backend  str
--drafter-attention-backend  str
--low-latency-max-num-tokens-per-gpu  int
--enable-allreduce-fusion  switch
--comm-fusion-max-num-tokens  int
--force-deterministic-rsag  switch
--disable-sampling-tp-sync  switch
--distributed-timeout-seconds --distributed_timeout_seconds as distributed_timeout_seconds  int
--disable-symm-mem  switch
--disable-nccl-nvls  switch
--dp-sampling  switch
--tp-batch-invariant  str
--data-parallel-address  str
--data-parallel-rpc-port  int
--speculative-algorithm  str
--speculative-draft-model-path  str
--enforce-eager  switch
--max-cudagraph-capture-size --cuda-graph-max-bs as cuda_graph_max_bs  int
--kvstore-ratio  float
--enable-kvstore  switch
--engine-startup-timeout  float
--control-port  int
--kv-cache-quant-method  str
--weight-version  str
--disable-prefix-caching  switch
--disable-prefill-graph  switch
--disable-kda-prefill-graph  switch
--disable-cudagraph-memory-reserve  switch
--prefill-graph-capture-token-sizes --prefill-graph-capture-sizes as prefill_graph_capture_token_sizes  list
--prefill-graph-capture-batch-sizes  list
--emulate-rank-zero  switch
--moe-mxfp4-fp8-activation  switch
--eagle3-layers-to-capture  list
--disable-replay-ssm  switch
--enable-replay-ssm  switch  deprecated: it is on by default
--attention-use-fp4-indexer-cache  switch
--enable-mixed-batch  switch
--disable-kvstore  switch
--enable-output-logprobs  switch
"""

TABLE = Table(parse_table(_SIZES, SGLANG_AND_TOKENSPEED, VLLM_AND_TOKENSPEED, COMMON, _ENGINE))

NAMES = COMMON_NAMES | {
    "dist_init_addr": "--dist-init-addr",
    "max_model_len": "--max-model-len",
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--chunked-prefill-size",
    "block_size": "--block-size",
    "expert_placement": "--init-expert-location",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "seed": "--seed",
}
"""Option -> flag, for writing."""

OFF = {"enable_prefix_caching": "--disable-prefix-caching"}
"""Option that is on by default -> the flag that turns it off."""
