-- Count the live entries of the exact cache.
--
-- KEYS[1]  index   sorted set, entry name -> time of expiry in ms (+inf: none)
--
-- Reply: the number of entries that have not expired by the server's clock. Entries that the server evicted to save memory
-- are still counted until they would have expired.
-- Complexity: O(log n) in the number of entries.

local index_key = KEYS[1]

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return redis.call('ZCOUNT', index_key, '(' .. string.format('%.0f', now_ms), '+inf')
