-- What Outlast asks Redis to do at once. Every key that a commit may touch is declared, so that Redis refuses the whole
-- call (MOVED, ASK, TRYAGAIN) before anything has changed while a slot is being moved.

local HEADER = 17      -- level (1), version (8), expiry (8): see stored.rs
local ENTRY = 16       -- of the ledger: commit id (8), version (8)
local TRIM_EVERY = 256 * ENTRY
local LEDGER_MAX = 65536 * ENTRY
local LEDGER_SECONDS = 10

-- Versions are 8 octets, big endian: their upper part counts microseconds, so a number of Lua cannot hold them.
local function above(one, other)
  local one_high, one_low = struct.unpack('>I4I4', one)
  local other_high, other_low = struct.unpack('>I4I4', other)
  return one_high > other_high or (one_high == other_high and one_low > other_low)
end

local function next_version(version)
  local high, low = struct.unpack('>I4I4', version)
  if low == 4294967295 then return struct.pack('>I4I4', high + 1, 0) end
  return struct.pack('>I4I4', high, low + 1)
end

local function seconds(version)
  local high, low = struct.unpack('>I4I4', version)
  return (high * 4294967296 + low) / 4096000000
end

-- The version of a record by its header, '' when there is none or its lifetime is over.
local function living(header, now)
  if #header < HEADER then return '' end
  local expires_at = struct.unpack('>I8', string.sub(header, 10, 17))
  if expires_at ~= 0 and expires_at <= now then return '' end
  return string.sub(header, 2, 9)
end

-- The ledger keeps the commits of the last seconds, so that whoever lost an answer can ask again.
local function trim(ledger, length, version)
  local half = length / 2
  half = half - half % ENTRY
  local middle = redis.call('GETRANGE', ledger, half - 8, half - 1)
  if length >= LEDGER_MAX or seconds(version) - seconds(middle) > LEDGER_SECONDS then
    redis.call('SET', ledger, redis.call('GETRANGE', ledger, half, -1))
  end
end

-- KEYS: ledger, index, one record per write.
-- ARGV: now (ms), commit id (8 octets), the version to give (8), '1' when this commit may have been done already; then per
-- write: what is expected ('' anything, '-' no record, else a version), the change ('' none, '-' delete, else the record),
-- the time of Redis's own expiry (ms, '' never).
-- Returns the version given, or { number of the write whose expectation failed, from 0, and the version found or '' }.
local function commit(keys, argv)
  local ledger, index, now, id, version = keys[1], keys[2], tonumber(argv[1]), argv[2], argv[3]
  if argv[4] == '1' then
    local known = redis.call('GET', ledger) or ''
    for at = 1, #known, ENTRY do
      if string.sub(known, at, at + 7) == id then
        -- WAIT counts from what its connection wrote last, and this is another connection than the commit came by.
        redis.call('SETRANGE', ledger, 0, string.sub(known, 1, 1))
        return string.sub(known, at + 8, at + 15)
      end
    end
  end
  local was_there = {}
  for write = 1, #keys - 2 do
    local header = redis.call('GETRANGE', keys[write + 2], 0, HEADER - 1)
    was_there[write] = header ~= ''
    local expected = argv[write * 3 + 2]
    if expected ~= '' then
      local found = living(header, now)
      if (expected == '-' and found ~= '') or (expected ~= '-' and found ~= expected) then
        return { write - 1, found }
      end
    end
  end

  local last = redis.call('GETRANGE', ledger, -8, -1)
  local is_late = last ~= '' and not above(version, last)
  if is_late then version = next_version(last) end
  local tag_bytes = #ledger - 2
  -- Puts first: while a slot moves, an index that ran empty in between would not be found again.
  for write = 1, #keys - 2 do
    local key, change, expires_at = keys[write + 2], argv[write * 3 + 3], argv[write * 3 + 4]
    if change ~= '' and change ~= '-' then
      if is_late then change = string.sub(change, 1, 1) .. version .. string.sub(change, 10) end
      if expires_at == '' then
        redis.call('SET', key, change)
      else
        redis.call('SET', key, change, 'PXAT', expires_at)
      end
      if not was_there[write] then redis.call('ZADD', index, 0, string.sub(key, tag_bytes + 1)) end
    end
  end
  for write = 1, #keys - 2 do
    if argv[write * 3 + 3] == '-' and was_there[write] then
      redis.call('DEL', keys[write + 2])
      redis.call('ZREM', index, string.sub(keys[write + 2], tag_bytes + 1))
    end
  end
  local length = redis.call('APPEND', ledger, id .. version)
  if length % TRIM_EVERY == 0 then trim(ledger, length, version) end
  return version
end

-- ARGV: the most octets to return, '1' for whole records or '0' for their headers; then for each part of a list: the Redis
-- hash tag of its partition, from, to (as ZRANGE BYLEX has them), how many at most.
-- Returns per part { 1 when there may be more, else 0; then key and record by turns (no record: false) }.
local function page(_, argv)
  local room, whole = tonumber(argv[1]), argv[2] == '1'
  local parts = {}
  for part = 3, #argv, 4 do
    local tag, limit = argv[part], tonumber(argv[part + 3])
    local names = redis.call('ZRANGE', tag .. ':i', argv[part + 1], argv[part + 2], 'BYLEX', 'LIMIT', 0, limit)
    local found = { #names < limit and 0 or 1 }
    local from = 1
    while from <= #names do
      -- At least one step, so that whoever asks gets on.
      if room <= 0 and (from > 1 or part > 3) then
        found[1] = 1
        break
      end
      local to = math.min(from + 31, #names)
      local records = {}
      if whole then
        local keys = {}
        for at = from, to do keys[#keys + 1] = tag .. names[at] end
        records = redis.call('MGET', unpack(keys))
      else
        for at = from, to do
          local header = redis.call('GETRANGE', tag .. names[at], 0, HEADER - 1)
          records[#records + 1] = header ~= '' and header
        end
      end
      for at = from, to do
        local record = records[at - from + 1]
        found[#found + 1] = names[at]
        found[#found + 1] = record
        room = room - #names[at] - (record and #record or 0)
      end
      from = to + 1
    end
    parts[#parts + 1] = found
  end
  return parts
end

-- Removes records whose lifetime is over, and entries of the index without a record.
-- KEYS: index, mark of the last sweep. ARGV: now (ms), how old the mark must be (ms) or '' when this goes on with a sweep,
-- from (as ZRANGE BYLEX has it), how many at most.
-- Returns { entries looked at, entries removed, the last one }, { -1 } when somebody has swept.
local function sweep(keys, argv)
  local index, mark, now, limit = keys[1], keys[2], tonumber(argv[1]), tonumber(argv[4])
  if argv[2] ~= '' then
    local swept = tonumber(redis.call('GET', mark) or '0')
    if math.abs(now - swept) < tonumber(argv[2]) then return { -1 } end
    redis.call('SET', mark, argv[1])
  end
  local tag = string.sub(index, 1, -3)
  local names = redis.call('ZRANGE', index, argv[3], '+', 'BYLEX', 'LIMIT', 0, limit)
  local removed = 0
  for _, name in ipairs(names) do
    local header = redis.call('GETRANGE', tag .. name, 0, HEADER - 1)
    if living(header, now) == '' then
      if header ~= '' then redis.call('DEL', tag .. name) end
      redis.call('ZREM', index, name)
      removed = removed + 1
    end
  end
  return { #names, removed, names[#names] or '' }
end

redis.register_function('NAME_commit', commit)
redis.register_function{ function_name = 'NAME_page', callback = page, flags = { 'no-writes', 'allow-cross-slot-keys' } }
redis.register_function('NAME_sweep', sweep)
