-- Prolongs a claim on evicted entries while their hook is at work.
--
-- KEYS[1] lease      string, the token of whoever delivers
-- ARGV[1] token      of the claim
-- ARGV[2] lease ms   how long nobody else may deliver, from now
--
-- Reply: 1, or 0 if the claim has run out. Errors, before any write: WRONGTYPE, BADARGUMENT.
-- Commands (for an ACL): GET PEXPIRE.
-- O(1).

local lease = KEYS[1]
local token, lease_ms = ARGV[1], tonumber(ARGV[2])

if not (lease_ms and lease_ms >= 1 and lease_ms % 1 == 0) then
  return redis.error_reply('BADARGUMENT renew: an argument is out of range')
end
if redis.call('GET', lease) ~= token then return 0 end
return redis.call('PEXPIRE', lease, string.format('%.0f', lease_ms))
