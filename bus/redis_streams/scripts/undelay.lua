-- Publish what was kept back and is due now.
-- KEYS: delayed, kept back.  ARGV: nonce, most, limit, what keys of this partition begin with
-- Answer: nonce, how many came out, when the next is due (empty: there is none), how many found no room
-- The keys of streams follow from what was kept back: all of them lie in the slot of the two that are named.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
local out, refused = 0, 0
for _, name in ipairs(due) do
  local packed = redis.call('HGET', KEYS[2], name)
  if packed then
    local event = cmsgpack.unpack(packed)
    local stream, numbers = ARGV[4] .. 's:' .. event[1], ARGV[4] .. 'n:' .. event[1]
    if redis.call('XLEN', stream) >= 2 * tonumber(ARGV[3]) then
      refused = refused + 1
    else
      local state = redis.call('HMGET', numbers, 'n', 'ms')
      local n, ms = tonumber(state[1] or 0) + 1, math.max(now, tonumber(state[2] or 0))
      local function add()
        return redis.pcall('XADD', stream, string.format('%.0f-%.0f', ms, n),
          't', event[2], 'h', event[3], 'd', event[4], 'b', event[5])
      end
      local done = add()
      if type(done) == 'table' and done.err and string.find(done.err, 'equal or smaller', 1, true) then
        local info = redis.call('XINFO', 'STREAM', stream)
        for i = 1, #info, 2 do
          if info[i] == 'last-generated-id' then ms = math.max(ms, tonumber(string.match(info[i + 1], '^%d+'))) + 1 end
        end
        done = add()
      end
      if type(done) == 'table' and done.err then
        refused = refused + 1
      else
        redis.call('HSET', numbers, 'n', string.format('%.0f', n), 'ms', string.format('%.0f', ms))
        redis.call('ZREM', KEYS[1], name)
        redis.call('HDEL', KEYS[2], name)
        out = out + 1
      end
    end
  else
    redis.call('ZREM', KEYS[1], name)
  end
end
local following = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
return {ARGV[1], out, following[2] or '', refused}
