-- ending: stands in front of the scripts that end a claim, finish and reopen, and sees
-- what is known of it. It is none by itself.
--
-- KEYS[1]  {K}:runs; see claim
-- ARGV[1]  name of the run: 'tick <series> <s>' or 'id <id>'
-- ARGV[2]  the fencing token of its claim
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
-- own: the claim is active; other: another of the same run is.
local fields, own, other = {}, false, false
local grant, claimant
for i = 1, #hash, 2 do
  local field, value = hash[i], hash[i + 1]
  fields[field] = value
  if string.find(field, '^active ') then
    local under, by, what = string.match(value, '^(%d+) %d+ ([^ ]+) (.+)$')
    if what == name then
      if field == active then
        own, grant, claimant = true, under, by
      else
        other = true
      end
    end
  end
end

-- state is that of the run's record where the record is of this claim.
local record, state = fields[name], nil
if record then
  local found, fence, under, by = string.match(record, '^(%a+) (%d+) (%d+) %d+ ([^ ]+) ')
  if found ~= 'done' and found ~= 'open' and found ~= 'claimed' then
    return {'corrupt', '', now}
  end
  if fence == ARGV[2] then
    state, grant, claimant = found, under, by
  end
end

-- keep has the key stand as long as a claim asked for.
local function keep()
  local expiry = tonumber((string.match(fields['expiry'] or '', '^%d+$')))
  if expiry and expiry <= 2 * YEAR / 1000 and redis.call('PTTL', KEYS[1]) < expiry then
    redis.call('PEXPIRE', KEYS[1], expiry)
  end
end

-- drop ends the activity: a fencing token belongs to one claim, so whatever the record
-- says, this run does not act any more. One HDEL may remove the key, so it comes last.
local function drop()
  if own then
    redis.call('HDEL', KEYS[1], active)
  end
end

