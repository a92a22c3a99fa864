-- Let go of what a topic's partition need not keep any more.
-- KEYS: stream, numbers, low
-- ARGV: nonce, retain, retain ms, young ms, limit
-- Answer: nonce, entries left, the group that holds the oldest which might go else (empty: none), the lowest entry
--         that is kept, how many were let go
-- An event may go when it is beyond `retain` or older than `retain ms`; but nothing younger than `young ms` while
-- fewer than half of the limit are kept, and never what a group has not settled. What waits in a lot is not in
-- the stream's pending list, so it holds nothing.
local stream = KEYS[1]
if redis.call('EXISTS', stream) == 0 then return {ARGV[1], 0, '', '', 0} end
local retain, limit = tonumber(ARGV[2]), tonumber(ARGV[5])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function parse(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end
local function less(a, b)  -- ids
  local am, an = parse(a)
  local bm, bn = parse(b)
  return am < bm or (am == bm and an < bn)
end
local function following(id)
  local ms, n = parse(id)
  return string.format('%.0f-%.0f', ms, n + 1)
end
local function preceding(id)
  local ms, n = parse(id)
  if n > 0 then return string.format('%.0f-%.0f', ms, n - 1) end
  return ms > 0 and string.format('%.0f-18446744073709551615', ms - 1) or '0-0'
end

-- What the groups need: what they have not read, and the oldest that they have read and not settled.
local floor, holder, lows = nil, '', {}
local groups = redis.call('XINFO', 'GROUPS', stream)
local last
local info = redis.call('XINFO', 'STREAM', stream)
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then last = info[i + 1] end
end
for _, fields in ipairs(groups) do
  local group = {}
  for i = 1, #fields, 2 do group[fields[i]] = fields[i + 1] end
  local need
  local settled = group['last-delivered-id']  -- everything up to it; where the group begins should it be deleted
  if group.pending > 0 then
    need = redis.call('XPENDING', stream, group.name)[2]
    settled = preceding(need)
  elseif group['last-delivered-id'] ~= last then
    need = following(group['last-delivered-id'])
  end
  lows[#lows + 1] = group.name
  lows[#lows + 1] = settled
  if need and (not floor or less(need, floor)) then floor, holder = need, group.name end
end

local length = redis.call('XLEN', stream)
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
if not first then return {ARGV[1], 0, '', '', 0} end

-- The name of the first entry that must stay for its number, found by halving: no index is kept for that.
local function by_number(n)
  local low, high = parse(first[1]), parse(last)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = redis.call('XRANGE', stream, string.format('%.0f', middle + 1), '+', 'COUNT', 1)[1]
    local number = found and select(2, parse(found[1]))
    if found and found[2][1] == 't' and number <= n then low = parse(found[1]) else high = middle end
  end
  local probe = string.format('%.0f-%.0f', low, n)
  return probe
end

local cut  -- what is below may go
local n = tonumber(redis.call('HGET', KEYS[2], 'n') or 0)
local half = math.floor(limit / 2)
local too_many = n - math.min(retain, half) + 1
if too_many > 1 and length > math.min(retain, half) then cut = by_number(too_many) end
local old = string.format('%.0f-0', now - tonumber(ARGV[3]))
if not cut or less(cut, old) then cut = old end
if tonumber(ARGV[4]) > 0 then
  local young = string.format('%.0f-0', now - tonumber(ARGV[4]))
  if less(young, cut) then
    local beyond = n - half + 1
    local bound = length > half and by_number(beyond) or '0-0'
    if less(young, bound) then young = bound end
    if less(young, cut) then cut = young end
  end
end
if less(following(last), cut) then cut = following(last) end

local held = ''
if floor and less(floor, cut) then cut, held = floor, holder end
local gone = redis.call('XTRIM', stream, 'MINID', cut)
if #lows > 0 then redis.pcall('HSET', KEYS[3], unpack(lows)) end  -- last: it fails when memory is full
local left = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
return {ARGV[1], length - gone, held, left and left[1] or following(last), gone}
