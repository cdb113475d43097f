-- take: begins a term where nobody leads, with a new fencing token.
--
-- KEYS[1]  K, the lock
-- KEYS[2]  {K}:record, client-go's record of the election
-- KEYS[3]  {K}:fence, the highest fencing token granted so far
-- ARGV[1]  attempt: the token up to and including its last '#'
-- ARGV[2]  the record that the caller has seen; '' = none
-- ARGV[3]  the record to write
-- ARGV[4]  expiry of K, ms
-- ARGV[5]  expiry of the companion keys, ms
-- ARGV[6]  notAfter: server time in us after which this request is void; 0 = unknown
-- ARGV[7]  seen: the highest fencing token the caller remembers; 0 = none
-- ARGV[8]  forgiven: the `seen` for which the caller has sat out its quarantine
-- ARGV[9]  the channel on which watchers listen
--
-- Reply    {'granted',  fence, now}
--          {'again',    fence, now, record}     this attempt was granted before; record
--                                       is what stands there, '' for none
--          {'held',     '',    now}     K is taken
--          {'changed',  '',    now}     the record is another
--          {'late',     '',    now}
--          {'corrupt',  which, now}     'stored', 'seen' or 'record'
--          {'amnesia',  stored, now}
--
-- Invariant: a term begins only where K is gone, by the server's time, and where the
-- record is the one that the caller decided on. A fencing token is stored before it
-- is handed out and is higher than any that is stored or that the caller has seen.
-- Scripts do not roll back, so everything is checked first and K is written last.
local YEAR = 366 * 24 * 3600 * 1e6

local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local token = redis.pcall('GET', KEYS[1])
if type(token) == 'table' then
  if not string.find(token.err, 'WRONGTYPE', 1, true) then
    return token -- an ACL, say: nobody knows what is there
  end
  return {'held', '', now}
end
if token then
  if string.sub(token, 1, #ARGV[1]) == ARGV[1] then
    local record = redis.pcall('GET', KEYS[2])
    if type(record) == 'table' or not record then
      record = ''
    end
    return {'again', tonumber(string.sub(token, #ARGV[1] + 1)), now, record}
  end
  return {'held', '', now}
end

local record = redis.pcall('GET', KEYS[2])
if type(record) == 'table' then
  if not string.find(record.err, 'WRONGTYPE', 1, true) then
    return record
  end
  return {'corrupt', 'record', now}
end
if (record or '') ~= ARGV[2] then
  return {'changed', '', now}
end

local notAfter = tonumber(ARGV[6])
if notAfter > 0 and now > notAfter then
  return {'late', '', now}
end

local stored = redis.pcall('GET', KEYS[3])
if type(stored) == 'table' then
  if not string.find(stored.err, 'WRONGTYPE', 1, true) then
    return stored
  end
  return {'corrupt', 'stored', now}
end
if not stored then
  stored = 0
else
  stored = string.match(stored, '^%d+$') and tonumber(stored)
  if not stored or stored > now + YEAR then
    return {'corrupt', 'stored', now}
  end
end
local seen = tonumber(ARGV[7])
if seen > now + YEAR then
  return {'corrupt', 'seen', now}
end
if seen > stored and seen > tonumber(ARGV[8]) then
  return {'amnesia', stored, now}
end

local fence = math.max(stored + 1, now, seen + 1)
local digits = string.format('%.0f', fence)
redis.call('SET', KEYS[3], digits, 'PX', ARGV[5])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[5])
redis.call('SET', KEYS[1], ARGV[1] .. digits, 'PX', ARGV[4])
redis.pcall('PUBLISH', ARGV[9], '') -- an ACL may deny the channel
return {'granted', fence, now}
