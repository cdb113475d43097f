-- claim: takes a run, one piece of work, under the lock, with a fencing token of
-- its own.
--
-- KEYS[1]  K, the lock
-- KEYS[2]  {K}:fence, the highest fencing token handed out so far
-- KEYS[3]  {K}:runs, a hash:
--            'tick <series> <s>'  '<state> <fence> <grant> <us> <claimant> <outcome>'
--                                 state 'claimed', 'open' (given up) or 'done'
--            'id <id>'            the same for a run without a tick; only 'done'
--            'active <fence>'     '<grant> <us> <claimant> <name of the run>'
--            'newest <series>'    '<s>', the newest tick that was ever claimed
--            'success <series>'   '<us>', the last success
--            'expiry'             the longest expiry that a claim asked for, ms
-- ARGV[1]  the whole token of the grant; the fencing token at its end names the
--          grant, for adoption swaps the rest
-- ARGV[2]  name of the run: 'tick <series> <s>' or 'id <id>'
-- ARGV[3]  claimant
-- ARGV[4]  'rerun': a tick claimed under another grant may be claimed again
-- ARGV[5]  'shared': several runs may be active under the grant
-- ARGV[6]  expiry of K to reach, ms from now; 0 = leave it
-- ARGV[7]  age beyond which a tick is refused, us
-- ARGV[8]  expiry of {K}:runs to reach, ms
-- ARGV[9]  expiry of {K}:fence, ms
-- ARGV[10] notAfter: server time in us after which this request is void; 0 = unknown
-- ARGV[11] seen: the highest fencing token the caller remembers; 0 = none
--
-- Reply    {'new',         fence, pttl, now}
--          {'again',       fence, pttl, now}   claimed before by the same claimant
--          {'superseding', fence, pttl, now}   whoever claimed it before is not to run it
--          {'lost',   value,  0, now}          value is '' where K is gone or no string
--          {'future', '',     0, now}          the tick is more than a minute ahead
--          {'done',    record, 0, now}
--          {'claimed', record, 0, now}         under another grant
--          {'tooold',     '',  0, now}
--          {'superseded', '',  newest, now}    a newer tick of the series was claimed
--          {'active', entry, fence, now}       another run is active under this grant
--          {'late',    '',    0, now}
--          {'corrupt', which, 0, now}
--
-- Invariant: a done run is never handed out again, and a tick that was claimed once
-- only through its record: the high-water mark refuses it where the record was
-- pruned. A fencing token is stored before it is handed out. Scripts do not roll
-- back, so everything is checked before the first write.
local YEAR = 366 * 24 * 3600 * 1e6
local AHEAD = 60 * 1e6
local KEPT = 16 -- done records for each series

local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local current = redis.pcall('GET', KEYS[1])
if type(current) == 'table' then
  if not string.find(current.err, 'WRONGTYPE', 1, true) then
    return current -- an ACL, say: nobody knows what is there
  end
  return {'lost', '', 0, now}
end
if current ~= ARGV[1] then
  return {'lost', current or '', 0, now}
end
local grant = string.match(ARGV[1], '#(%d+)$')

local hash = redis.pcall('HGETALL', KEYS[3])
if hash.err then
  if not string.find(hash.err, 'WRONGTYPE', 1, true) then
    return hash
  end
  return {'corrupt', 'runs', 0, now}
end
local fields = {}
for i = 1, #hash, 2 do
  fields[hash[i]] = hash[i + 1]
end

-- What is active under another grant is stale: that grant is over. So is an entry
-- that names no grant.
local name, claimant = ARGV[2], ARGV[3]
local drop, mine, other, alive = {}, {}, nil, {}
for i = 1, #hash, 2 do
  local fence = string.match(hash[i], '^active (%d+)$')
  if fence then
    local under, by, what = string.match(hash[i + 1], '^(%d+) %d+ ([^ ]+) (.+)$')
    if under ~= grant then
      table.insert(drop, hash[i])
    elseif what == name then
      table.insert(mine, {fence = fence, claimant = by})
      alive[fence] = true
    else
      if not other or tonumber(fence) < tonumber(other) then
        other = fence
      end
      alive[fence] = true
    end
  end
end

local kind, fence = 'new', nil
local highest = tonumber(grant)
local record = fields[name]
local series, tick = string.match(name, '^tick ([^ ]+) (%d+)$')
if tick and tick * 1e6 > now + AHEAD then
  return {'future', '', 0, now}
end
if record then
  local state, of, under, by = string.match(record, '^(%a+) (%d+) (%d+) %d+ ([^ ]+) ')
  if state ~= 'done' and state ~= 'open' and state ~= 'claimed' or tonumber(of) > now + YEAR then
    return {'corrupt', 'runs', 0, now}
  end
  if state == 'done' then
    return {'done', record, 0, now}
  end
  if state == 'claimed' then
    if under == grant and by == claimant then
      kind, fence = 'again', of
    elseif under == grant or ARGV[4] == 'rerun' then
      kind = 'superseding'
    else
      return {'claimed', record, 0, now}
    end
  end
  highest = math.max(highest, tonumber(of))
elseif series then
  local newest = fields['newest ' .. series]
  if newest then
    newest = string.match(newest, '^%d+$') and tonumber(newest)
    if not newest or newest * 1e6 > now + YEAR then
      return {'corrupt', 'runs', 0, now}
    end
  end
  if tick * 1e6 < now - ARGV[7] then
    return {'tooold', '', 0, now}
  end
  if newest and tonumber(tick) <= newest then
    return {'superseded', '', newest, now}
  end
elseif #mine > 0 then
  kind = 'superseding'
  for _, entry in ipairs(mine) do
    if entry.claimant == claimant then
      kind, fence = 'again', entry.fence
    end
  end
end

if kind ~= 'again' then
  if other and ARGV[5] ~= 'shared' then
    return {'active', fields['active ' .. other], tonumber(other), now}
  end
  local notAfter = tonumber(ARGV[10])
  if notAfter > 0 and now > notAfter then
    return {'late', '', 0, now}
  end
  local stored = redis.pcall('GET', KEYS[2])
  if type(stored) == 'table' then
    if not string.find(stored.err, 'WRONGTYPE', 1, true) then
      return stored
    end
    return {'corrupt', 'stored', 0, now}
  end
  if not stored then
    stored = 0
  else
    stored = string.match(stored, '^%d+$') and tonumber(stored)
    if not stored or stored > now + YEAR then
      return {'corrupt', 'stored', 0, now}
    end
  end
  local seen = tonumber(ARGV[11])
  if highest > now + YEAR or seen > now + YEAR then
    return {'corrupt', 'seen', 0, now}
  end
  fence = string.format('%.0f', math.max(stored + 1, now, highest + 1, seen + 1))
  redis.call('SET', KEYS[2], fence, 'PX', ARGV[9])
end

-- An answer that is repeated writes nothing where nothing is missing, and so
-- needs no memory.
local expiry = tonumber(ARGV[8])
local asked = tonumber((string.match(fields['expiry'] or '', '^%d+$')))
if asked and asked <= 2 * YEAR / 1000 then
  expiry = math.max(expiry, asked)
end
local write = {}
local function put(field, value)
  table.insert(write, field)
  table.insert(write, value)
end
if kind ~= 'again' or not fields['active ' .. fence] then
  local at = string.format('%.0f', now)
  put('active ' .. fence, grant .. ' ' .. at .. ' ' .. claimant .. ' ' .. name)
  put('expiry', string.format('%.0f', expiry))
  if series and kind ~= 'again' then
    put(name, 'claimed ' .. fence .. ' ' .. grant .. ' ' .. at .. ' ' .. claimant .. ' ')
    if tonumber(tick) > (tonumber(fields['newest ' .. series]) or 0) then
      put('newest ' .. series, tick)
    end
  end
  redis.call('HSET', KEYS[3], unpack(write))
end

-- What no decision needs any more goes. A record is dropped only if its age or the
-- high-water mark of its series refuses the tick from now on.
for _, entry in ipairs(mine) do
  if entry.fence ~= fence then
    table.insert(drop, 'active ' .. entry.fence)
  end
end
local done = {}
for i = 1, #hash, 2 do
  local field, value = hash[i], hash[i + 1]
  local of, s = string.match(field, '^tick ([^ ]+) (%d+)$')
  local at = s and s * 1e6
  if not of and string.find(field, '^id [^ ]+$') then
    of, at = '', tonumber((string.match(value, '^%a+ %d+ %d+ (%d+) '))) or 0
  end
  if of and field ~= name then
    local state, number = string.match(value, '^(%a+) (%d+) ')
    if state == 'done' and at >= now - YEAR then
      done[of] = done[of] or {}
      table.insert(done[of], {at = at, field = field})
    elseif at < now - ARGV[7] and not alive[number or ''] then
      table.insert(drop, field)
    end
  elseif string.find(field, '^newest ') and (tonumber(value) or now) * 1e6 < now - YEAR
    or string.find(field, '^success ') and (tonumber(value) or now) < now - YEAR then
    if field ~= 'newest ' .. (series or '') then
      table.insert(drop, field)
    end
  end
end
for _, records in pairs(done) do
  table.sort(records, function(a, b) return a.at > b.at end)
  for i = KEPT + 1, #records do
    table.insert(drop, records[i].field)
  end
end
for _, field in ipairs(drop) do
  redis.call('HDEL', KEYS[3], field)
end
if redis.call('PTTL', KEYS[3]) < expiry then
  redis.call('PEXPIRE', KEYS[3], expiry)
end

local pttl = redis.call('PTTL', KEYS[1])
local cover = tonumber(ARGV[6])
if cover > 0 and pttl < cover then
  redis.call('PEXPIRE', KEYS[1], cover)
  pttl = cover
end
return {kind, tonumber(fence), pttl, now}
