-- The lot of one group in one stream, page by page.
-- KEYS: own, lot, slips.  ARGV: nonce, group, fence, cursor
-- Answer: nonce, `ok`, next cursor, and for each delivery its name, its slip, its message; or `lost`
if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then
  return {ARGV[1], 'lost', redis.call('HGET', KEYS[1], ARGV[2])}
end
local page = redis.call('HSCAN', KEYS[3], ARGV[4], 'COUNT', 200)
local answer = {}
for at = 1, #page[2], 2 do
  local name = page[2][at]
  answer[#answer + 1] = {name, page[2][at + 1], redis.call('HGET', KEYS[2], name)}
end
return {ARGV[1], 'ok', page[1], answer}
