-- Ends a claim on evicted entries: they were delivered, or somebody else shall try.
--
-- KEYS[1] evicted      list of entries that wait
-- KEYS[2] delivering   list of those that the claim took
-- KEYS[3] lease        string, the token of whoever delivers
-- KEYS[4] state        hash, see conversation.lua; all keys under one hash tag
-- ARGV[1] token        of the claim; one that has run out changes nothing
-- ARGV[2] delivered    '1' if the hook has had them, '0' if it failed
-- ARGV[3...] others     those of them, in order, that only somebody else can read: they wait on, for as long as they had
--
-- Reply: 1 if there are more to deliver (others not counted), else 0. Errors, before any write: WRONGTYPE.
-- Commands (for an ACL): GET EXISTS LLEN LPUSH PTTL PEXPIRE UNLINK HDEL.
-- O(others).

local evicted, delivering, lease, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local token, delivered = ARGV[1], ARGV[2]
local FIRST_OTHER = 3

local more = redis.call('LLEN', evicted) > 0 and 1 or 0
if redis.call('GET', lease) == token then
  if delivered == '1' then
    local life = redis.call('PTTL', delivering)
    if life > 0 and #ARGV >= FIRST_OTHER then
      -- First, so that a full server (OOM) refuses before anything has changed.
      for i = #ARGV, FIRST_OTHER, -1 do redis.call('LPUSH', evicted, ARGV[i]) end
      if redis.call('PTTL', evicted) < life then redis.call('PEXPIRE', evicted, string.format('%.0f', life)) end
    elseif more == 0 then
      redis.call('HDEL', state, 'v')
    end
    redis.call('UNLINK', delivering)
  end
  redis.call('UNLINK', lease)
end
return more
