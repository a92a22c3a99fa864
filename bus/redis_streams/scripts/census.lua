-- How many events of each type there are in a piece of a stream.
-- KEYS: stream.  ARGV: nonce, behind which entry, before which (`+`: to the end), most
-- Answer: nonce, the last entry that was looked at, how many were, then type and number in turn
local found = redis.call('XRANGE', KEYS[1], '(' .. ARGV[2], ARGV[3], 'COUNT', ARGV[4])
local counts, order = {}, {}
for _, entry in ipairs(found) do
  local kind = entry[2][1] == 't' and entry[2][2] or ''
  if not counts[kind] then counts[kind] = 0; order[#order + 1] = kind end
  counts[kind] = counts[kind] + 1
end
local answer = {ARGV[1], #found > 0 and found[#found][1] or ARGV[2], #found}
for _, kind in ipairs(order) do
  answer[#answer + 1] = kind
  answer[#answer + 1] = counts[kind]
end
return answer
