-- reopen: gives a claim up without the run having been done: whoever claims it
-- next gets it as new.
--
-- KEYS[1]  {K}:runs; see claim
-- ARGV[1..2]  see ending
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
local word = 'superseded'
if state then
  word = ({done = 'finished', open = 'already', claimed = 'reopened'})[state]
  if state == 'claimed' then
    redis.call('HSET', KEYS[1], name, 'open' .. string.sub(record, #state + 1))
  end
elseif not record and not string.find(name, '^tick ') then
  if own then
    word = 'reopened'
  elseif not other then
    word = 'already'
  end
end
if word == 'reopened' then
  keep()
end
drop()
return {word, '', now}
