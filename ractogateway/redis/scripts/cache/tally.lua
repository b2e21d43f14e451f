-- Add to the counters that all replicas share.
--
-- KEYS[1]     counters   hash, name -> count
--
-- ARGV[1]     life_ms    how long they are kept after the last addition, in ms
-- ARGV[2...]  additions  names and numbers in turn
--
-- Reply: 1.
-- Complexity: O(n) in the number of additions.

local counters_key = KEYS[1]
local life_ms = ARGV[1]
local first = 2

for place = first, #ARGV, 2 do
  local name, number = ARGV[place], ARGV[place + 1]
  redis.call('HINCRBY', counters_key, name, number)
end
redis.call('PEXPIRE', counters_key, life_ms)
return 1
