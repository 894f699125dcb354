"""/metrics: vLLM's names, and numbers that add up."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.frontend.server.conftest import Running, Start
from tests.support.waiting import until

DASHBOARD = {
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:request_success_total",
    "vllm:num_preemptions_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:request_time_per_output_token_seconds_count",
    "vllm:e2e_request_latency_seconds_sum",
    "vllm:request_prompt_tokens_bucket",
    "vllm:request_generation_tokens_bucket",
    "vllm:request_params_n_count",
    "vllm:request_params_max_tokens_count",
    "vllm:cache_config_info",
    "vllm:request_queue_time_seconds_sum",
    "vllm:request_prefill_time_seconds_sum",
    "vllm:request_decode_time_seconds_sum",
    "vllm:request_inference_time_seconds_bucket",
    "vllm:request_max_num_generation_tokens_sum",
    "vllm:request_prefill_kv_computed_tokens_bucket",
    "vllm:iteration_tokens_total_bucket",
    "vllm:prompt_tokens_cached_total",
    "vllm:prompt_tokens_by_source_total",
    "vllm:num_requests_waiting_by_reason",
    "vllm:time_per_output_token_seconds_bucket",
    "vllm:gpu_cache_usage_perc",
    "vllm:gpu_prefix_cache_queries_total",
    "vllm:gpu_prefix_cache_hits_total",
    "http_requests_total",
    "http_request_duration_seconds_bucket",
    "process_resident_memory_bytes",
}
"""Every series that vLLM's own dashboards draw for text models without speculation, and older names of four."""


def samples(server: Running) -> dict[str, float]:
    """Sums over labels but `le`; buckets: the largest."""
    found: dict[str, float] = {}
    page = server.http.get("/metrics")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/plain")
    for family in text_string_to_metric_families(page.text):
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                found[sample.name] = max(found.get(sample.name, 0), sample.value)
            else:
                found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_numbers_add_up(start_server: Start) -> None:
    server = start_server("abcdefghij", dp=2, step_s=0.005)
    try:
        before = samples(server)
        assert before["vllm:generation_tokens_total"] == 0
        assert before["vllm:request_success_total"] == 0, "each reason is there before its first answer: rates need it"
        body = {"prompt": ["Hello", "abc"], "n": 2, "max_tokens": 4}
        assert server.http.post("/v1/completions", json=body).status_code == 200
        stream = server.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 99, "stream": True})
        assert stream.text.endswith("[DONE]\n\n")
        after = samples(server)
        assert after.keys() >= DASHBOARD
        assert after["vllm:generation_tokens_total"] == 4 * 4 + 11
        assert after["vllm:prompt_tokens_total"] == 5 + 3 + 1
        assert after["vllm:request_success_total"] == 5
        assert after["vllm:request_generation_tokens_sum"] == 27 and after["vllm:request_generation_tokens_count"] == 5
        assert after["vllm:time_to_first_token_seconds_count"] == 5
        assert after["vllm:e2e_request_latency_seconds_count"] == 5
        assert after["vllm:request_params_n_sum"] == 3 and after["vllm:request_prompt_tokens_sum"] == 9
        assert after["vllm:request_max_num_generation_tokens_sum"] == 4 + 11
        assert after["vllm:request_prefill_kv_computed_tokens_sum"] == 9
        assert 0 < after["vllm:inter_token_latency_seconds_count"] <= 27 - 5
        steps = server.engine
        assert steps is not None
        total = steps.stats()
        assert after["vllm:iteration_tokens_total_sum"] == total.total.computed_tokens == total.rows
        assert after["vllm:iteration_tokens_total_count"] == total.steps
        for part in ("queue", "prefill", "decode", "inference"):
            assert after[f"vllm:request_{part}_time_seconds_count"] == 5
        parts = sum(after[f"vllm:request_{part}_time_seconds_sum"] for part in ("prefill", "decode"))
        assert abs(parts - after["vllm:request_inference_time_seconds_sum"]) < 1e-6
        assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0
        assert after["vllm:kv_cache_usage_perc"] == 0 and after["weft:ready"] == 1
        page = server.http.get("/metrics").text
        assert 'vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 4.0' in page
        assert 'vllm:generation_tokens_total{engine="1",model_name="tiny"}' in page
        assert 'http_requests_total{handler="/v1/completions",method="POST",status="2xx"} 2.0' in page
        assert server.http.get("/nowhere").status_code == 404
        assert 'handler="none",method="GET",status="4xx"} 1.0' in server.http.get("/metrics").text
    finally:
        server.stop()


def test_what_fails_is_counted(start_server: Start) -> None:
    server = start_server("abc", step_s=0.005)
    try:
        server.executor.gate.clear()
        body = {"prompt": "x", "stream": True, "n": 3}
        with server.http.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200
        server.executor.gate.set()
        until(lambda: samples(server).get("weft:requests_failed_total"))
        assert samples(server)["weft:requests_failed_total"] == 1
        assert samples(server)["vllm:request_success_total"] == 3, "as of those that are whole, each answer counts"
    finally:
        server.stop()
