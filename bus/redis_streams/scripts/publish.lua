-- Append events to one partition, each (source, id) once.
-- KEYS: stream, numbers, ids:0, ids:1, delayed, kept back
-- ARGV: nonce, limit, window ms, window count, longest deadline ms, topic, then for each event:
--       source and id, flags (1: may be a repetition, 2: admitted up to twice the limit, 4: kept back), t, h, d, b,
--       and if it is kept back, until when (`+`: so many milliseconds from now)
-- Answer: nonce, then for each event its entry, `=` and what was said of the first, `d` if it is kept back, or `full`.
-- An event is written before its id is remembered: a script that fails half-way must not leave an id
-- without an event. What failed is told as `!` and the error; nothing behind it is written.
local stream, numbers = KEYS[1], KEYS[2]
local limit, window, count, longest = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local state = redis.call('HMGET', numbers, 'n', 'ms', 'turn', 'count', 'began')
local n, ms = tonumber(state[1] or 0), math.max(now, tonumber(state[2] or 0))
local turn, known, began = tonumber(state[3] or 0), tonumber(state[4] or 0), tonumber(state[5] or now)

-- The window: a generation that is old, or full, becomes the former one. A clock that jumps forward drops
-- only what was the former one already; one that jumps back begins anew to count the age.
local age = now - began
if age < 0 then began, age = now, 0 end
if age >= math.max(window, longest) or (known >= count and age >= longest) then
  turn, known, began = 1 - turn, 0, now
  redis.call('UNLINK', KEYS[3 + turn])
end
local current, former = KEYS[3 + turn], KEYS[4 - turn]

local length = redis.call('XLEN', stream)
local answer, fresh, seen = {ARGV[1]}, {}, {}
local at, last = 7, #ARGV
while at <= last do
  local name, flags = ARGV[at], tonumber(ARGV[at + 1])
  local first = seen[name]
  if not first and flags % 2 == 1 then
    first = redis.call('HGET', current, name) or redis.call('HGET', former, name)
  end
  if first then
    answer[#answer + 1] = '=' .. first
  elseif flags % 8 >= 4 then
    local due = ARGV[at + 6]
    due = string.sub(due, 1, 1) == '+' and now + tonumber(due) or tonumber(due)
    local kept = redis.pcall(
      'HSET', KEYS[6], name, cmsgpack.pack({ARGV[6], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]}))
    if type(kept) == 'table' and kept.err then
      answer[#answer + 1] = '!' .. kept.err
      break
    end
    redis.call('ZADD', KEYS[5], string.format('%.0f', due), name)
    known, seen[name] = known + 1, 'd'
    fresh[#fresh + 1] = name
    fresh[#fresh + 1] = 'd'
    answer[#answer + 1] = 'd'
  elseif length >= (flags % 4 >= 2 and 2 * limit or limit) then
    answer[#answer + 1] = 'full'
  else
    local entry = string.format('%.0f-%.0f', ms, n + 1)
    local done = redis.pcall(
      'XADD', stream, entry, 't', ARGV[at + 2], 'h', ARGV[at + 3], 'd', ARGV[at + 4], 'b', ARGV[at + 5])
    if type(done) == 'table' and done.err and string.find(done.err, 'equal or smaller', 1, true) then
      -- somebody else has written to the stream, or the clock went back while our number was lost
      local info = redis.call('XINFO', 'STREAM', stream)
      for i = 1, #info, 2 do
        if info[i] == 'last-generated-id' then ms = math.max(ms, tonumber(string.match(info[i + 1], '^%d+'))) end
      end
      ms = ms + 1
      entry = string.format('%.0f-%.0f', ms, n + 1)
      done = redis.pcall(
        'XADD', stream, entry, 't', ARGV[at + 2], 'h', ARGV[at + 3], 'd', ARGV[at + 4], 'b', ARGV[at + 5])
    end
    if type(done) == 'table' and done.err then
      answer[#answer + 1] = '!' .. done.err
      break
    end
    n, length, known = n + 1, length + 1, known + 1
    seen[name] = entry
    fresh[#fresh + 1] = name
    fresh[#fresh + 1] = entry
    answer[#answer + 1] = entry
  end
  at = at + (flags % 8 >= 4 and 7 or 6)
end
if #fresh > 0 then
  redis.call('HSET', numbers, 'n', string.format('%.0f', n), 'ms', string.format('%.0f', ms), 'turn', turn,
    'count', known, 'began', string.format('%.0f', began))
  redis.call('HSET', current, unpack(fresh))
end
return answer
