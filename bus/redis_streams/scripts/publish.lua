-- Append events to one partition, each (source, id) once.
-- KEYS: stream, numbers, ids:0, ids:1, delayed, kept back; where a group reads along, `own`
-- ARGV: nonce, limit, window ms, window count, longest deadline ms, topic, then for each event:
--       source and id, flags (1: may be a repetition, 2: admitted up to twice the limit, 4: kept back), t, h, d, b,
--       and if it is kept back, until when (`+`: so many milliseconds from now);
--       where a group reads along, behind all of them: group, fence, most
-- Answer: nonce, then for each event its entry, `=` and what was said of the first, `d` if it is kept back, or `full`.
--         Where a group reads along, behind them what `fetch` would say.
-- An event is written before its id is remembered: a script that fails half-way must not leave an id
-- without an event. What failed is told as `!` and the error; nothing behind it is written.
local call, pcall, format, tonumber, type = redis.call, redis.pcall, string.format, tonumber, type
local ARGV, KEYS = ARGV, KEYS  -- locals: reading a global costs a lookup each time
local stream, numbers = KEYS[1], KEYS[2]
local limit, window, count, longest = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local state = call('HMGET', numbers, 'n', 'ms', 'turn', 'count', 'began')
local n, ms = tonumber(state[1] or 0), math.max(now, tonumber(state[2] or 0))
local turn, known, began = tonumber(state[3] or 0), tonumber(state[4] or 0), tonumber(state[5] or now)
local is_begun = state[5]

-- The window: a generation that is old, or full, becomes the former one. A clock that jumps forward drops
-- only what was the former one already; one that jumps back begins anew to count the age.
local age = now - began
if age < 0 then began, age, is_begun = now, 0, false end
if age >= math.max(window, longest) or (known >= count and age >= longest) then
  turn, known, began, is_begun = 1 - turn, 0, now, false
  call('UNLINK', KEYS[3 + turn])
end
local current, former = KEYS[3 + turn], KEYS[4 - turn]

local length = call('XLEN', stream)
local answer, said, fresh, named, seen = {ARGV[1]}, 1, {}, 0, {}
local stamp = format('%.0f', ms)

local function failed(done) return type(done) == 'table' and done.err end

-- Somebody else has written to the stream, or the clock went back while our number was lost.
local function pass_what_is_there()
  local info = call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then ms = math.max(ms, tonumber(string.match(info[i + 1], '^%d+'))) end
  end
  ms = ms + 1
  stamp = format('%.0f', ms)
end

local at, last = 7, #ARGV - (KEYS[7] and 3 or 0)
while at <= last do
  local name, flags, is_new = ARGV[at], ARGV[at + 1], true
  local word, is_admitted, is_kept_back
  if flags ~= '0' then  -- most are plain, and every step less is felt in each of them
    flags = tonumber(flags)
    is_admitted, is_kept_back = flags % 4 >= 2, flags % 8 >= 4
    if flags % 2 == 1 then word = seen[name] or call('HGET', current, name) or call('HGET', former, name) end
  end
  if word then
    word, is_new = '=' .. word, false
  elseif is_kept_back then
    local due = ARGV[at + 6]
    due = string.sub(due, 1, 1) == '+' and now + tonumber(due) or tonumber(due)
    local kept = pcall(
      'HSET', KEYS[6], name, cmsgpack.pack({ARGV[6], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]}))
    if not failed(kept) then kept = pcall('ZADD', KEYS[5], format('%.0f', due), name) end
    if failed(kept) then
      answer[said + 1] = '!' .. kept.err
      break
    end
    word = 'd'
  elseif length >= (is_admitted and 2 * limit or limit) then
    word, is_new = 'full', false
  else
    local done
    for _ = 1, 2 do
      done = pcall('XADD', stream, stamp .. '-' .. (n + 1),
        't', ARGV[at + 2], 'h', ARGV[at + 3], 'd', ARGV[at + 4], 'b', ARGV[at + 5])
      if not failed(done) or not string.find(done.err, 'equal or smaller', 1, true) then break end
      pass_what_is_there()
    end
    if failed(done) then
      answer[said + 1] = '!' .. done.err
      break
    end
    n, length, word = n + 1, length + 1, done
  end
  if is_new then
    fresh[named + 1], fresh[named + 2] = name, word
    named = named + 2
    if flags ~= '0' then seen[name] = word end
  end
  said = said + 1
  answer[said] = word
  at = at + (is_kept_back and 7 or 6)
end
if named > 0 then
  known = known + named / 2
  if is_begun then
    call('HSET', numbers, 'n', n, 'ms', stamp, 'count', known)
  else
    call('HSET', numbers, 'n', n, 'ms', stamp, 'count', known, 'turn', turn, 'began', format('%.0f', began))
  end
  call('HSET', current, unpack(fresh))
end
if KEYS[7] then
  local owner = pcall('HGET', KEYS[7], ARGV[last + 1])
  if failed(owner) then
    answer[#answer + 1] = {'error', owner.err}
  elseif owner ~= ARGV[last + 2] then
    answer[#answer + 1] = {'lost', owner}
  else
    local found = pcall('XREADGROUP', 'GROUP', ARGV[last + 1], 'o', 'COUNT', ARGV[last + 3], 'STREAMS', stream, '>')
    answer[#answer + 1] = failed(found) and {'error', found.err} or {'ok', found or {}}
  end
end
return answer
