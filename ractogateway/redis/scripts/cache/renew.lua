-- Keep a lease of the exact cache alive while its holder computes.
--
-- KEYS[1]     generation   string, 16 bytes
-- KEYS[2]     lease        string, <token, 16 bytes><stamp>
-- KEYS[3...]  tags         versions (string, 8 bytes) of the lease's tags
--
-- ARGV[1]     claim        the value that the lease was taken with
-- ARGV[2]     life_ms      its new life in ms
-- ARGV[3]     tag_ids      16 bytes a tag
--
-- Reply: 1; or 0 if the lease is gone, is another one's, or was overtaken by an invalidation: the answer will not be stored.
-- Complexity: O(1).

local generation_key, lease_key = KEYS[1], KEYS[2]
local claim, life_ms, tag_ids = ARGV[1], ARGV[2], ARGV[3]
local first_tag, stride, wanted, fresh = 3, 1, {lease_key}, ''

--#include stamps.lua
--#include founding.lua

if values[2] ~= claim or verdict(claim, 17) ~= ALIVE then return 0 end
founded_stamp(#ids)
redis.call('PEXPIRE', lease_key, life_ms)
return 1
