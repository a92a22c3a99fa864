-- What one group has taken from one stream and not settled, page by page; with the starts that count.
-- KEYS: own, stream, suspects.  ARGV: nonce, group, fence, behind which entry, most
-- Answer: nonce, `ok`, the last entry that was read, and for each entry its name, its fields (nil: it is gone), its
--         note among the suspects; `lost`; `error`
if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then
  return {ARGV[1], 'lost', redis.call('HGET', KEYS[1], ARGV[2])}
end
local pending = redis.pcall('XPENDING', KEYS[2], ARGV[2], '(' .. ARGV[4], '+', ARGV[5])
if pending.err then return {ARGV[1], 'error', pending.err} end
local last = '0-0'
for _, fields in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
  local group = {}
  for i = 1, #fields, 2 do group[fields[i]] = fields[i + 1] end
  if group.name == ARGV[2] then last = group['last-delivered-id'] end
end
local answer = {}
for at, item in ipairs(pending) do
  local found = redis.call('XRANGE', KEYS[2], item[1], item[1])[1]
  answer[at] = {item[1], found and found[2] or false, redis.call('HGET', KEYS[3], item[1])}
end
return {ARGV[1], 'ok', last, answer}
