-- Ends a claim on evicted entries: they were delivered, or somebody else shall try.
--
-- KEYS[1] evicted      list of entries that wait
-- KEYS[2] delivering   list of those that the claim took
-- KEYS[3] lease        string, the token of whoever delivers
-- KEYS[4] state        hash, see conversation.lua; all keys under one hash tag
-- ARGV[1] token        of the claim; one that has run out changes nothing
-- ARGV[2] delivered    '1' if the hook has had them, '0' if it failed
--
-- Reply: 1 if there are more to deliver, else 0. Errors, before any write: WRONGTYPE.
-- Commands (for an ACL): GET EXISTS UNLINK HDEL.
-- O(1).

local evicted, delivering, lease, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local token, delivered = ARGV[1], ARGV[2]

local more = redis.call('EXISTS', evicted)
if redis.call('GET', lease) == token then
  redis.call('UNLINK', lease)
  if delivered == '1' then
    redis.call('UNLINK', delivering)
    if more == 0 then redis.call('HDEL', state, 'v') end
  end
end
return more
