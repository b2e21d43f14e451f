-- Stamps of the exact cache: an entry or a lease is alive while its stamp agrees with the generation and the tags.
--
-- A stamp is <generation, 16 bytes><number of tags, 1 byte>, then for each tag <id, 16 bytes><version, 8 bytes>.
-- Generations and versions are random: one that was deleted (which is what clear and invalidate_tag do), evicted or
-- has expired never comes back, so what carries it stays dead.
--
-- Expects the locals generation_key, tag_ids (16 bytes each, one after the other), first_tag (the place of the first
-- version in KEYS), stride (how many places further the next one is), and wanted: further keys that are read in the same
-- command, because commands are most of what a script costs. Their values are in `values`, from the second on.

local GENERATION, ID, VERSION, MOST_TAGS = 16, 16, 8, 64
local DEAD, ALIVE, UNTOLD = 0, 1, 2

local first_version = #wanted + 2
for place = first_tag, #KEYS, stride do
  wanted[#wanted + 1] = KEYS[place]
end
local values = redis.call('MGET', generation_key, unpack(wanted))
local generation = values[1]
local ids, versions = {}, {}
for number = 1, #wanted + 2 - first_version do
  ids[number] = string.sub(tag_ids, (number - 1) * ID + 1, number * ID)
  versions[ids[number]] = values[first_version + number - 1]
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
