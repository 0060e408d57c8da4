-- Threads take turns over the addresses given as arguments (each has its own client address by its route, so that new
-- connections do not run out of local ports), and the result is one line of JSON.
local addresses, turn = nil, 0

function setup(thread)
  addresses = addresses or os.getenv("BENCH_ADDRESSES")
  local list = {}
  for address in addresses:gmatch("%S+") do list[#list + 1] = address end
  thread.addr = wrk.lookup(list[turn % #list + 1], os.getenv("BENCH_PORT"))[1]
  turn = turn + 1
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'bench: {"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "connect": %d, "read": %d, "write": %d, '
      .. '"status": %d, "timeout": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), e.connect, e.read, e.write,
    e.status, e.timeout))
end
