-- reopen: gives a claim up without the run having been done: whoever claims it
-- next gets it as new.
--
-- KEYS[1]  {K}:runs; see claim
-- ARGV[1]  name of the run: 'tick <series> <s>' or 'id <id>'
-- ARGV[2]  the fencing token of its claim
--
-- Reply    {'reopened', '', now}
--          {'already', '', now}       given up before, or a run without a tick of
--                                     which nothing is known
--          {'finished', '', now}      done under this claim
--          {'superseded', '', now}    claimed or done by another, or a tick of which
--                                     nothing is known
--          {'corrupt', '', now}
--
-- Invariant: only the named claim is given up, and done never turns back. Creates
-- no key.
local YEAR = 366 * 24 * 3600 * 1e6

local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local hash = redis.pcall('HGETALL', KEYS[1])
if hash.err then
  if not string.find(hash.err, 'WRONGTYPE', 1, true) then
    return hash -- an ACL, say: nobody knows what is there
  end
  return {'corrupt', '', now}
end
local name, active = ARGV[1], 'active ' .. ARGV[2]
local fields, own, other = {}, false, false
for i = 1, #hash, 2 do
  local field, value = hash[i], hash[i + 1]
  fields[field] = value
  if string.find(field, '^active ') and string.match(value, '^%d+ %d+ [^ ]+ (.+)$') == name then
    if field == active then
      own = true
    else
      other = true
    end
  end
end

local word = 'superseded'
local record = fields[name]
if record then
  local state, fence, rest = string.match(record, '^(%a+) (%d+) (%d+ %d+ [^ ]+ .*)$')
  if state ~= 'done' and state ~= 'open' and state ~= 'claimed' then
    return {'corrupt', '', now}
  end
  if fence == ARGV[2] then
    word = ({done = 'finished', open = 'already', claimed = 'reopened'})[state]
    if state == 'claimed' then
      redis.call('HSET', KEYS[1], name, 'open ' .. fence .. ' ' .. rest)
    end
  end
elseif not string.find(name, '^tick ') then
  if own then
    word = 'reopened'
  elseif not other then
    word = 'already'
  end
end
if word == 'reopened' then
  local expiry = tonumber((string.match(fields['expiry'] or '', '^%d+$')))
  if expiry and expiry <= 2 * YEAR / 1000 and redis.call('PTTL', KEYS[1]) < expiry then
    redis.call('PEXPIRE', KEYS[1], expiry)
  end
end
if own then
  redis.call('HDEL', KEYS[1], active)
end
return {word, '', now}
