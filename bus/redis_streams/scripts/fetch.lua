-- Read what is new for one group in one partition, if it is still ours.
-- KEYS: own, then the streams to read.  ARGV: nonce, group, fence, most of each stream
-- Answer: nonce, `ok` and what XREADGROUP says; `lost` and who owns it; `error` and the error.
if redis.call('HGET', KEYS[1], ARGV[2]) ~= ARGV[3] then
  return {ARGV[1], 'lost', redis.call('HGET', KEYS[1], ARGV[2])}
end
local command = {'XREADGROUP', 'GROUP', ARGV[2], 'o', 'COUNT', ARGV[4], 'STREAMS'}
for at = 2, #KEYS do command[#command + 1] = KEYS[at] end
for _ = 2, #KEYS do command[#command + 1] = '>' end
local found = redis.pcall(unpack(command))
if type(found) == 'table' and found.err then return {ARGV[1], 'error', found.err} end
return {ARGV[1], 'ok', found or {}}
