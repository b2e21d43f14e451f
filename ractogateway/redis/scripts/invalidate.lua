-- Forget one answer of the exact cache.
--
-- KEYS[1]  generation   string, the name of the current generation
-- KEYS[2]  entry        string, <generation><envelope>
-- KEYS[3]  index        sorted set, entry name -> time of expiry
--
-- ARGV[1]  member       the entry's name in the index
--
-- Reply: 1 if there was a live entry, 0 otherwise (an entry of a generation that was cleared is not live).
-- Complexity: O(log n) in the number of entries.

local generation_key, entry_key, index_key = KEYS[1], KEYS[2], KEYS[3]
local member = ARGV[1]

local generation = redis.call('GET', generation_key)
local owner = generation and redis.call('GETRANGE', entry_key, 0, #generation - 1)
redis.call('ZCARD', index_key)

redis.call('UNLINK', entry_key)
redis.call('ZREM', index_key, member)
if generation and owner == generation then return 1 end
return 0
