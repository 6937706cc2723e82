-- Requests for wrk: the bodies of the folder that is given after `--`, in turns; a line of JSON at the end.
-- After the folder: the seconds of warm-up, those in which requests are counted as they are sent, and the connections.
-- In a closed loop each is sent on an answer, so that as many were answered; and to look at answers would cost wrk much
-- more. Whole turns of all connections are counted, over the time that they took: of a server that answers 50 at once,
-- once a second, it would else depend on the moment at which the counting begins.
local ffi = require("ffi")
ffi.cdef("typedef struct { long s, ns; } moment; int clock_gettime(int clock, moment *now);")
local clock = ffi.new("moment")
local bodies, position = {}, 0
local warmup, connections, begun, first
local thread -- wrk is given one
-- Global: `done`, which runs elsewhere, asks the thread for them. Until a turn is whole: what was sent in the window.
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
