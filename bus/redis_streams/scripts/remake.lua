-- Make the place of a group anew that somebody else has deleted; what its owner has in hand is pending in it again.
-- KEYS: own, stream, suspects.  ARGV: nonce, group, fence, behind which entry it begins, entries in hand…
-- Answer: nonce, `ok`; `lost` and who owns it.
-- Whoever has made it meanwhile did not know what was read, and nobody but the owner has read from it since.
redis.call('HDEL', KEYS[1], '')  -- passes when memory is full, and after it the rest does
if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then
  return {ARGV[1], 'lost', redis.call('HGET', KEYS[1], ARGV[2])}
end
local made = redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[2], ARGV[4], 'MKSTREAM')
if made.err then
  if not string.find(made.err, 'BUSYGROUP', 1, true) then return redis.error_reply(made.err) end
  redis.call('XGROUP', 'SETID', KEYS[2], ARGV[2], ARGV[4])
end
for at = 5, #ARGV, 500 do
  local claim = {'XCLAIM', KEYS[2], ARGV[2], 'o', 0}
  for i = at, math.min(at + 499, #ARGV) do claim[#claim + 1] = ARGV[i] end
  claim[#claim + 1] = 'FORCE'
  claim[#claim + 1] = 'JUSTID'
  redis.call(unpack(claim))
end
if #ARGV < 5 then redis.call('UNLINK', KEYS[3]) end  -- of what is not in hand nothing is known any more
return {ARGV[1], 'ok'}
