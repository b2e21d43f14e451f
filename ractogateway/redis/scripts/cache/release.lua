-- Give up a lease of the exact cache, so that whoever waits goes on.
--
-- KEYS[1]  lease   string, <token, 16 bytes><stamp>
--
-- ARGV[1]  token   16 bytes: whose lease it must be
--
-- Reply: 1 if it was given up, 0 if there was no such lease.
-- Complexity: O(1).

local lease_key = KEYS[1]
local token = ARGV[1]

local lease = redis.call('GET', lease_key)
if not lease or string.sub(lease, 1, #token) ~= token then return 0 end
redis.call('UNLINK', lease_key)
return 1
