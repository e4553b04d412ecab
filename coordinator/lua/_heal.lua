-- Putting back what a worker was told is active (R7); shared by heal and reopen, prepended to both.
--
-- ARGV      9 model   10 generation   11 version   12 epoch of its commit   13 epoch in which the worker last heard it active
--           14 manifest, or empty: never heard, so the content cannot be put back   15 its poison key   16 JSON of the pin, or empty   17 JSON of the poisoned versions, or empty
--           18 generation that it went back to, 0: it is no rollback

local told = {
  name = ARGV[9], gen = tonumber(ARGV[10]), version = ARGV[11], epoch = tonumber(ARGV[12]), heard = tonumber(ARGV[13]),
  manifest = ARGV[14], poison = ARGV[15], pin = parse(ARGV[16]), poisoned = parse(ARGV[17]),
  back = ARGV[18] ~= '0' and ARGV[18] or nil,
}

local function same_content(active) return active.gen == whole(told.gen) and active.version == told.version end

-- The fleet's record is from no later an epoch than the one in which the worker last heard its own: it is what was lost.
local function restore(record)
  record.active = {gen = whole(told.gen), version = told.version, epoch = whole(told.epoch), at = whole(now_ms()), poison = told.poison}
  record.pin, record.poison = told.pin, told.poisoned
  remember_committed(told.name, {gen = record.active.gen, version = told.version, poison = told.poison})
  write('HSET', generations_key, manifest_field(told.name, record.active.gen), told.manifest)
  write('HSET', generations_key, outcome_field(told.name, record.active.gen),
    cjson.encode({outcome = 'committed', version = told.version, rollback = told.back, ended = record.active.at, why = 'restored from a worker'}))
end

-- Committed since the loss, or another content under the same number: content stays, its number goes above the worker's.
local function raise_number(record)
  local from = record.active.gen
  record.active.gen = whole(told.gen + 1)
  local manifest = redis.call('HGET', generations_key, manifest_field(told.name, from))
  if manifest then write('HSET', generations_key, manifest_field(told.name, record.active.gen), manifest) end
  remember_committed(told.name, {gen = record.active.gen, version = record.active.version, poison = record.active.poison})
  local back = number_of((parse(redis.call('HGET', generations_key, outcome_field(told.name, from))) or {}).rollback)
  write('HSET', generations_key, outcome_field(told.name, record.active.gen), cjson.encode({
    outcome = 'committed', version = record.active.version, rollback = back and whole(back), ended = whole(now_ms()),
    why = 'raised above ' .. whole(told.gen),
  }))
end

local function heal()
  local record = model(told.name) or fresh_model(told.name)
  local active = record.active
  local gen = active and tonumber(active.gen) or 0
  local healed = nil
  local known = told.manifest ~= ''
  if known and gen < told.gen and (not active or tonumber(active.epoch) <= told.heard) then
    restore(record)
    healed = 'restored'
  elseif active and gen <= told.gen and not same_content(active) then
    raise_number(record)
    healed = 'raised'
  elseif known and active and same_content(active) then
    write('HSETNX', generations_key, manifest_field(told.name, active.gen), told.manifest)
  end
  local above = math.max(record.active and tonumber(record.active.gen) or 0, told.gen) + 1
  if tonumber(record.next) < above then record.next = whole(above) end
  touch(told.name)
  if healed then
    changed(told.name)
    log('healed', told.name, {how = healed, generation = record.active.gen, version = record.active.version})
  end
end
