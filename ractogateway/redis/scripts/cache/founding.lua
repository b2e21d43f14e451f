-- Generations and versions that outlive every entry and lease which carries them. Follows stamps.lua.
--
-- Expects the locals fresh (24 random bytes: a generation, and a version for every tag that has none) and life_ms (how
-- long what is about to be written lives, '' for no end).
--
-- They are given twice that life, so that most writes need not touch them: each renewal is a write, which makes every
-- near cache drop what depends on the key.

local ample_ms = life_ms ~= '' and string.format('%.0f', 2 * tonumber(life_ms))

local function outlive(key)
  local left = redis.call('PTTL', key)          -- -1: no end, -2: no key
  if life_ms == '' then
    if left >= 0 then redis.call('PERSIST', key) end
  elseif left >= 0 and left < tonumber(life_ms) then
    redis.call('PEXPIRE', key, ample_ms)
  end
end

local function found(key, value)
  if life_ms == '' then
    redis.call('SET', key, value)
  else
    redis.call('SET', key, value, 'PX', ample_ms)
  end
  return value
end

-- The current stamp with the first `count` tags, which is made where it is missing.
local function founded_stamp(count)
  if generation then
    outlive(generation_key)
  else
    generation = found(generation_key, string.sub(fresh, 1, GENERATION))
  end
  local parts = {generation, string.char(count)}
  for number = 1, count do
    local tag_key = KEYS[first_tag + (number - 1) * stride]
    local id = ids[number]
    if versions[id] then
      outlive(tag_key)
    else
      versions[id] = found(tag_key, string.sub(fresh, GENERATION + 1, GENERATION + VERSION))
    end
    parts[#parts + 1] = id .. versions[id]
  end
  return table.concat(parts)
end
