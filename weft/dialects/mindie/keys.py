"""MindIE's words: keys of its config.json and what they are called elsewhere. Data only."""

from __future__ import annotations

SIZES = ("worldSize", "tp", "dp", "cp", "sp", "pp", "moe_tp", "moe_ep")
"""Keys of a ModelConfig that decide the layout."""

LOCAL = ("lm_head_local_tp", "o_proj_local_tp", "dense_mlp_local_tp")
"""Keys of parallel_options that decide the layout."""

BUFFERS = {"hccl_buffer": 1, "hccl_moe_ep_buffer": 512, "hccl_moe_tp_buffer": 64}
"""Further keys of parallel_options, and their least values."""

RENAMED = {
    "modelWeightPath": "model",
    "modelName": "served_model_name",
    "maxSeqLen": "max_model_len",
    "maxBatchSize": "max_num_seqs",
    "maxPrefillTokens": "max_num_batched_tokens",
    "cacheBlockSize": "block_size",
    "ipAddress": "host",
    "port": "port",
    "trustRemoteCode": "trust_remote_code",
}
"""Keys -> names of options that several engines share."""

PLACES = (
    "",
    "ServerConfig.",
    "ScheduleConfig.",
    "ScheduleParam.",
    "OtherParam.ServeParam.",
    "OtherParam.ResourceParam.",
)
"""Sections in which those keys have that meaning."""

HOLDERS = ("BackendConfig", "ModelDeployConfig", "ModelConfig", "ModelDeployParam", "ModelParam", "deploy_config")
"""Sections that hold others, read one by one."""

KEYS = frozenset(
    """
Version ServerConfig BackendConfig LogConfig EnableDynamicAdjustTimeoutConfig backendName modelInstanceNumber
npuDeviceIds tokenizerProcessNumber multiNodesInferEnabled multiNodesInferPort interNodeTLSEnabled
interNodeTlsCaPath interNodeTlsCaFiles interNodeTlsCert interNodeTlsPk interNodeTlsPkPwd interNodeTlsCrlPath
interNodeTlsCrlFiles interNodeKmcKsfMaster interNodeKmcKsfStandby kvPoolConfig ModelDeployConfig ScheduleConfig
maxSeqLen maxInputTokenLen truncation ModelConfig LoraModules modelInstanceType modelName modelWeightPath worldSize
cpuMemSize npuMemSize backendType trustRemoteCode async_scheduler_wait_time kv_trans_timeout kv_link_timeout models
tp dp cp sp pp moe_tp moe_ep plugin_params ignore_eos templateType templateName cacheBlockSize maxPrefillBatchSize
maxPrefillTokens prefillTimeMsPerReq prefillPolicyType decodeTimeMsPerReq decodePolicyType maxBatchSize maxIterTimes
maxPreemptCount supportSelectBatch maxQueueDelayMicroseconds maxFirstTokenWaitTime enablePrefixCache enableSplit
bufferResponseEnabled prefillExpectedTime decodeExpectedTime dynamicBatchSizeEnable enableChunkedPrefill splitType
splitStartType splitChunkTokens splitStartBatchSize modelCutPolicy loadTokenizer loadFormat speculationGamma
OtherParam WorkFlowParam ModelDeployParam ScheduleParam ModelParam engineName pluginParams
""".split()
)
"""Keys of the server's file outside ServerConfig, LogConfig and models."""

BACKEND = frozenset(
    (
        *("backendName", "modelInstanceNumber", "npuDeviceIds", "tokenizerProcessNumber", "kvPoolConfig"),
        *(key for key in KEYS if key.startswith(("multiNodes", "interNode"))),
    )
)
"""Those of them that stand in BackendConfig."""

DEPLOY = frozenset(("maxSeqLen", "maxInputTokenLen", "truncation", "LoraModules"))
"""Those of them that stand in ModelDeployConfig."""

MODELS = frozenset(
    """
parallel_options ep_level eplb kv_cache_options h3p topk_scaling_factor enable_init_routing_cutoff
alltoall_ep_buffer_scale_factors enable_dispatch_combine_v2 enable_mlapo_prefetch communication_backend
enable_oproj_prefetch enable_gmmswigluquant mix_shared_routing num_dangling_shared_experts ccl stream_options engine
weights_options pmcc_obfuscation_options enable_reasoning tool_call_options chat_template enable_swiglu_quant
""".split()
)
"""Keys of one model's section of models."""

SERVERS = {"mindie_server_prefill_config": "prefill", "mindie_server_decode_config": "decode"}
"""Sections of a deployment's file that hold a whole config.json, and their roles."""

PODS = {
    "prefill": ("p_instances_num", "single_p_instance_pod_num"),
    "decode": ("d_instances_num", "single_d_instance_pod_num"),
}
"""Keys of deploy_config: instances of a role, and nodes of one instance."""
