-- Requests for wrk: the bodies of the folder that is given after `--`, in turns; a line of JSON at the end.
local bodies, position = {}, 0

function init(arguments)
  local index = io.open(arguments[1] .. "/index.tsv", "r")
  for line in index:lines() do
    local name, kind = line:match("([^\t]+)\t(.+)")
    local file = io.open(arguments[1] .. "/" .. name, "rb")
    bodies[#bodies + 1] = wrk.format("POST", nil, {["Content-Type"] = kind}, file:read("*a"))
    file:close()
  end
end

function request()
  position = position % #bodies + 1
  return bodies[position]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"answered": %d, "refused": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "unanswered": %d}\n',
    summary.requests, errors.status, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.timeout))
end
