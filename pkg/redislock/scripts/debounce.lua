-- debounce: stands in front of the scripts of a debounce. It is none by itself.
--
-- K is a hash. Times are those of the server, in us since 1970; generations are numbers
-- like fencing tokens. A field that does not apply is missing.
--   generation            the highest that was drawn
--   totalCalls, totalRuns
--   lastCall              when the last call was recorded
--   first                 when the open window was opened, by its first call
--   previous              the last call before that
--   pending               generation of the calls that are not claimed yet, and of those:
--   since, count, firstPayload, lastPayload  (lastPayload only where there are several)
--   led                   generation of the run that the open window began with, and what
--   ledEdge, ledWait, ledMaxWait             decides when it ends: callers do not know
--   running               generation that is claimed, and of it:
--   claimant, claimed, till, attempt, runSince, runLast, runCount, runPayload
--   lastStart             when a generation was claimed last
--   done                  generation that ended last, and of it:
--   doneBy, doneStart, doneAt, doneCount, doneAttempt, outcome, message
local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local function digits(number)
  return string.format('%.0f', number)
end

local function usable(key, kind)
  local found = redis.call('TYPE', key).ok
  return found == 'none' or found == kind
end

-- read returns the named fields as numbers; nil for those that are missing.
local function read(key, ...)
  local values = redis.call('HMGET', key, ...)
  local fields = {}
  for i, name in ipairs({...}) do
    fields[name] = values[i] and tonumber(values[i]) or nil
  end
  return fields
end

-- endOfLed returns when the window ends that began with a run.
local function endOfLed(w)
  return math.min(w.lastCall + w.ledWait, w.first + w.ledMaxWait)
end

-- keep has K expire ms from now, or later where it would anyway.
local function keep(key, ms)
  if redis.call('PEXPIRE', key, ms, 'GT') == 0 and redis.call('PTTL', key) == -1 then
    redis.call('PEXPIRE', key, ms)
  end
end

-- stateOf returns what is known of K, but for payloads, as text: '' for what is missing.
local function stateOf(key)
  local values = redis.call('HMGET', key, 'generation', 'totalCalls', 'totalRuns', 'lastCall',
    'first', 'pending', 'since', 'count', 'led',
    'running', 'claimant', 'claimed', 'till', 'attempt', 'runSince', 'runLast', 'runCount',
    'done', 'doneBy', 'doneStart', 'doneAt', 'doneCount', 'doneAttempt', 'outcome', 'message')
  for i = 1, #values do
    values[i] = values[i] or ''
  end
  return values
end

