-- finish: records that a run is over, for good.
--
-- KEYS[1]  {K}:runs; see claim
-- ARGV[1]  name of the run: 'tick <series> <s>' or 'id <id>'
-- ARGV[2]  the fencing token of its claim
-- ARGV[3]  outcome
-- ARGV[4]  'success': it counts as a success of its series
--
-- Reply    {'done', '', now}
--          {'already', '', now}       recorded before, or a run without a tick of
--                                     which nothing is known
--          {'superseded', '', now}    claimed or done by another, or a tick of which
--                                     nothing is known
--          {'corrupt', '', now}
--
-- Invariant: the claim decides, not the lock, so that a run which ends just after
-- its lease is recorded all the same. Done never turns back. Creates no key.
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
local fields, other = {}, false
local name, active = ARGV[1], 'active ' .. ARGV[2]
local grant, claimant
for i = 1, #hash, 2 do
  local field, value = hash[i], hash[i + 1]
  fields[field] = value
  if string.find(field, '^active ') then
    local under, by, what = string.match(value, '^(%d+) %d+ ([^ ]+) (.+)$')
    if what == name then
      if field == active then
        grant, claimant = under, by
      else
        other = true
      end
    end
  end
end

local word = 'superseded'
local record = fields[name]
local series = string.match(name, '^tick ([^ ]+) %d+$')
if record then
  local state, fence, under, by = string.match(record, '^(%a+) (%d+) (%d+) %d+ ([^ ]+) ')
  if state ~= 'done' and state ~= 'open' and state ~= 'claimed' then
    return {'corrupt', '', now}
  end
  if fence == ARGV[2] then
    grant, claimant = under, by
    word = state == 'done' and 'already' or 'done'
  end
elseif not series then
  if grant then
    word = 'done'
  elseif not other then
    word = 'already'
  end
end

if word == 'done' then
  local at = string.format('%.0f', now)
  local write = {name, 'done ' .. ARGV[2] .. ' ' .. grant .. ' ' .. at .. ' ' .. claimant .. ' ' .. ARGV[3]}
  local last = series and tonumber((string.match(fields['success ' .. series] or '', '^%d+$')))
  if series and ARGV[4] == 'success' and (not last or now > last or last > now + YEAR) then
    table.insert(write, 'success ' .. series)
    table.insert(write, at)
  end
  redis.call('HSET', KEYS[1], unpack(write))
  local expiry = tonumber((string.match(fields['expiry'] or '', '^%d+$')))
  if expiry and expiry <= 2 * YEAR / 1000 and redis.call('PTTL', KEYS[1]) < expiry then
    redis.call('PEXPIRE', KEYS[1], expiry)
  end
end
-- A fencing token belongs to one claim, so whatever the record says, this run does
-- not act any more. One HDEL may remove the key, so it comes last.
if string.match(fields[active] or '', '^%d+ %d+ [^ ]+ (.+)$') == name then
  redis.call('HDEL', KEYS[1], active)
end
return {word, '', now}
