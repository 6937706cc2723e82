-- The wrk script: it sends the bodies of a folder in turns, and prints one line of JSON at the end.
-- Arguments after `--`: the folder, the seconds of warm-up, the seconds in which requests are counted, the connections.
-- Requests are counted when they are sent. In a closed loop a request is sent when an answer arrives, so both numbers are
-- equal, and wrk needs much more CPU time to look at answers. Whole turns of all connections are counted, with the time
-- that they took. A server that answers 50 requests at once, once a second, would otherwise be measured wrongly.
local ffi = require("ffi")
ffi.cdef("typedef struct { long s, ns; } moment; int clock_gettime(int clock, moment *now);")
local clock = ffi.new("moment")
local bodies, position = {}, 0
local warmup, connections, begun, first
local thread -- wrk runs with one thread
-- Globals, because `done` runs in another Lua state and reads them from the thread. `sent` is used if no turn is whole.
sent, window, turned, turned_s = 0, 0, 0, 0

local function now()
  ffi.C.clock_gettime(1, clock) -- CLOCK_MONOTONIC
  return tonumber(clock.s) + tonumber(clock.ns) / 1e9
end

function setup(only)
  thread = only
end

function init(arguments)
  warmup, window, connections = tonumber(arguments[2]), tonumber(arguments[3]), tonumber(arguments[4])
  local index = io.open(arguments[1] .. "/index.tsv", "r")
  for line in index:lines() do
    local name, kind = line:match("([^\t]+)\t(.+)")
    local file = io.open(arguments[1] .. "/" .. name, "rb")
    bodies[#bodies + 1] = wrk.format("POST", nil, {["Content-Type"] = kind}, file:read("*a"))
    file:close()
  end
end

function request()
  local moment = now()
  begun = begun or moment
  local age = moment - begun - warmup
  if age >= 0 and age < window then
    first = first or moment
    if sent > 0 and sent % connections == 0 then
      turned, turned_s = sent, moment - first
    end
    sent = sent + 1
  end
  position = position % #bodies + 1
  return bodies[position]
end

function done(summary, latency, requests)
  local errors, counted, counted_s = summary.errors, thread:get("turned"), thread:get("turned_s")
  if counted == 0 then
    counted, counted_s = thread:get("sent"), thread:get("window")
  end
  io.write(string.format(
    '\n{"answered": %d, "refused": %d, "counted": %d, "counted_s": %f, "p50_ms": %f, "p99_ms": %f, "unanswered": %d}\n',
    summary.requests, errors.status, counted, counted_s,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.timeout))
end
