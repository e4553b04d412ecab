-- What a caller hears: the state of a model, and whom to watch. Prepended to each operation after _candidate.lua.

local NAMED = 8 -- members that a reply names to be watched (R5)

-- The state of a model as member `id` has to see it; `id` may be nil.
local function state(name, id)
  local record = model(name)
  if not record then return {rev = '0', phase = 'idle'} end
  local c = record.cand
  local out = {
    rev = record.rev, phase = c and c.phase or 'idle', active = record.active, pin = record.pin,
    poison = record.poison and filled(record.poison), waits = record.waits and record.waits.request,
    watch = record.watch and {gen = record.watch.gen, policy = record.watch.policy, deadline = record.watch.deadline},
  }
  if c then
    out.cand = {
      gen = c.gen, version = c.version, request = c.request, by = c.by, deadline = c.deadline, started = c.started,
      awaited = c.awaited, late = c.late, ready = c.ready, failed = c.failed, fenced = c.fenced, rollback = c.rollback,
      canary = c.canary, share = c.share, step = c.step, step_at = c.step_at,
    }
    if id then out.mine = entry(field_of(name, c.gen, id)) end
  end
  return out
end

local function states(names, id)
  local out = {}
  for name in pairs(names) do out[name] = state(name, id) end
  return filled(out)
end

-- Whether `id` is waited for by the candidate or task that a field of waiting belongs to.
local function is_waited(field, said)
  local name, gen = field:match('^([^%z]+)%z([^%z]+)%z')
  if not name then return false end
  if name == '#' then return said == 'awaited' and fleet.tasks[gen] ~= nil end
  local record = model(name)
  local c = record and record.cand
  if not c or c.gen ~= gen then return false end
  if c.phase == 'fencing' then return said ~= 'fenced' end
  return said == 'awaited'
end

local function still_waited(id)
  for tid, task in pairs(fleet.tasks) do
    if not task.ended and entry(field_of('#', tid, id)) == 'awaited' then return true end
  end
  local _, names = list_of(id)
  for name in pairs(names) do
    local record = model(name)
    local field = record and record.cand and field_of(name, record.cand.gen, id)
    local said = field and entry(field)
    if said and is_waited(field, said) then return true end
  end
  return false
end

-- Up to 8 members that are waited for, with their beats: those that the asker watches already first, then a sample.
local function watch(asked)
  local found, n = {}, 0
  if redis.call('HLEN', waiting_key) <= 1 then return nil end
  local function add(id)
    local beat = id and n < NAMED and not found[id] and beat_of(id)
    if beat then found[id] = beat; n = n + 1 end
  end
  for id in asked:gmatch('%S+') do
    if still_waited(id) then add(id) end
  end
  if n < NAMED then
    -- A hash of fewer fields than asked for comes whole and always in the same order: begin elsewhere each time.
    local sample = redis.call('HRANDFIELD', waiting_key, 3 * NAMED, 'WITHVALUES')
    local size = #sample / 2
    for k = 1, size do
      if n >= NAMED then break end
      local i = 2 * ((k + fleet.beat) % size) + 1
      local said = sample[i] ~= '@' and sample[i + 1]:match('^%a+')
      if said and is_waited(sample[i], said) then add(sample[i]:match('%z([^%z]+)$')) end
    end
  end
  return filled(found)
end
