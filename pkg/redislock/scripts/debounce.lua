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
local YEAR = 366 * 24 * 3600 * 1e6

local t = redis.call('TIME')
local now = t[1] * 1e6 + t[2]

local function digits(number)
  return string.format('%.0f', number)
end

local function usable(key, kind)
  local found = redis.call('TYPE', key).ok
  return found == 'none' or found == kind
end

local NUMBERS = {'generation', 'lastCall', 'first', 'previous', 'pending', 'since', 'count',
  'led', 'ledWait', 'ledMaxWait', 'running', 'claimed', 'till', 'attempt', 'runSince', 'runLast', 'runCount',
  'lastStart', 'done'}

-- load returns what is known of K; nil where that is nothing these scripts write, or a
-- generation more than a year ahead, which would poison all that come after it.
local function load(key)
  if not usable(key, 'hash') then
    return nil
  end
  local values, w = redis.call('HMGET', key, unpack(NUMBERS)), {}
  for i, name in ipairs(NUMBERS) do
    if values[i] then
      if not string.find(values[i], '^%d+$') then
        return nil
      end
      w[name] = tonumber(values[i])
    end
  end
  local sound
  if not w.generation then
    sound = redis.call('EXISTS', key) == 0
  else
    sound = w.generation <= now + YEAR and w.lastCall
      and (not w.first or w.pending or w.led)
      and (not w.pending or w.first and w.since and w.count)
      and (not w.led or w.first and w.ledWait and w.ledMaxWait)
      and (not w.running or w.claimed and w.till and w.attempt and w.runSince and w.runLast and w.runCount)
  end
  return sound and w or nil
end

-- endOfLed returns when the window ends that began with a run.
local function endOfLed(w)
  return math.min(w.lastCall + w.ledWait, w.first + w.ledMaxWait)
end

-- keep has K expire ms from now, or later where it would anyway. See renew: a Redis before
-- 7 knows no GT.
local function keep(key, ms)
  if redis.pcall('PEXPIRE', key, ms, 'GT') ~= 1 and redis.call('PTTL', key) < tonumber(ms) then
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

