-- release: gives a lock back, at once or after what remains of its minimum hold.
--
-- KEYS[1]  K, the lock
-- ARGV[1]  the whole token of the grant, or the attempt (see ARGV[4])
-- ARGV[2]  ms for which K must stay taken (a tombstone); 0 = delete it
-- ARGV[3]  the channel on which waiters listen
-- ARGV[4]  'token': K must equal ARGV[1]; 'attempt': K must begin with it, for the
--          clean-up of an acquire whose answer, and so its fence, never arrived
--
-- Reply    1                     done
--          0                     gone: nothing there, or our own tombstone
--          {'mismatch', value}   value is '' where K is no string
--
-- Invariant: only the named grant is given back. A tombstone begins with '~':
-- no token does, so nobody can renew, adopt or release it.
local current = redis.pcall('GET', KEYS[1])
if type(current) == 'table' then
  if not string.find(current.err, 'WRONGTYPE', 1, true) then
    return current -- an ACL, say: nobody knows what is there
  end
  return {'mismatch', ''}
end
if not current then
  return 0
end
local mine = current == ARGV[1]
if ARGV[4] == 'attempt' then
  mine = string.sub(current, 1, #ARGV[1]) == ARGV[1]
end
if not mine then
  if string.sub(current, 1, #ARGV[1] + 1) == '~' .. ARGV[1] then
    return 0
  end
  return {'mismatch', current}
end

local rest = tonumber(ARGV[2])
if rest > 0 then
  -- SET needs memory. Where Redis has none left the token stays instead: its
  -- owner has let go of it, and it ends when the tombstone would.
  local set = redis.pcall('SET', KEYS[1], '~' .. current, 'PX', rest)
  if type(set) == 'table' and set.err then
    redis.call('PEXPIRE', KEYS[1], rest)
  end
else
  redis.call('DEL', KEYS[1])
end
-- An ACL may deny the channel; that must not turn a done release into an error.
redis.pcall('PUBLISH', ARGV[3], '')
return 1
