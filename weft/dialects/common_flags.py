"""Rows that stand in the flag tables of several engines, with the same name, kind and meaning. Data only."""

from __future__ import annotations

COMMON = """
--host  str
--port  int
--dtype  str
--kv-cache-dtype  str
--tokenizer-mode  str
--load-format  str
--revision  str
--chat-template  str
--reasoning-parser  str
--tool-call-parser  str
--attention-backend  str
--download-dir  str
--stream-interval  int
"""
"""Flags of vLLM, SGLang and TokenSpeed."""

SGLANG_AND_TOKENSPEED = """
* --nnodes  int
* --node-rank  int
* --enable-eplb  switch
* --eplb-algorithm  str
* --eplb-rebalance-num-iterations  int
* --ep-num-redundant-experts  int
--dist-init-addr  str
--served-model-name  str
--quantization  str
--chunked-prefill-size as max_num_batched_tokens  int
--max-prefill-tokens  int
--max-total-tokens  int
--device  str
--trust-remote-code  switch
--grammar-backend  str
--api-key  str
--log-level  str
--enable-metrics  switch
--load-watch-interval  float
--sampling-backend  str
--deepep-mode  str  choices auto|normal|low_latency
--init-expert-location  str
--ep-dispatch-algorithm  str
--expert-distribution-recorder-mode  str
--expert-distribution-recorder-buffer-size  int
--enable-expert-distribution-metrics  switch
--enable-p2p-check  switch
--base-gpu-id  int
--gpu-id-step  int
--speculative-num-steps  int
--speculative-eagle-topk  int
--speculative-num-draft-tokens  int
--disable-cuda-graph  switch
--disable-radix-cache  switch
--disable-overlap-schedule  switch
--enable-memory-saver  switch
--disaggregation-bootstrap-port  int
--disaggregation-transfer-backend  str
--disaggregation-ib-device  str
--watchdog-timeout  float
--skip-tokenizer-init  switch
--quantization-param-path  str
--stream-output  switch
--speculative-draft-model-quantization  str
"""

VLLM_AND_TOKENSPEED = """
--max-num-seqs  int
--seed  int
--mm-encoder-tp-mode  str  choices weights|data
--moe-backend  str
--speculative-config  json
--cudagraph-capture-sizes  list
--enable-prefix-caching  boolean
--headless  switch
--hf-overrides  json
--enable-log-requests  boolean
"""

COMMON_NAMES = {
    "host": "--host",
    "port": "--port",
    "served_model_name": "--served-model-name",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "kv_cache_dtype": "--kv-cache-dtype",
    "trust_remote_code": "--trust-remote-code",
    "tool_call_parser": "--tool-call-parser",
    "reasoning_parser": "--reasoning-parser",
}
"""Option -> flag, for writing, where the three name it alike."""
