-- Stamps of the exact cache: an entry or a lease is alive while its stamp agrees with the generation and the tags.
--
-- A stamp is <generation, 16 bytes><number of tags, 1 byte>, then for each tag <id, 16 bytes><version, 8 bytes>.
-- Generations and versions are random: one that was deleted (which is what clear and invalidate_tag do), evicted or
-- has expired never comes back, so what carries it stays dead.
--
-- Expects the locals generation_key, tag_ids (16 bytes each, one after the other), first_tag (the place of the first
-- version in KEYS) and stride (how many places further the next one is).

local GENERATION, ID, VERSION, MOST_TAGS = 16, 16, 8, 64
local DEAD, ALIVE, UNTOLD = 0, 1, 2

local generation = redis.call('GET', generation_key)
local ids, versions = {}, {}

for place = first_tag, #KEYS, stride do
  local tag_key = KEYS[place]
  local number = (place - first_tag) / stride
  local id = string.sub(tag_ids, number * ID + 1, (number + 1) * ID)
  ids[number + 1] = id
  versions[id] = redis.call('GET', tag_key)
end

-- Whether the stamp that starts there is alive; UNTOLD when that depends on a tag that is not among KEYS.
local function verdict(stamped, start)
  local count = string.byte(stamped, start + GENERATION)
  if not generation or not count or count > MOST_TAGS then return DEAD end
  if string.sub(stamped, start, start + GENERATION - 1) ~= generation then return DEAD end
  local said, at = ALIVE, start + GENERATION + 1
  if #stamped < at - 1 + count * (ID + VERSION) then return DEAD end
  for _ = 1, count do
    local version = versions[string.sub(stamped, at, at + ID - 1)]
    if version == nil then
      said = UNTOLD
    elseif version ~= string.sub(stamped, at + ID, at + ID + VERSION - 1) then
      return DEAD
    end
    at = at + ID + VERSION
  end
  return said
end

-- Where the stamp that starts there ends.
local function stamp_end(stamped, start)
  return start + GENERATION + (string.byte(stamped, start + GENERATION) or 0) * (ID + VERSION)
end
