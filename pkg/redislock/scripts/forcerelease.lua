-- force-release: takes a lock away from a holder that cannot or will not give it
-- back.
--
-- KEYS[1]  K, the lock
-- ARGV[1]  'fence' or 'value'
-- ARGV[2]  the fencing token at the end of the holder's token, or K's exact value
-- ARGV[3]  'now': delete K; 'wait': leave a tombstone for the remaining expiry,
--          because the holder may still act
-- ARGV[4]  the channel on which waiters listen
--
-- Reply    {'done', ''}
--          {'free', ''}
--          {'mismatch', value}     value is '' where K is no string
--
-- Invariant: K itself decides. A fence that equals the counter but is not in K's
-- value releases nothing.
local current = redis.pcall('GET', KEYS[1])
if type(current) == 'table' then
  if not string.find(current.err, 'WRONGTYPE', 1, true) then
    return current -- an ACL, say: nobody knows what is there
  end
  return {'mismatch', ''}
end
if not current then
  return {'free', ''}
end
local found = current
if ARGV[1] == 'fence' then
  found = string.match(current, '^[^~].*#%w+%.%d+[^#]*#(%d+)$')
end
if found ~= ARGV[2] then
  return {'mismatch', current}
end

local pttl = redis.call('PTTL', KEYS[1])
if ARGV[3] == 'wait' and pttl > 0 then
  if string.sub(current, 1, 1) ~= '~' then
    redis.call('SET', KEYS[1], '~' .. current, 'PX', pttl)
  end
else
  redis.call('DEL', KEYS[1])
end
redis.pcall('PUBLISH', ARGV[4], '')
return {'done', ''}
