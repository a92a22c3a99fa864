-- Settle deliveries of one group in one stream, if it is still ours; each call once, however often it is sent.
-- KEYS: own, tally, stream, lot, slips, suspects, dead, done:0, done:1, replay
-- ARGV: nonce, group, fence, topic, number of the call, most dead letters, dedupe ms, dedupe count, then operations:
--   ack N entry…               it is settled
--   keep name slip packed      into the lot (packed empty: it is there already), before it is acknowledged
--   leave name                 out of the lot
--   bury meta packed           to the dead letters
--   mark entry note            starts of a suspect (note empty: forget them)
--   done N key…                suppress repetitions of them
--   count name by              add to a counter
--   replay topic note          how far a replay has come (`over` in it: it is done)
-- Answer: nonce, `ok`, dead letters that were dropped, numbers of operations that failed with their errors;
--         `again`: it was done; `lost` and who owns it.
-- What is plain XACK comes first by the caller's order: it passes when memory is full, and after it the rest does.
if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then
  local refused = 0
  local at = 9
  while at <= #ARGV do
    local op = ARGV[at]
    if op == 'ack' then refused = refused + tonumber(ARGV[at + 1]); at = at + 2 + ARGV[at + 1]
    elseif op == 'done' then at = at + 2 + ARGV[at + 1]
    elseif op == 'keep' then  -- one that is new in the lot is acknowledged as well, and counts there
      if ARGV[at + 3] == '' then refused = refused + 1 end
      at = at + 4
    elseif op == 'leave' then refused = refused + 1; at = at + 2
    else at = at + 3 end
  end
  local told = ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ARGV[5]
  if refused > 0 and redis.call('HGET', KEYS[2], 'refused') ~= told then
    redis.pcall('HINCRBY', KEYS[2], 'stale', refused)
    redis.pcall('HSET', KEYS[2], 'refused', told)
  end
  return {ARGV[1], 'lost', redis.call('HGET', KEYS[1], ARGV[2])}
end
local last = 'no:' .. ARGV[4]
local number = ARGV[3] .. ' ' .. ARGV[5]
if redis.call('HGET', KEYS[2], last) == number then return {ARGV[1], 'again'} end

-- A start that is to be known of is written also when memory is full: what follows a command that frees passes.
if ARGV[9] == 'mark' then redis.call('HDEL', KEYS[2], '') end

local failed, at, dropped, held = {}, 9, 0, {}
local function check(done)
  if type(done) == 'table' and done.err then
    failed[#failed + 1] = at
    failed[#failed + 1] = done.err
    return false
  end
  return true
end
while at <= #ARGV do
  local op = ARGV[at]
  if op == 'ack' then
    local count = tonumber(ARGV[at + 1])
    local ids = {}
    for i = at + 2, at + 1 + count do
      if not held[ARGV[i]] then ids[#ids + 1] = ARGV[i] end
    end
    if #ids > 0 then check(redis.pcall('XACK', KEYS[3], ARGV[2], unpack(ids))) end
    at = at + 2 + count
  elseif op == 'keep' then
    local is_kept = ARGV[at + 3] == '' or check(redis.pcall('HSET', KEYS[4], ARGV[at + 1], ARGV[at + 3]))
    if is_kept then check(redis.pcall('HSET', KEYS[5], ARGV[at + 1], ARGV[at + 2])) else held[ARGV[at + 1]] = true end
    at = at + 4
  elseif op == 'leave' then
    if not held[ARGV[at + 1]] then
      check(redis.pcall('HDEL', KEYS[4], ARGV[at + 1]))
      check(redis.pcall('HDEL', KEYS[5], ARGV[at + 1]))
    end
    at = at + 2
  elseif op == 'bury' then
    -- what cannot be buried is neither acknowledged nor taken out of the lot: its name is the first word
    if check(redis.pcall('XADD', KEYS[7], '*', 'm', ARGV[at + 1], 'p', ARGV[at + 2])) then
      local most = tonumber(ARGV[6])
      if redis.call('XLEN', KEYS[7]) > most then
        dropped = dropped + redis.call('XTRIM', KEYS[7], 'MAXLEN', most)
      end
    else
      held[string.match(ARGV[at + 2], '^[^ ]+')] = true
      held[string.match(ARGV[at + 1], '^{"of":"([^"]*)"') or ''] = true
    end
    at = at + 3
  elseif op == 'mark' then
    if ARGV[at + 2] == '' then check(redis.pcall('HDEL', KEYS[6], ARGV[at + 1]))
    else check(redis.pcall('HSET', KEYS[6], ARGV[at + 1], ARGV[at + 2])) end
    at = at + 3
  elseif op == 'done' then
    local count = tonumber(ARGV[at + 1])
    local clock = redis.call('TIME')
    local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
    local state = redis.call('HMGET', KEYS[2], 'turn', 'began', 'known')
    local turn, began, known = tonumber(state[1] or 0), tonumber(state[2] or now), tonumber(state[3] or 0)
    if now < began then began = now end
    if now - began >= tonumber(ARGV[7]) or known >= tonumber(ARGV[8]) then
      if now - began >= 2 * tonumber(ARGV[7]) then redis.call('UNLINK', KEYS[8 + turn]) end
      turn, began, known = 1 - turn, now, 0
      redis.call('UNLINK', KEYS[8 + turn])
    end
    local fresh = {}
    for i = at + 2, at + 1 + count do
      fresh[#fresh + 1] = ARGV[i]
      fresh[#fresh + 1] = ''
    end
    if check(redis.pcall('HSET', KEYS[8 + turn], unpack(fresh))) then
      redis.call('HSET', KEYS[2], 'turn', turn, 'began', string.format('%.0f', began), 'known', known + count)
    end
    at = at + 2 + count
  elseif op == 'replay' then
    -- somebody may have ended it, or begun another, meanwhile: only that which we know is changed
    local id = string.match(redis.call('HGET', KEYS[10], ARGV[at + 1]) or '', '"id":%s*"([^"]*)"')
    if id and id == string.match(ARGV[at + 2], '"id":%s*"([^"]*)"') then
      if string.find(ARGV[at + 2], '"over"', 1, true) then redis.call('HDEL', KEYS[10], ARGV[at + 1])
      else check(redis.pcall('HSET', KEYS[10], ARGV[at + 1], ARGV[at + 2])) end
    end
    at = at + 3
  elseif op == 'count' then
    check(redis.pcall('HINCRBY', KEYS[2], ARGV[at + 1], ARGV[at + 2]))
    at = at + 3
  else
    return redis.error_reply('unknown operation ' .. op)
  end
end
redis.pcall('HSET', KEYS[2], last, number)
return {ARGV[1], 'ok', dropped, failed}
