-- For wrk: method and body from the environment, and what it saw as one line of JSON.
wrk.method = os.getenv("WRK_METHOD") or "GET"
local body_bytes = tonumber(os.getenv("WRK_BODY_BYTES") or "0")
if body_bytes > 0 then
   wrk.body = string.rep("x", body_bytes)
   wrk.headers["Content-Type"] = "application/octet-stream"
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      'JSON {"requests":%d,"errors":%d,"bytes_received":%d,"latency_us":{"p50":%d,"p90":%d,"p99":%d,"p999":%d,"max":%d}}\n',
      summary.requests, errors.connect + errors.read + errors.write + errors.status + errors.timeout, summary.bytes,
      latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9), latency.max))
end
