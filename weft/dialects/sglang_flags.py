"""SGLang's flags: names, kinds and what became of them. Data only; the meaning of the sizes is in `sglang`."""

from __future__ import annotations

from weft.dialects.flags import Table, parse_table

_SIZES = """
* --tensor-parallel-size --tp-size --tp -tp as tp_size  int
* --pipeline-parallel-size --pp-size --pp -pp as pp_size  int
* --data-parallel-size --dp-size --dp -dp as dp_size  int
* --enable-dp-attention  switch
* --enable-dp-lm-head  switch
* --attn-cp-size --attention-context-parallel-size as attn_cp_size  int
* --dcp-size --decode-context-parallel-size as dcp_size  int
* --moe-dp-size --moe-data-parallel-size as moe_dp_size  int
* --expert-parallel-size --ep-size --ep -ep as ep_size  int
* --moe-dense-tp-size  int
* --moe-a2a-backend  str  choices none|deepep|mooncake|nixl|mori|ascend_fuseep|flashinfer|megamoe|deepep_v2|pplx
* --ep-num-redundant-experts  int
* --enable-eplb  switch
* --eplb-algorithm  str
* --eplb-rebalance-num-iterations  int
* --nnodes  int
* --node-rank  int
* --disaggregation-mode  str  choices null|prefill|decode
--enable-ep-moe  switch  deprecated: use --ep-size
--enable-deepep-moe  switch  deprecated: use --moe-a2a-backend deepep
--enable-flashinfer-cutlass-moe  switch  deprecated: use --moe-runner-backend flashinfer_cutlass
--enable-flashinfer-trtllm-moe  switch  deprecated: use --moe-runner-backend flashinfer_trtllm
--enable-triton-kernel-moe  switch  deprecated: use --moe-runner-backend triton_kernel
--enable-prefill-cp --enable-prefill-context-parallel as enable_prefill_cp  switch
--cp-strategy  str
--dwdp-size  int
--nccl-init-addr as dist_init_addr  str  deprecated: use --dist-init-addr
--dist-init-addr  str
"""

_ENGINE = """
--model-path --model as model  str
--host  str
--port  int
--served-model-name  str
--dtype  str
--quantization  str
--kv-cache-dtype  str
--context-length as max_model_len  int
--max-running-requests as max_num_seqs  int
--chunked-prefill-size as max_num_batched_tokens  int
--max-prefill-tokens  int
--max-total-tokens  int
--page-size as block_size  int
--mem-fraction-static  float
--random-seed as seed  int
--device  str
--disable-radix-cache  switch
--tokenizer-path  str
--tokenizer-mode  str
--load-format  str
--revision  str
--trust-remote-code  switch
--skip-tokenizer-init  switch
--skip-server-warmup  switch
--warmups  str
--is-embedding  switch
--enable-multimodal  switch
--config  str
--api-key  str
--chat-template  str
--completion-template  str
--reasoning-parser  str
--tool-call-parser  str
--tool-server  str
--sampling-defaults  str
--grammar-backend  str
--schedule-policy  str
--schedule-conservativeness  float
--cpu-offload-gb  int
--swa-full-tokens-ratio  float
--hybrid-kvcache-ratio  maybe
--stream-interval  int
--stream-output  switch
--watchdog-timeout  float
--soft-watchdog-timeout  float
--dist-timeout  int
--download-dir  str
--base-gpu-id  int
--gpu-id-step  int
--sleep-on-idle  switch
--log-level  str
--log-level-http  str
--log-requests  switch
--log-requests-level  int
--enable-metrics  switch
--enable-metrics-for-all-schedulers  switch
--show-time-cost  switch
--enable-cache-report  switch
--enable-trace  switch
--decode-log-interval  int
--crash-dump-folder  str
--enable-request-time-stats-logging  switch
--collect-tokens-histogram  switch
--bucket-time-to-first-token  list
--load-balance-method  str
--load-watch-interval  float
--prefill-round-robin-balance  switch
--json-model-override-args  str
--preferred-sampling-params  str
--enable-lora  switch
--lora-paths  list
--max-loras-per-batch  int
--max-lora-rank  int
--lora-target-modules  list
--lora-backend  str
--attention-backend  str
--decode-attention-backend  str
--prefill-attention-backend  str
--sampling-backend  str
--mm-attention-backend  str
--nsa-prefill-backend --nsa-prefill as nsa_prefill_backend  str
--nsa-decode-backend --nsa-decode as nsa_decode_backend  str
--fp8-gemm-backend  str
--moe-runner-backend  str
--flashinfer-mxfp4-moe-precision  str
--speculative-algorithm --speculative-algo as speculative_algorithm  str
--speculative-draft-model-path --speculative-draft-model as speculative_draft_model_path  str
--speculative-num-steps  int
--speculative-eagle-topk  int
--speculative-num-draft-tokens  int
--speculative-accept-threshold-single  float
--speculative-accept-threshold-acc  float
--speculative-token-map  str
--speculative-attention-mode  str
--speculative-moe-runner-backend  str
--speculative-moe-a2a-backend  str
--deepep-mode  str  choices auto|normal|low_latency
--deepep-config  str
--ep-dispatch-algorithm  str
--init-expert-location  str
--expert-distribution-recorder-mode  str
--expert-distribution-recorder-buffer-size  int
--enable-expert-distribution-metrics  switch
--eplb-rebalance-layers-per-chunk  int
--eplb-min-rebalancing-utilization-threshold  float
--elastic-ep-backend  str
--mooncake-ib-device  str
--enable-two-batch-overlap  switch
--enable-single-batch-overlap  switch
--tbo-token-distribution-threshold  float
--disable-shared-experts-fusion  switch
--enable-shared-experts-fusion  switch
--enforce-shared-experts-fusion  switch
--disable-cuda-graph  switch
--disable-cuda-graph-padding  switch
--disable-piecewise-cuda-graph  switch
--enable-piecewise-cuda-graph  switch
--enable-profile-cuda-graph  switch
--enable-cudagraph-gc  switch
--cuda-graph-max-bs  int
--cuda-graph-bs  list
--piecewise-cuda-graph-max-tokens  int
--enable-nccl-nvls  switch
--enable-symm-mem  switch
--enable-torch-symm-mem  switch
--enable-mscclpp  switch
--pre-warm-nccl  switch
--disable-custom-all-reduce  switch
--enable-flashinfer-allreduce-fusion  switch
--enable-tokenizer-batch-encode  switch
--disable-outlines-disk-cache  switch
--disable-overlap-schedule  switch
--enable-mixed-chunk  switch
--disable-chunked-prefix-cache  switch
--disable-fast-image-processor  switch
--enable-torch-compile  switch
--torch-compile-max-bs  int
--torchao-config  str
--enable-p2p-check  switch
--enable-nan-detection  switch
--triton-attention-num-kv-splits  int
--triton-attention-reduce-in-fp32  switch
--num-continuous-decode-steps  int
--delete-ckpt-after-loading  switch
--enable-memory-saver  switch
--enable-weights-cpu-backup  switch
--allow-auto-truncate  switch
--enable-custom-logit-processor  switch
--enable-deterministic-inference  switch
--enable-return-hidden-states  switch
--disable-hicache-numa-detect  switch
--enable-hierarchical-cache  switch
--enable-lmcache  switch
--hicache-ratio  float
--hicache-size  int
--hicache-write-policy  str
--hicache-io-backend  str
--hicache-mem-layout  str
--hicache-storage-backend  str
--hicache-storage-prefetch-policy  str
--hicache-storage-backend-extra-config  str
--disaggregation-transfer-backend  str
--disaggregation-bootstrap-port  int
--disaggregation-decode-tp  int
--disaggregation-decode-dp  int
--disaggregation-prefill-pp  int
--disaggregation-ib-device  str
--disaggregation-decode-enable-offload-kvcache  switch
--num-reserved-decode-tokens  int
--tokenizer-worker-num  int
--max-queued-requests  int
--pp-max-micro-batch-size  int
--pp-async-batch-depth  int
--enable-dynamic-chunking  switch
--weight-loader-ckpt-in-cpu --weight-loader-disable-mmap as weight_loader_disable_mmap  switch
--model-loader-extra-config  str
--model-impl  str
--modelopt-quant  str
--nccl-port  int
--radix-eviction-policy  str
--disable-flashinfer-autotune  switch
--enable-attn-tp-input-scattered  switch
--enable-fused-moe-sum-all-reduce  switch
--enable-fused-qk-norm-rope  switch
--scheduler-recv-interval  int
--numa-node  list
--debug-tensor-dump-output-folder  str
--keep-mm-feature-on-device  switch
--mm-enable-dp-encoder  switch
--mamba-ssm-dtype  str
--mamba-full-memory-ratio  float
--max-mamba-cache-size  int
--enable-prefix-mm-cache  switch
--use-ray  switch
--policy  str
--worker-urls  list
--prometheus-port  int
--prometheus-host  str
--service-discovery  switch
--pd-disaggregation  switch
--prefill  list
--decode  list
--enable-hip-attention  switch  removed
--disable-mla  switch  removed: MLA is used where the model has it
--disable-flashinfer  switch  removed: use --attention-backend triton
--enable-flashinfer-mla  switch  removed: use --attention-backend flashinfer
--enable-flashmla  switch  removed: use --attention-backend flashmla
--mem-frac as mem_fraction_static  float  deprecated: use --mem-fraction-static
"""

TABLE = Table(parse_table(_SIZES) + parse_table(_ENGINE))

NAMES = {
    "host": "--host",
    "port": "--port",
    "served_model_name": "--served-model-name",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "kv_cache_dtype": "--kv-cache-dtype",
    "max_model_len": "--context-length",
    "max_num_seqs": "--max-running-requests",
    "max_num_batched_tokens": "--chunked-prefill-size",
    "block_size": "--page-size",
    "mem_fraction_static": "--mem-fraction-static",
    "seed": "--random-seed",
    "device": "--device",
    "trust_remote_code": "--trust-remote-code",
    "api_key": "--api-key",
    "tool_call_parser": "--tool-call-parser",
    "reasoning_parser": "--reasoning-parser",
}
"""Option -> flag, for writing."""
