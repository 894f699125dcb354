"""SGLang's flags: names, kinds and what became of them. Data only; `sizes` has the meaning of the sizes."""

from __future__ import annotations

from weft.dialects.common_flags import COMMON, COMMON_NAMES, SGLANG_AND_TOKENSPEED
from weft.dialects.flags import Table, parse_table
from weft.dialects.sglang.engine_flags import ENGINE

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
"""

TABLE = Table(parse_table(_SIZES, SGLANG_AND_TOKENSPEED, COMMON, ENGINE))

NAMES = COMMON_NAMES | {
    "dist_init_addr": "--dist-init-addr",
    "max_model_len": "--context-length",
    "max_num_seqs": "--max-running-requests",
    "max_num_batched_tokens": "--chunked-prefill-size",
    "block_size": "--page-size",
    "mem_fraction_static": "--mem-fraction-static",
    "seed": "--random-seed",
    "device": "--device",
    "api_key": "--api-key",
    "expert_placement": "--init-expert-location",
    "eplb_threshold": "--eplb-min-rebalancing-utilization-threshold",
}
"""Option -> flag, for writing."""

OFF = {"enable_prefix_caching": "--disable-radix-cache"}
"""Option that is on by default -> the flag that turns it off."""
