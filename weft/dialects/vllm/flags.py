"""vLLM's and vLLM-Ascend's flags: names, kinds and what became of them. Data only; the meaning is in `sizes`."""

from __future__ import annotations

from weft.dialects.common_flags import COMMON, COMMON_NAMES, VLLM_AND_TOKENSPEED
from weft.dialects.flags import Table, parse_table

_SIZES = """
* --tensor-parallel-size -tp as tensor_parallel_size  int
* --pipeline-parallel-size -pp as pipeline_parallel_size  int
* --data-parallel-size -dp as data_parallel_size  int
* --data-parallel-size-local -dpl as data_parallel_size_local  int
* --data-parallel-rank -dpn as data_parallel_rank  int
* --data-parallel-start-rank -dpr as data_parallel_start_rank  int
* --decode-context-parallel-size -dcp as decode_context_parallel_size  int
* --prefill-context-parallel-size -pcp as prefill_context_parallel_size  int
* --enable-expert-parallel -ep as enable_expert_parallel  boolean
* --all2all-backend  str
* --enable-eplb  boolean
* --eplb-config  json
* --num-redundant-experts  int  deprecated: use --eplb-config.num_redundant_experts
* --eplb-step-interval  int  deprecated: use --eplb-config.step_interval
* --additional-config  json
* --nnodes -n as nnodes  int
* --node-rank -r as node_rank  int
--kv-transfer-config  json
"""

_ENGINE = """
--model  str
--served-model-name  list
--quantization -q as quantization  str
--max-model-len  int
--max-num-batched-tokens  int
--block-size  int
--gpu-memory-utilization  float
--kv-cache-memory-bytes as kv_cache_memory  int
--enable-chunked-prefill  boolean
--device  str  removed: the platform is found by itself
--data-parallel-address -dpa as data_parallel_address  str
--data-parallel-rpc-port -dpp as data_parallel_rpc_port  int
--data-parallel-backend -dpb as data_parallel_backend  str
--data-parallel-hybrid-lb -dph as data_parallel_hybrid_lb  boolean
--data-parallel-external-lb -dpe as data_parallel_external_lb  boolean
--data-parallel-multi-port-external-lb -dpm as data_parallel_multi_port_external_lb  boolean
--api-server-count -asc as api_server_count  int
--eplb-window-size  int  deprecated: use --eplb-config.window_size
--eplb-log-balancedness  boolean  deprecated: use --eplb-config.log_balancedness
--expert-placement-strategy  str
--enable-ep-weight-filter  boolean
--dcp-comm-backend  str
--cp-kv-cache-interleave-size --dcp-kv-cache-interleave-size as cp_kv_cache_interleave_size  int
--master-addr  str
--master-port  int
--distributed-executor-backend  str
--distributed-timeout-seconds  int
--cpu-distributed-timeout-seconds  int
--disable-custom-all-reduce  boolean
--enable-dbo  boolean
--ubatch-size  int
--dbo-decode-token-threshold  int
--dbo-prefill-token-threshold  int
--disable-nccl-for-dp-synchronization  boolean
--enable-elastic-ep  boolean
--enable-fault-tolerance  boolean
--fault-tolerance-config  json
--numa-bind  boolean
--numa-bind-nodes  list
--numa-bind-cpus  list
--device-ids  list
--worker-cls  str
--worker-extension-cls  str
--worker-use-ray  switch  removed: use --distributed-executor-backend ray
--max-parallel-loading-workers  int
--ray-workers-use-nsight  boolean
--tokenizer  str
--tokenizer-revision  str
--code-revision  str
--hf-config-path  str
--hf-token  maybe
--config-format  str
--model-loader-extra-config  json
--safetensors-load-strategy  str
--ignore-patterns  list
--use-tqdm-on-load  boolean
--pt-load-map-location  str
--runner  str
--convert  str
--task  str  deprecated: use --runner
--trust-remote-code  boolean
--allowed-local-media-path  str
--allowed-media-domains  list
--generation-config  str
--override-generation-config  json
--enable-sleep-mode  boolean
--model-impl  str
--logits-processors  list
--logits-processor-pattern  str
--enforce-eager  boolean
--max-logprobs  int
--logprobs-mode  str
--disable-sliding-window  boolean
--disable-cascade-attn  boolean
--skip-tokenizer-init  boolean
--enable-prompt-embeds  boolean
--max-seq-len-to-capture  int  removed: use --compilation-config
--rope-scaling  json  removed: use --hf-overrides
--rope-theta  float  removed: use --hf-overrides
--guided-decoding-backend  str  removed: use --structured-outputs-config.backend
--structured-outputs-config  json
--swap-space  float
--cpu-offload-gb  float
--kv-offloading-size  float
--kv-offloading-backend  str
--kv-sharing-fast-prefill  boolean
--kv-cache-dtype-skip-layers  list
--calculate-kv-scales  boolean
--prefix-caching-hash-algo  str
--num-gpu-blocks-override  int
--mamba-cache-dtype  str
--mamba-ssm-cache-dtype  str
--mamba-block-size  int
--mamba-cache-mode  str
--limit-mm-per-prompt  json
--media-io-kwargs  json
--mm-processor-kwargs  json
--mm-processor-cache-gb  float
--disable-mm-preprocessor-cache  boolean  deprecated: use --mm-processor-cache-gb 0
--mm-processor-cache-type  str
--mm-encoder-attn-backend  str
--interleave-mm-strings  boolean
--skip-mm-profiling  boolean
--video-pruning-rate  float
--enable-mm-embeds  boolean
--enable-lora  boolean
--enable-lora-bias  boolean
--max-loras  int
--max-lora-rank  int
--lora-modules  list
--lora-dtype  str
--lora-extra-vocab-size  int
--max-cpu-loras  int
--fully-sharded-loras  boolean
--default-mm-loras  json
--num-speculative-tokens  int  removed: use --speculative-config
--speculative-model  str  removed: use --speculative-config
--show-hidden-metrics-for-version  str
--otlp-traces-endpoint  str
--collect-detailed-traces  list
--kv-cache-metrics  boolean
--cudagraph-metrics  boolean
--enable-layerwise-nvtx-tracing  boolean
--max-num-partial-prefills  int
--max-long-partial-prefills  int
--long-prefill-token-threshold  int
--num-lookahead-slots  int
--scheduler-delay-factor  float
--preemption-mode  str
--num-scheduler-steps  int  removed
--multi-step-stream-outputs  boolean  removed
--use-v2-block-manager  switch  removed
--scheduling-policy  str
--scheduler-cls  str
--disable-chunked-mm-input  boolean
--disable-hybrid-kv-cache-manager  boolean
--async-scheduling  boolean
--kv-events-config  json
--ec-transfer-config  json
--compilation-config -O -cc as compilation_config  json
--cuda-graph-sizes  list  deprecated: use --cudagraph-capture-sizes
--max-cudagraph-capture-size  int
--attention-config -ac as attention_config  json
--kernel-config  json
--optimization-level  str
--profiler-config  json
--performance-mode  str
--enable-auto-tool-choice  boolean
--tool-parser-plugin  str
--tool-server  str
--chat-template-content-format  str
--trust-request-chat-template  boolean
--response-role  str
--reasoning-parser-plugin  str
--enable-reasoning  switch  removed: --reasoning-parser alone is enough
--api-key  list
--uvicorn-log-level  str
--disable-uvicorn-access-log  boolean
--disable-log-requests  switch  deprecated: off unless --enable-log-requests
--enable-log-outputs  boolean
--disable-log-stats  switch
--max-log-len  int
--aggregate-engine-logging  boolean
--allow-credentials  boolean
--allowed-origins  json
--allowed-methods  json
--allowed-headers  json
--ssl-keyfile  str
--ssl-certfile  str
--ssl-ca-certs  str
--root-path  str
--middleware  str
--uds  str
--return-tokens-as-token-ids  boolean
--disable-frontend-multiprocessing  boolean
--enable-request-id-headers  boolean
--disable-fastapi-docs  boolean
--enable-prompt-tokens-details  boolean
--enable-server-load-tracking  boolean
--enable-force-include-usage  boolean
--enable-tokenizer-info-endpoint  boolean
--enable-ssl-refresh  boolean
--log-config-file  str
--h11-max-incomplete-event-size  int
--h11-max-header-count  int
--config  str
--grpc  switch
--default-chat-template-kwargs  json
--language-model-only  boolean
--mm-encoder-only  boolean
--enable-return-routed-experts  boolean
--kv-cache-metrics-sample  float
--weight-transfer-config  json
--exclude-tools-when-tool-choice-none  boolean
--enable-log-deltas  boolean
--data-parallel-local-external-lb  boolean
--disable-access-log-for-endpoints  str
--enable-offline-docs  boolean
--fail-on-environ-validation  boolean
--mamba-backend  str
--prefill-schedule-interval  int
--reasoning-config  json
--scheduler-reserve-full-isl  boolean
--shutdown-timeout  int
--tokens-only  boolean
--offload-backend  str
--offload-group-size  int
"""

TABLE = Table(parse_table(_SIZES, VLLM_AND_TOKENSPEED, COMMON, _ENGINE), underscores=True, dotted=True)

NAMES = COMMON_NAMES | {
    "master_addr": "--master-addr",
    "master_port": "--master-port",
    "data_parallel_address": "--data-parallel-address",
    "max_model_len": "--max-model-len",
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "block_size": "--block-size",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "kv_cache_memory": "--kv-cache-memory-bytes",
    "seed": "--seed",
    "eplb_window": "--eplb-config.window_size",
}
"""Option -> flag, for writing."""

OFF = {"enable_prefix_caching": "--no-enable-prefix-caching"}
"""Option that is on by default -> the flag that turns it off."""

MODULE_CONFIG = "finegrained_tp_config"
MODULE_SIZES = {
    "embedding_tensor_parallel_size": "embedding",
    "lmhead_tensor_parallel_size": "lm_head",
    "oproj_tensor_parallel_size": "o_proj",
    "mlp_tensor_parallel_size": "dense",
}
"""vLLM-Ascend's sizes under --additional-config MODULE_CONFIG -> module."""
