-- leave: release for a permit or a read lock.
--
-- KEYS[1]  K, the lock
-- ARGV[1]  the whole token of the grant, or the attempt (see ARGV[4])
-- ARGV[2]  0: such a grant has no minimum hold
-- ARGV[3]  the channel on which waiters listen
-- ARGV[4]  'token' or 'attempt', as in release
--
-- Reply    {'done', ''}
--          {'gone', ''}          no such grant
--          {'mismatch', value}   K is no set; value is '' where it is no string, either
--
-- Invariant: only the named grant is given back. K expires with the last that is left,
-- and goes with the last.
local t = redis.call('TIME')
local ms = string.format('%.0f', math.floor((t[1] * 1e6 + t[2]) / 1000))

local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'string' then
  return {'mismatch', redis.call('GET', KEYS[1])}
elseif kind ~= 'zset' and kind ~= 'none' then
  return {'mismatch', ''}
end
local token = ARGV[1]
if ARGV[4] == 'attempt' then
  for _, found in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(inf')) do
    if string.sub(found, 1, #ARGV[1]) == ARGV[1] then
      token = found
    end
  end
end
local till = redis.call('ZSCORE', KEYS[1], token)
if not till or till == 'inf' then
  return {'gone', ''}
end

redis.call('ZREM', KEYS[1], token)
if redis.call('ZCOUNT', KEYS[1], '(' .. ms, '(inf') == 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('PEXPIREAT', KEYS[1], redis.call('ZRANGE', KEYS[1], -2, -2, 'WITHSCORES')[2])
end
-- An ACL may deny the channel; that must not turn a done release into an error.
redis.pcall('PUBLISH', ARGV[3], '')
return {'done', ''}
