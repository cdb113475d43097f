-- abandon: cleans up after an attempt to acquire in order of arrival: gives back what
-- it may have been granted unheard, and its place in the queue.
--
-- KEYS[1]  K, the lock
-- KEYS[2]  {K}:queue
-- KEYS[3]  {K}:places
-- ARGV[1]  attempt: the token up to and including its last '#'
-- ARGV[2]  the channel on which waiters listen
--
-- Reply    {'done', ''}
--          {'gone', ''}     there was nothing of this attempt
--
-- Invariant: nothing of another attempt is touched.
local found = 0
for _, key in ipairs({KEYS[2], KEYS[3]}) do
  if redis.call('TYPE', key).ok == 'zset' then
    found = found + redis.call('ZREM', key, ARGV[1])
  end
end
if redis.call('TYPE', KEYS[1]).ok == 'string'
  and string.sub(redis.call('GET', KEYS[1]), 1, #ARGV[1]) == ARGV[1] then
  found = found + redis.call('DEL', KEYS[1])
end
if found == 0 then
  return {'gone', ''}
end
redis.pcall('PUBLISH', ARGV[2], '')
return {'done', ''}
