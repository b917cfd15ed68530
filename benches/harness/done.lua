-- What wrk measured, as the last line of what it prints: one JSON object, times in microseconds.
function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "duration": %d, "bytes": %d, "p50": %.1f, "p99": %.1f, "p999": %.1f, "max": %.1f, '
         .. '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
      summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
      latency:percentile(99.9), latency.max, errors.connect, errors.read, errors.write, errors.status, errors.timeout
   ))
end
