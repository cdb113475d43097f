-- get: who leads, without touching anything.
--
-- KEYS[1]  K, the lock: the token of the term
-- KEYS[2]  {K}:record, client-go's record of the election
--
-- Reply    {kind, token, record, pttl, now}
--          kind 'none', 'string' or 'other' is what K is; token and record are ''
--          where they are not there
local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local record = redis.pcall('GET', KEYS[2])
if type(record) == 'table' then
  if not string.find(record.err, 'WRONGTYPE', 1, true) then
    return record -- an ACL, say: nobody knows what is there
  end
  record = ''
end
local token = redis.pcall('GET', KEYS[1])
if type(token) == 'table' then
  if not string.find(token.err, 'WRONGTYPE', 1, true) then
    return token
  end
  return {'other', '', record or '', redis.call('PTTL', KEYS[1]), now}
end
if not token then
  return {'none', '', record or '', 0, now}
end
return {'string', token, record or '', redis.call('PTTL', KEYS[1]), now}
