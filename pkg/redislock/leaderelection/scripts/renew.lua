-- renew: prolongs a term and writes its new record.
--
-- KEYS[1]  K, the lock
-- KEYS[2]  {K}:record, client-go's record of the election
-- ARGV[1]  the whole token of the term
-- ARGV[2]  the record that the caller has seen or written last
-- ARGV[3]  the record to write
-- ARGV[4]  expiry of K to reach, ms from now
-- ARGV[5]  expiry of the companion keys, ms
--
-- Reply    {'ok', now}
--          {'changed', now}     the record is another
--          {'lost', now}        K is gone, or not of this term
--
-- Invariant: only the term that stands at K is prolonged; K is never created and its
-- expiry never shortened. Each record is written once, so a request that comes
-- again, or after a later one, changes nothing.
local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local token = redis.pcall('GET', KEYS[1])
if type(token) == 'table' and not string.find(token.err, 'WRONGTYPE', 1, true) then
  return token -- an ACL, say: nobody knows what is there
end
if token ~= ARGV[1] then
  return {'lost', now}
end
local record = redis.pcall('GET', KEYS[2])
if type(record) == 'table' then
  if not string.find(record.err, 'WRONGTYPE', 1, true) then
    return record
  end
  return {'changed', now}
end
if record == ARGV[3] then
  return {'ok', now}
end
-- A record that is gone, evicted or deleted by hand, is written anew: the token
-- proves whose term it is.
if record and record ~= ARGV[2] then
  return {'changed', now}
end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[5])
local want = tonumber(ARGV[4])
if redis.call('PTTL', KEYS[1]) < want then
  redis.call('PEXPIRE', KEYS[1], want)
end
return {'ok', now}
