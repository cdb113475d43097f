-- common: stands in front of the scripts that heed a lock's queue. It is none by
-- itself.
--
-- {K}:queue has the attempts (see acquire) that wait, by ticket: the server's time
-- at which they came, us. {K}:places has when the place of each lapses, ms. Both
-- expire with the last place.
local YEAR = 366 * 24 * 3600 * 1e6

local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]
local ms = math.floor(now / 1000)

local function digits(number)
  return string.format('%.0f', number)
end

local function kindOf(key)
  return redis.call('TYPE', key).ok
end

-- notSets says that a key is in use for something else than a sorted set.
local function notSets(...)
  for _, key in ipairs({...}) do
    local kind = kindOf(key)
    if kind ~= 'none' and kind ~= 'zset' then
      return true
    end
  end
  return false
end

-- markOf returns what says that permits or read locks stand at K; nil where they do
-- not. It is the last member of the set, for its score is infinite, and begins like
-- no token.
local function markOf(key)
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  if last[2] == 'inf' and (last[1] == '~readers' or string.match(last[1], '^~permits %d+$')) then
    return last[1]
  end
end

-- metadataAt returns what is stored as metadata, if anything: see acquire.
local function metadataAt(key)
  local metadata = redis.pcall('GET', key)
  return type(metadata) == 'string' and metadata or nil
end

-- foremost drops the places that have lapsed and returns the attempt that is first
-- in the queue. Where that changes who is first, and it is not the caller, the others
-- are told.
local function foremost(queue, places, me, channel)
  local lapsed = redis.call('ZRANGEBYSCORE', places, '-inf', digits(ms))
  for _, attempt in ipairs(lapsed) do
    redis.call('ZREM', queue, attempt)
    redis.call('ZREM', places, attempt)
  end
  local head = redis.call('ZRANGE', queue, 0, 0)[1]
  while head and not redis.call('ZSCORE', places, head) do
    redis.call('ZREM', queue, head)
    head = redis.call('ZRANGE', queue, 0, 0)[1]
  end
  if #lapsed > 0 and head and head ~= me then
    redis.pcall('PUBLISH', channel, '')
  end
  return head
end

-- draw returns the next fencing token, or nil and the refusal: see acquire.
local function draw(key, seen, forgiven)
  local stored = redis.pcall('GET', key)
  if type(stored) == 'table' then
    return nil, {'corrupt', 'stored', 0, now}
  end
  if not stored then
    stored = 0
  else
    stored = string.match(stored, '^%d+$') and tonumber(stored)
    if not stored or stored > now + YEAR then
      return nil, {'corrupt', 'stored', 0, now}
    end
  end
  if seen > now + YEAR then
    return nil, {'corrupt', 'seen', 0, now}
  end
  if seen > stored and seen > forgiven then
    return nil, {'amnesia', stored, 0, now}
  end
  return math.max(stored + 1, now, seen + 1)
end

