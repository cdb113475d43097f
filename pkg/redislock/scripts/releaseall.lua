-- releaseall: gives several locks back in one step, at once or after what remains
-- of their minimum hold.
--
-- KEYS     K of each lock
-- ARGV[1]  ms for which each K must stay taken (a tombstone); 0 = delete it
-- ARGV[2]  and on, two for each lock: the whole token of its grant, and the channel
--          on which its waiters listen
--
-- Reply    {'done', ''}          each was given back, or was gone already
--          {'mismatch', value, i}   lock i is the first at whose key something else
--                                   stands; value is '' where that is no string. The
--                                   others are given back.
--
-- Invariant: that of release for each lock.
local rest = tonumber(ARGV[1])

local mine, mismatch = {}, nil
for i, k in ipairs(KEYS) do
  local current = redis.pcall('GET', k)
  if type(current) == 'table' then
    if not string.find(current.err, 'WRONGTYPE', 1, true) then
      return current -- an ACL, say: nobody knows what is there
    end
    mismatch = mismatch or {'mismatch', '', i}
  elseif current == ARGV[2 * i] then
    table.insert(mine, i)
  elseif current and current ~= '~' .. ARGV[2 * i] then
    mismatch = mismatch or {'mismatch', current, i}
  end
end

for _, i in ipairs(mine) do
  if rest > 0 then
    -- Without memory the token stays instead: see release.
    local set = redis.pcall('SET', KEYS[i], '~' .. ARGV[2 * i], 'PX', rest)
    if type(set) == 'table' and set.err then
      redis.call('PEXPIRE', KEYS[i], rest)
    end
  else
    redis.call('DEL', KEYS[i])
  end
end
-- Whoever waits for several of them is to find them all.
for _, i in ipairs(mine) do
  redis.pcall('PUBLISH', ARGV[2 * i + 1], '')
end
return mismatch or {'done', ''}
