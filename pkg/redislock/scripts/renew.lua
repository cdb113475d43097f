-- renew: moves the expiry of a lock further away.
--
-- KEYS[1]  K, the lock
-- ARGV[1]  the whole token of the grant
-- ARGV[2]  expiry to reach, ms from now
--
-- Reply    2                       ok
--          {'mismatch', value}     value is '' where K is gone or no string
--
-- Invariant: never creates K, never shortens its expiry.
local current = redis.pcall('GET', KEYS[1])
if type(current) == 'table' and not string.find(current.err, 'WRONGTYPE', 1, true) then
  return current -- an ACL, say: nobody knows what is there
end
if type(current) == 'table' or not current then
  return {'mismatch', ''}
end
if current ~= ARGV[1] then
  return {'mismatch', current}
end
-- One call is enough where the expiry moves. It does not where it is far enough away,
-- where a PERSIST took it away, and on a Redis before 7, which knows no GT.
if redis.pcall('PEXPIRE', KEYS[1], ARGV[2], 'GT') ~= 1 and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 2
