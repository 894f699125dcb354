"""Files as people deploy with them: manifests, charts, compose files, jobs. Results judged by hand.

Each has the form of a deployment found in public documents; names, paths and numbers are made up.
"""

from __future__ import annotations

import json
import textwrap

import pytest

from tests.support.dialects import Case, check

SET = """apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: distributed-sglang
spec:
  replicas: 2   # nodes
  template:
    spec:
      containers:
      - name: sglang-container
        image: docker.io/lmsysorg/sglang:latest
        command:
        - /bin/bash
        - -c
        # NOTE: the --expert-parallel-size is for MoE models
        args:
        - |
          python3 -m sglang.launch_server \\
          --model /models/DeepSeek-R1 \\
          --dist-init-addr sglang-master-pod:5000 \\
          --tensor-parallel-size 16 \\
          --nnodes 2 \\
          --node-rank $POD_INDEX \\
          --trust-remote-code \\
          --enable-metrics \\
          --expert-parallel-size 16
        env:
        - name: POD_INDEX
          valueFrom:
            fieldRef:
              apiVersion: v1
              fieldPath: metadata.labels['apps.kubernetes.io/pod-index']
        resources:
          limits:
            nvidia.com/gpu: "8"
---
apiVersion: v1
kind: Service
metadata:
  name: sglang-master-pod
spec:
  ports:
  - name: dist-port
    port: 5000
"""

COMPOSE = """services:
  sglang:
    image: lmsysorg/sglang:latest
    volumes:
      - ${HOME}/.cache/huggingface:/cache/huggingface
    restart: always
    environment:
      HF_TOKEN: <secret>
    entrypoint: python3 -m sglang.launch_server
    command:
      --model-path meta-llama/Meta-Llama-3.1-8B-Instruct
      --host 0.0.0.0
      --port 30000
      --tp 2
    healthcheck:
      test: ["CMD-SHELL", "curl -f http://localhost:30000/health || exit 1"]
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              device_ids: ['0', '1']
"""

COMPOSE_LIST = """version: "3.8"
services:
  proxy:
    image: nginx:latest
    command: ["nginx", "-g", "daemon off;"]
  llm:
    image: vllm/vllm-openai:latest
    environment:
      - MODEL_NAME=${MODEL_NAME:-mistralai/Ministral-8B-Instruct-2410}
      - NCCL_DEBUG=INFO
    command:
      - --model
      - ${MODEL_NAME:-mistralai/Ministral-8B-Instruct-2410}
      - --tensor-parallel-size
      - "${TENSOR_PARALLEL_SIZE:-2}"
      - --pipeline-parallel-size=${PIPELINE_PARALLEL_SIZE:-2}
      - --max-model-len
      - "4096"
"""

COMPOSE_SHELL = """services:
  head:
    image: vllm/vllm-openai
    entrypoint: ["/bin/bash", "-c"]
    command: ["ray start --head --port=6379 && vllm serve Qwen/Qwen2.5-72B-Instruct --tensor-parallel-size 8"]
"""

DYNAMO = """apiVersion: nvidia.com/v1alpha1
kind: DynamoGraphDeployment
metadata:
  name: sglang-disagg
spec:
  services:
    Frontend:
      componentType: frontend
      replicas: 1
      extraPodSpec:
        mainContainer:
          image: registry.example/sglang-wideep-runtime:1
    decode:
      componentType: worker
      replicas: 1
      multinode:
        nodeCount: 2
      resources:
        limits:
          gpu: "8"
      extraPodSpec:
        mainContainer:
          image: registry.example/sglang-wideep-runtime:1
          workingDir: /workspace
          command:
            - /bin/sh
            - -c
          args:
            - >-
              python3 -m dynamo.sglang
              --model-path deepseek-ai/DeepSeek-R1
              --tp 16
              --dp 16
              --enable-dp-attention
              --ep-size 16
              --disaggregation-mode decode
              --disaggregation-transfer-backend nixl
              --mem-fraction-static 0.8
    prefill:
      componentType: worker
      replicas: 1
      extraPodSpec:
        mainContainer:
          image: registry.example/sglang-wideep-runtime:1
          command:
            - python3
            - -m
            - dynamo.sglang
          args:
            - --model-path
            - deepseek-ai/DeepSeek-R1
            - --tp
            - "8"
            - --ep-size
            - "8"
            - --skip-tokenizer-init
            - --disaggregation-mode
            - prefill
"""

DYNAMO_VLLM = """kind: DynamoGraphDeployment
spec:
  services:
    decode:
      subComponentType: decode
      multinode:
        nodeCount: 2
      extraPodSpec:
        mainContainer:
          image: registry.example/ai-dynamo/vllm-runtime:${VERSION}
          env:
            - name: VLLM_USE_DEEP_GEMM
              value: "1"
          command:
            - /bin/bash
            - -c
          args:
            - |
              exec python3 -m dynamo.vllm \\
                --model /model-cache/deepseek-r1 \\
                --served-model-name deepseek-ai/DeepSeek-R1 \\
                --all2all-backend deepep_low_latency \\
                --data-parallel-hybrid-lb \\
                --tensor-parallel-size 1 \\
                --data-parallel-size 16 \\
                --enable-expert-parallel \\
                --enable-dbo --dbo-decode-token-threshold 32 --async-scheduling \\
                --enable-eplb \\
                --eplb-config '{"window_size":"1000","step_interval":"3000","num_redundant_experts":"32"}' \\
                --max-num-seqs 512 \\
                --compilation_config '{"pass_config":{"enable_fusion":true},"cudagraph_mode":"FULL_DECODE_ONLY"}'
    prefill:
      subComponentType: prefill
      extraPodSpec:
        mainContainer:
          image: registry.example/ai-dynamo/vllm-runtime:${VERSION}
          command:
            - /bin/bash
            - -c
          args:
            - |
              exec python3 -m dynamo.vllm \\
                --model /model-cache/deepseek-r1 \\
                --is-prefill-worker \\
                --all2all-backend deepep_high_throughput \\
                --tensor-parallel-size 1 \\
                --data-parallel-size 16 \\
                --enable-expert-parallel
"""

DYNAMO_TRTLLM = """apiVersion: v1
kind: ConfigMap
metadata:
  name: prefill-config
data:
  prefill_config.yaml: |
    max_batch_size: 4
    tensor_parallel_size: 4
    moe_expert_parallel_size: 4
    enable_attention_dp: true
    pipeline_parallel_size: 1
    cuda_graph_config: null
    cache_transceiver_config:
      backend: DEFAULT
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: decode-config
data:
  decode_config_dep32.yaml: |
    tensor_parallel_size: 32
    moe_expert_parallel_size: 32
    enable_attention_dp: true
    max_batch_size: 32
    moe_config:
      backend: WIDEEP
---
apiVersion: nvidia.com/v1alpha1
kind: DynamoGraphDeployment
spec:
  services:
    Frontend:
      extraPodSpec:
        mainContainer:
          image: registry.example/tensorrtllm-runtime:1
          args:
          - |
            python3 -m dynamo.frontend --http-port 8000
          command:
          - /bin/sh
          - -c
    prefill:
      extraPodSpec:
        mainContainer:
          image: registry.example/tensorrtllm-runtime:1
          volumeMounts:
            - name: prefill-config-volume
              mountPath: /config
          command:
          - /bin/sh
          - -c
          args:
          - >-
            python3 -m dynamo.trtllm
            --model-path /model-cache/deepseek-r1-fp4
            --extra-engine-args /config/prefill_config.yaml
            --disaggregation-mode prefill
    decode:
      multinode:
        nodeCount: 8
      extraPodSpec:
        mainContainer:
          image: registry.example/tensorrtllm-runtime:1
          command:
          - /bin/sh
          - -c
          args:
          - >-
            python3 -m dynamo.trtllm
            --model-path /model-cache/deepseek-r1-fp4
            --extra-engine-args /config/decode_config_dep32.yaml
            --disaggregation-mode decode
"""

LEADER_SGLANG = """apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: sglang
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: 2
    restartPolicy: RecreateGroupOnPodRestart
    leaderTemplate:
      spec:
        containers:
          - name: sglang-leader
            image: lmsysorg/sglang:latest
            env:
              - name: LWS_WORKER_INDEX
                valueFrom:
                  fieldRef:
                    fieldPath: metadata.labels['leaderworkerset.sigs.k8s.io/worker-index']
            command:
              - python3
              - -m
              - sglang.launch_server
              - --model-path
              - deepseek-ai/DeepSeek-R1
              - --tp
              - "16"
              - --dist-init-addr
              - $(LWS_LEADER_ADDRESS):20000
              - --nnodes
              - $(LWS_GROUP_SIZE)
              - --node-rank
              - $(LWS_WORKER_INDEX)
              - --trust-remote-code
              - --host
              - "0.0.0.0"
    workerTemplate:
      spec:
        containers:
          - name: sglang-worker
            image: lmsysorg/sglang:latest
            command:
              - python3
              - -m
              - sglang.launch_server
              - --model-path
              - deepseek-ai/DeepSeek-R1
              - --tp
              - "16"
              - --dist-init-addr
              - $(LWS_LEADER_ADDRESS):20000
              - --nnodes
              - $(LWS_GROUP_SIZE)
              - --node-rank
              - $(LWS_WORKER_INDEX)
              - --trust-remote-code
"""

LEADER_VLLM = """apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: vllm
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: 2
    leaderTemplate:
      spec:
        containers:
          - name: vllm-leader
            image: docker.io/vllm/vllm-openai:latest
            command:
              - sh
              - -c
              - "vllm serve meta-llama/Meta-Llama-3.1-405B-Instruct --tensor-parallel-size 8 \
--pipeline-parallel-size $(LWS_GROUP_SIZE) --nnodes $(LWS_GROUP_SIZE) --node-rank $(LWS_WORKER_INDEX) \
--master-addr $(LWS_LEADER_ADDRESS) --port 8080"
    workerTemplate:
      spec:
        containers:
          - name: vllm-worker
            image: docker.io/vllm/vllm-openai:latest
            command:
              - sh
              - -c
              - "vllm serve meta-llama/Meta-Llama-3.1-405B-Instruct --tensor-parallel-size 8 \
--pipeline-parallel-size $(LWS_GROUP_SIZE) --nnodes $(LWS_GROUP_SIZE) --node-rank $(LWS_WORKER_INDEX) \
--master-addr $(LWS_LEADER_ADDRESS) --headless"
"""

LEADER_RAY = """kind: LeaderWorkerSet
spec:
  leaderWorkerTemplate:
    size: 2
    leaderTemplate:
      spec:
        containers:
          - name: vllm-leader
            image: docker.io/vllm/vllm-openai:latest
            command:
              - sh
              - -c
              - "bash /vllm-workspace/multi-node-serving.sh leader --ray_cluster_size=$(LWS_GROUP_SIZE);
                vllm serve meta-llama/Meta-Llama-3.1-405B-Instruct --port 8080 --tensor-parallel-size 8 \
--pipeline_parallel_size 2"
    workerTemplate:
      spec:
        containers:
          - name: vllm-worker
            image: docker.io/vllm/vllm-openai:latest
            command:
              - sh
              - -c
              - "bash /vllm-workspace/multi-node-serving.sh worker --ray_address=$(LWS_LEADER_ADDRESS)"
"""

WIDE_EP = """apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: wide-ep-decode
spec:
  replicas: 1
  leaderWorkerTemplate:
    size: 2
    workerTemplate:
      spec:
        initContainers:
          - name: routing-proxy
            args:
              - --port=8000
              - --vllm-port=8200
              - --connector=nixlv2
              - -v=1
            image: registry.example/routing-sidecar:v0.3.0
        containers:
        - name: vllm-worker
          image: registry.example/llm-d-dev:1
          command:
            - /bin/bash
            - -c
          args:
            - |-
              #################
              # RUN vLLM decode worker
              #################
              START_RANK=$(( ${LWS_WORKER_INDEX:-0} * DP_SIZE_LOCAL ))

              source /srv/vllm/bin/activate
              exec vllm serve \\
                deepseek-ai/DeepSeek-R1-0528 \\
                --port 8200 \\
                --enable-expert-parallel \\
                --data-parallel-hybrid-lb \\
                --data-parallel-size $((LWS_GROUP_SIZE * DP_SIZE_LOCAL)) \\
                --data-parallel-size-local $DP_SIZE_LOCAL \\
                --data-parallel-address ${LWS_LEADER_ADDRESS} \\
                --data-parallel-rpc-port 5555 \\
                --data-parallel-start-rank $START_RANK \\
                --kv_transfer_config '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'
          env:
          - name: DP_SIZE_LOCAL
            value: "8"
          - name: VLLM_ALL2ALL_BACKEND
            value: deepep_low_latency
          - name: GLOO_SOCKET_IFNAME
            value: eth0
"""

CHART = """servingEngineSpec:
  runtimeClassName: ""
  modelSpec:
  - name: "llama3"
    repository: "lmcache/vllm-openai"
    tag: "latest"
    modelURL: "meta-llama/Llama-3.1-70B-Instruct"
    replicaCount: 1
    requestCPU: 6
    requestMemory: "16Gi"
    requestGPU: 4
    pvcStorage: "50Gi"
    pvcAccessMode:
      - ReadWriteOnce
    vllmConfig:
      enableChunkedPrefill: false
      enablePrefixCaching: false
      maxModelLen: 4096
      dtype: "bfloat16"
      tensorParallelSize: 4
      gpuMemoryUtilization: 0.85
      v1: 1
      extraArgs: ["--disable-log-requests", "--max-num-seqs", "64"]
    lmcacheConfig:
      enabled: true
      cpuOffloadingBufferSize: "20"
    hf_token: <your-hf-token>
cacheserverSpec:
  replicaCount: 1
"""

CHART_STAGES = """servingEngineSpec:
  modelSpec:
  - name: "distilgpt2"
    repository: "vllm/vllm-openai"
    modelURL: "distilbert/distilgpt2"
    replicaCount: 1
    requestGPU: 1
    vllmConfig:
      tensorParallelSize: 2
      pipelineParallelSize: 2
    shmSize: "20Gi"
    raySpec:
      headNode:
        requestCPU: 2
"""

CHART_ROLES = """servingEngineSpec:
  enableEngine: true
  modelSpec:
    # Prefill node configuration
    - name: "llama-prefill"
      modelURL: "meta-llama/Llama-3.1-8B-Instruct"
      replicaCount: 1
      vllmConfig:
        enablePrefixCaching: false
        extraArgs:
          - "--enforce-eager"
          - "--tensor-parallel-size"
          - "2"
      lmcacheConfig:
        enabled: true
        kvRole: "kv_producer"
    # Decode node configuration
    - name: "llama-decode"
      modelURL: "meta-llama/Llama-3.1-8B-Instruct"
      replicaCount: 1
      vllmConfig:
        enablePrefixCaching: false
        extraArgs:
          - "--enforce-eager"
      lmcacheConfig:
        enabled: true
        kvRole: "kv_consumer"
routerSpec:
  enableRouter: true
  extraArgs:
    - "--prefill-model-labels"
    - "llama-prefill"
"""

KSERVE = """apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: huggingface-llama3
spec:
  predictor:
    model:
      modelFormat:
        name: huggingface
      args:
        - --model_name=llama3
        - --model_id=meta-llama/meta-llama-3-8b-instruct
        - --tensor-parallel-size=2
        - --max-model-len=8192
      resources:
        limits:
          nvidia.com/gpu: "2"
"""

KSERVE_NODES = """apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: huggingface-llama3
spec:
  predictor:
    model:
      modelFormat:
        name: huggingface
      storageUri: pvc://llama-3-8b-pvc/hf/8b_instruction_tuned
      args:
        - --model_name=llama3
    workerSpec:
      pipelineParallelSize: 2
      tensorParallelSize: 4
"""

EVALUATOR = """defaults:
  - execution: slurm/default
  - deployment: vllm
  - _self_

deployment:
  type: vllm
  checkpoint_path: null
  hf_model_handle: meta-llama/Llama-3.1-70B-Instruct
  served_model_name: llama-3.1-70b-instruct
  tensor_parallel_size: 4
  pipeline_parallel_size: 1
  data_parallel_size: 2
  extra_args: "--max-model-len 4096"

execution:
  walltime: 02:00:00
"""

RAY_SERVE = """applications:
- args:
    llm_configs:
      - model_loading_config:
          model_id: my-llama-3.1-70b
          model_source: meta-llama/Llama-3.1-70B-Instruct
        accelerator_type: A100-40G
        deployment_config:
          autoscaling_config:
            min_replicas: 1
            max_replicas: 2
        engine_kwargs:
          max_model_len: 32768
          tensor_parallel_size: 8
          pipeline_parallel_size: 2
  import_path: ray.serve.llm:build_openai_app
  name: llm_app
  route_prefix: "/"
"""

MODELSERVICE = """multinode: false
modelArtifacts:
  uri: "hf://meta-llama/Llama-3.3-70B-Instruct"
  name: "meta-llama/Llama-3.3-70B-Instruct"
decode:
  create: true
  parallelism:
    tensor: 4
  replicas: 1
  containers:
  - name: "vllm"
    image: "registry.example/llm-d:v0.3"
    modelCommand: vllmServe
    args:
      - "--block-size"
      - "128"
      - "--kv-transfer-config"
      - '{"kv_connector":"NixlConnector", "kv_role":"kv_both"}'
prefill:
  create: true
  parallelism:
    tensor: 1
  replicas: 4
  containers:
  - name: "vllm"
    image: "registry.example/llm-d:v0.3"
    modelCommand: vllmServe
    args:
      - "--block-size"
      - "128"
"""

SKY = """resources:
  accelerators: {H100:8}
  ports: 8081
envs:
  MODEL_NAME: meta-llama/Llama-3.1-70B-Instruct
setup: |
  pip install vllm==0.6.0
run: |
  vllm serve $MODEL_NAME \\
    --tensor-parallel-size $SKYPILOT_NUM_GPUS_PER_NODE \\
    --port 8081 --max-model-len 4096 2>&1
"""

PODS = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: mistral-7b
spec:
  replicas: 1
  template:
    spec:
      containers:
      - name: mistral-7b
        image: vllm/vllm-openai:latest
        command: ["/bin/sh", "-c"]
        args: [
          "vllm serve mistralai/Mistral-7B-Instruct-v0.3 --trust-remote-code --enable-chunked-prefill \
--max_num_batched_tokens 1024 --tensor-parallel-size 2"
        ]
        env:
        - name: HUGGING_FACE_HUB_TOKEN
          valueFrom:
            secretKeyRef:
              name: hf-token-secret
              key: token
"""

HELM_TEMPLATE = """apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      containers:
        - name: {{ .Chart.Name }}
          image: "{{ .Values.image.repository }}:{{ .Values.image.tag }}"
          command: ["python3", "-m", "sglang.launch_server"]
          args:
            - "--model-path={{ .Values.model }}"
            - "--tp={{ .Values.tp }}"
            {{- if .Values.extraArgs }}
            {{- toYaml .Values.extraArgs | nindent 12 }}
            {{- end }}
"""

VLLM_OPENAI = """kind: Deployment
spec:
  template:
    spec:
      containers:
      - name: server
        image: vllm/vllm-openai:v0.9.1
        args:
        - --model=Qwen/Qwen3-30B-A3B
        - --tensor-parallel-size=$(TP)
        - --enable-expert-parallel
        env:
        - name: TP
          value: "4"
"""

MANIFESTS = [
    ("sglang", Case(name="a stateful set", text=SET, result="world 16 nodes 2 | tp 16 | experts 1x16 slots 256")),
    ("sglang", Case(name="compose, folded words", text=COMPOSE, result="world 2 | tp 2")),
    ("vllm", Case(name="compose, a list with defaults", text=COMPOSE_LIST, result="world 4 stages 2 | tp 2")),
    ("vllm", Case(name="compose, a line of shell", text=COMPOSE_SHELL, result="world 8 | tp 8")),
    (
        "sglang",
        Case(
            name="services of two roles",
            text=DYNAMO,
            result=[
                "world 16 nodes 2 | tp 1 dp 16 | dense 16 lm_head 16 | experts 1x16 slots 256 shared 16",
                "world 8 | tp 8 | experts 1x8 slots 256",
            ],
        ),
    ),
    (
        "vllm",
        Case(
            name="services of two roles of vLLM",
            text=DYNAMO_VLLM,
            result=[
                "world 16 nodes 2 | tp 1 dp 16 | experts 1x16 slots 288 dispatch all_to_all balance global "
                "interval 3000",
                "world 16 | tp 1 dp 16 | experts 1x16 slots 256 dispatch all_to_all",
            ],
        ),
    ),
    (
        "trtllm",
        Case(
            name="services whose files are in the manifest",
            text=DYNAMO_TRTLLM,
            result=[
                "world 4 | tp 1 dp 4 | experts 1x4 slots 256",
                "world 32 nodes 8 | tp 1 dp 32 | experts 1x32 slots 256",
            ],
        ),
    ),
    (
        "sglang",
        Case(
            name="a leader and its workers",
            text=LEADER_SGLANG,
            result="world 16 nodes 2 | tp 16 | experts 16x1 slots 256",
        ),
    ),
    ("vllm", Case(name="a leader with stages", text=LEADER_VLLM, result="world 16 nodes 2 stages 2 | tp 8")),
    ("vllm", Case(name="a leader that starts ray", text=LEADER_RAY, result="world 16 nodes 2 stages 2 | tp 8")),
    (
        "vllm",
        Case(
            name="wide expert parallelism",
            text=WIDE_EP,
            result="world 16 nodes 2 | tp 1 dp 16 | experts 1x16 slots 256 dispatch all_to_all",
        ),
    ),
    (
        "vllm",
        Case(
            name="a chart's values",
            text=CHART,
            result="world 4 | tp 4",
            options={"max_model_len": 4096, "max_num_seqs": 64, "enable_prefix_caching": False, "dtype": "bfloat16"},
        ),
    ),
    ("vllm", Case(name="a chart with stages", text=CHART_STAGES, result="world 4 stages 2 | tp 2")),
    ("vllm", Case(name="a chart of two roles", text=CHART_ROLES, result=["world 2 | tp 2", "world 1 | tp 1"])),
    ("vllm", Case(name="an inference service", text=KSERVE, result="world 2 | tp 2")),
    (
        "vllm",
        Case(name="an inference service of nodes", text=KSERVE_NODES, result="world 8 nodes 2 stages 2 | tp 4"),
    ),
    ("vllm", Case(name="a deployment of an evaluator", text=EVALUATOR, result="world 8 replicas 2 | tp 4")),
    ("vllm", Case(name="arguments of an engine", text=RAY_SERVE, result="world 16 stages 2 | tp 8")),
    ("vllm", Case(name="a model service", text=MODELSERVICE, result=["world 1 | tp 1", "world 4 | tp 4"])),
    (
        "vllm",
        Case(
            name="a task of clouds",
            text=SKY,
            settings={"SKYPILOT_NUM_GPUS_PER_NODE": "8"},
            result="world 8 | tp 8",
            options={"model": "meta-llama/Llama-3.1-70B-Instruct"},
        ),
    ),
    ("vllm", Case(name="pods", text=PODS, result="world 2 | tp 2", options={"max_num_batched_tokens": 1024})),
    (
        "sglang",
        Case(
            name="a template",
            text=HELM_TEMPLATE,
            settings={"Values.tp": "4", "Values.model": "Qwen/Qwen3-32B"},
            result="world 4 | tp 4",
        ),
    ),
    ("vllm", Case(name="a variable of a pod", text=VLLM_OPENAI, result="world 4 | tp 4 | experts 1x4 slots 128")),
    (
        "vllm",
        Case(
            name="a manifest through kubectl",
            text="kubectl apply -f - <<EOF\n" + VLLM_OPENAI + "EOF\n",
            result="world 4 | tp 4 | experts 1x4 slots 128",
        ),
    ),
]

BENCHMARK = """slurm:
  script_file: "disaggr_torch.slurm"
  partition: "<partition>"
  job_time: "02:00:00"
  numa_bind: true
benchmark:
  mode: "e2e"
  concurrency_list: "16"
  dataset_file: "<dataset_file>"
hardware:
  gpus_per_node: 4
  num_ctx_servers: 2
  num_gen_servers: 1
environment:
  container_image: "<container_image>"
  model_path: "/models/DeepSeek-R1-FP4"
  worker_env_var: "TLLM_LOG_LEVEL=INFO TRTLLM_ENABLE_PDL=1"
profiling:
  nsys_on: false
accuracy:
  enable_accuracy_test: false
  model: "local-completions"
worker_config:
  gen:
    tensor_parallel_size: 8
    moe_expert_parallel_size: 8
    enable_attention_dp: true
    enable_lm_head_tp_in_adp: true
    pipeline_parallel_size: 1
    max_batch_size: 256
    kv_cache_config:
      enable_block_reuse: false
      free_gpu_memory_fraction: 0.8
    moe_config:
      backend: CUTLASS
      use_low_precision_moe_combine: true
      load_balancer:
        num_slots: 0
    speculative_config: # when mtp_size is 0, remove this section.
      decoding_type: MTP
      num_nextn_predict_layers: 1
  ctx:
    max_batch_size: 4
    tensor_parallel_size: 4
    moe_expert_parallel_size: 4
    enable_attention_dp: true
    pipeline_parallel_size: 1
    cuda_graph_config: null
    disable_overlap_scheduler: true
"""
BENCHMARK_ROLES = [
    "world 8 nodes 2 replicas 2 | tp 1 dp 4 | experts 1x4 slots 256",
    "world 8 nodes 2 | tp 1 dp 8 | lm_head 4 | experts 1x8 slots 256",
]

BARE_ROLES = """model: deepseek-ai/DeepSeek-R1
ctx:
  tensor_parallel_size: 4
  moe_expert_parallel_size: 4
  enable_attention_dp: true
gen:
  tensor_parallel_size: 16
  moe_expert_parallel_size: 16
  enable_attention_dp: true
"""

LAUNCHER = """exec:
  model_path: /models/llama-3.1-405b
  config:
    context:
      tp: 4
      ep: 1
      pp: 2
      max_batch_size: 64
      max_num_tokens: 8192
    generation:
      tp: 8
      ep: 1
      pp: 1
      max_batch_size: 256
      gpu_fraction: 0.8
"""

PREFIXED = """job:
  model_path: /models/DeepSeek-R1
  num_ctx_servers: 1
  ctx_tp_size: 4
  ctx_ep_size: 4
  ctx_pp_size: 1
  ctx_enable_attention_dp: true
  num_gen_servers: 1
  gen_tp_size: 16
  gen_ep_size: 16
  gen_pp_size: 1
  gen_enable_attention_dp: true
"""

SERVERS = """hostname: localhost
port: 8000
model: deepseek-ai/DeepSeek-V3
backend: pytorch
disagg_cluster:
  cluster_uri: etcd://localhost:2379
context_servers:
  num_instances: 2
  tp_size: 4
  ep_size: 4
  enable_attention_dp: true
  router:
    type: kv_cache_aware
  urls: ["localhost:8001", "localhost:8002"]
generation_servers:
  num_instances: 1
  tensor_parallel_size: 8
  moe_expert_parallel_size: 8
  enable_attention_dp: true
  urls: ["localhost:8003"]
"""

CURATED = """max_batch_size: 1024
max_num_tokens: 3200
kv_cache_free_gpu_memory_fraction: 0.8
tensor_parallel_size: 8
moe_expert_parallel_size: 8
trust_remote_code: true
enable_attention_dp: true
cuda_graph_config:
  enable_padding: true
  max_batch_size: 128
kv_cache_config:
  dtype: fp8
stream_interval: 10
speculative_config:
  decoding_type: MTP
  num_nextn_predict_layers: 1
"""


def mindie(server: dict[str, object] | None = None, **model: object) -> str:
    """A whole config.json of a server."""
    deploy = {"maxSeqLen": 2560, "maxInputTokenLen": 2048, "truncation": False, "ModelConfig": [model]}
    backend = {
        "backendName": "mindieservice_llm_engine",
        "modelInstanceNumber": 1,
        "npuDeviceIds": [[0, 1, 2, 3, 4, 5, 6, 7]],
        "tokenizerProcessNumber": 8,
        "multiNodesInferEnabled": False,
        "interNodeTLSEnabled": True,
        "ModelDeployConfig": deploy,
        "ScheduleConfig": {"templateType": "Standard", "cacheBlockSize": 128, "maxPrefillBatchSize": 50},
        **(server or {}),
    }
    root = {"Version": "1.0.0", "ServerConfig": {"ipAddress": "127.0.0.1", "port": 1025}, "BackendConfig": backend}
    return json.dumps(root, indent=4)


NODES = {"multiNodesInferEnabled": True}
COMMON = {"modelInstanceType": "Standard", "backendType": "atb", "cpuMemSize": 5, "npuMemSize": -1}

FILES = [
    ("trtllm", Case(name="a benchmark's job", text=BENCHMARK, result=BENCHMARK_ROLES)),
    (
        "trtllm",
        Case(
            name="ctx and gen at the top",
            text=BARE_ROLES,
            result=[
                "world 4 | tp 1 dp 4 | experts 1x4 slots 256",
                "world 16 | tp 1 dp 16 | experts 1x16 slots 256",
            ],
            quiet=True,
        ),
    ),
    ("trtllm", Case(name="a launcher", text=LAUNCHER, result=["world 8 stages 2 | tp 4", "world 8 | tp 8"])),
    (
        "trtllm",
        Case(
            name="roles as the keys' beginnings",
            text=PREFIXED,
            result=[
                "world 4 | tp 1 dp 4 | experts 1x4 slots 256",
                "world 16 | tp 1 dp 16 | experts 1x16 slots 256",
            ],
        ),
    ),
    (
        "trtllm",
        Case(
            name="servers with short names",
            text=SERVERS,
            result=[
                "world 8 replicas 2 | tp 1 dp 4 | experts 1x4 slots 256",
                "world 8 | tp 1 dp 8 | experts 1x8 slots 256",
            ],
        ),
    ),
    (
        "trtllm",
        Case(
            name="a curated file",
            text=CURATED,
            experts=256,
            result="world 8 | tp 1 dp 8 | experts 1x8 slots 256",
            options={"max_num_seqs": 1024},
            quiet=True,
        ),
    ),
    (
        "trtllm",
        Case(
            name="two documents between fences",
            text=f"Prefill:\n```yaml\n{BARE_ROLES}```\n",
            result=[
                "world 4 | tp 1 dp 4 | experts 1x4 slots 256",
                "world 16 | tp 1 dp 16 | experts 1x16 slots 256",
            ],
        ),
    ),
    (
        "mindie",
        Case(
            name="a dense model",
            text=mindie(
                {"npuDeviceIds": [[0, 1, 2, 3]]},
                **COMMON,
                modelName="qwen2.5-72b",
                modelWeightPath="/data/qwen2.5-72b",
                worldSize=4,
            ),
            result="world 4 | tp 4",
        ),
    ),
    (
        "mindie",
        Case(
            name="two nodes",
            text=mindie(
                NODES,
                **COMMON,
                modelName="deepseekr1",
                modelWeightPath="/data/DeepSeek-R1_w8a8",
                worldSize=16,
                dp=2,
                tp=8,
                moe_tp=4,
                moe_ep=4,
                plugin_params="",
            ),
            result="world 16 nodes 2 | tp 8 dp 2 | experts 4x4 slots 256",
        ),
    ),
    (
        "mindie",
        Case(
            name="four nodes of experts",
            text=mindie(
                NODES,
                **COMMON,
                modelName="DeepSeek-V3",
                modelWeightPath="/data/DeepSeek-V3",
                worldSize=32,
                dp=32,
                tp=1,
                moe_tp=1,
                moe_ep=32,
                models={"deepseekv2": {"ep_level": 2, "enable_mlapo_prefetch": True}},
            ),
            result="world 32 nodes 4 | tp 1 dp 32 | experts 1x32 slots 256 dispatch all_to_all",
        ),
    ),
    (
        "mindie",
        Case(
            name="a part in a page",
            text="Set the following in config.json:\n\n```json\n"
            + textwrap.dedent("""\
            "ModelConfig" : [
                {
                    "modelInstanceType" : "Standard",
                    "modelName" : "DeepSeek-R1_w8a8",
                    "worldSize" : 8,
                    ...
                    "dp": 4, "tp": 2, "moe_tp": 1, "moe_ep": 8   // experts whole
                }
            ]
            """)
            + "```\n",
            result="world 8 | tp 2 dp 4 | experts 1x8 slots 256",
        ),
    ),
]


@pytest.mark.parametrize(("dialect", "case"), [*MANIFESTS, *FILES], ids=str)
def test_read_as_judged_by_hand(dialect: str, case: Case) -> None:
    check(case, dialect)
