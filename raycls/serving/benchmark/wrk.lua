-- Requests for wrk: the bodies of the folder that is given after `--`, in turns; a line of JSON at the end.
-- After the folder: the seconds of warm-up, and those in which requests are counted as they are sent. In a closed loop
-- each is sent on an answer, so that as many were answered; and to look at answers would cost wrk much more.
local ffi = require("ffi")
ffi.cdef("typedef struct { long s, ns; } moment; int clock_gettime(int clock, moment *now);")
local moment = ffi.new("moment")
local bodies, position = {}, 0
local warmup, window, begun
local threads = {}
sent = 0 -- global: `done`, which runs elsewhere, asks each thread for it

local function now()
  ffi.C.clock_gettime(1, moment) -- CLOCK_MONOTONIC
  return tonumber(moment.s) + tonumber(moment.ns) / 1e9
end

function setup(thread)
  threads[#threads + 1] = thread
end

function init(arguments)
  warmup, window = tonumber(arguments[2]), tonumber(arguments[3])
  local index = io.open(arguments[1] .. "/index.tsv", "r")
  for line in index:lines() do
    local name, kind = line:match("([^\t]+)\t(.+)")
    local file = io.open(arguments[1] .. "/" .. name, "rb")
    bodies[#bodies + 1] = wrk.format("POST", nil, {["Content-Type"] = kind}, file:read("*a"))
    file:close()
  end
end

function request()
  begun = begun or now()
  local age = now() - begun - warmup
  if age >= 0 and age < window then
    sent = sent + 1
  end
  position = position % #bodies + 1
  return bodies[position]
end

function done(summary, latency, requests)
  local errors, counted = summary.errors, 0
  for _, thread in ipairs(threads) do
    counted = counted + thread:get("sent")
  end
  io.write(string.format(
    '\n{"answered": %d, "refused": %d, "counted": %d, "p50_ms": %f, "p99_ms": %f, "unanswered": %d}\n',
    summary.requests, errors.status, counted,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.timeout))
end
