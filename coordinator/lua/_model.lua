-- A model's record, its entries in `waiting`, its deadlines, and what its requests were answered. Prepended to each operation after
-- _fleet.lua; works on memory, flush() writes.
--
-- Record (JSON in models; whole numbers as text, see whole()):
--   rev, next          revision of its last change; next number
--   active             {gen, version, epoch, at, unproven}: the number, its content, the epoch and ms of its commit
--   cand               {gen, version, poison, phase, request, by, agreement, length, deadline, started, fenced_at, had, died,
--                       awaited, late, ready, failed, fenced, rollback}: counts are of entries in that state
--   waits              the next proposal: what becomes cand; `force`: though its content may be poisoned
--   pin, poison        {by, at, why}; "version:golden" → {why, by, at}
--   committed          generation → {version, poison, left}: the ways back; left: a rollback went away from it
--   requests           the last 64 request ids, oldest first, by a space
--
-- Fields of waiting:      name NUL generation NUL id → state, a space, JSON of the answer    # NUL task NUL id → likewise
-- Fields of generations:  name NUL generation NUL m (manifest) | o (outcome)    name NUL next NUL m    name NUL r NUL request

local KEPT_REQUESTS = 64 -- answers to requests that are known by their ids (R10)

local records, touched = {}, {}

local function valid_name(name)
  return #name >= 1 and #name <= 128 and not name:find('[^A-Za-z0-9._-]')
end

local COUNTS = {'awaited', 'late', 'ready', 'failed', 'fenced', 'had', 'died', 'agreement', 'length', 'deadline'}

-- A record that every transition can work on: what is not of its form is left out, and heals or is proposed again.
local function sane(record)
  if not (record and tonumber(record.next)) then return nil end
  local a, c = record.active, record.cand
  if type(a) ~= 'table' or not (tonumber(a.gen) and tonumber(a.epoch) and type(a.version) == 'string') then record.active = nil end
  local whole_candidate = type(c) == 'table' and type(c.gen) == 'string' and type(c.version) == 'string' and type(c.request) == 'string'
  for _, field in ipairs(COUNTS) do whole_candidate = whole_candidate and tonumber(c[field]) end
  if not (whole_candidate and (c.phase == 'preparing' or c.phase == 'fencing')) then record.cand = nil end
  for _, place in ipairs({'active', 'cand'}) do
    if record[place] and type(record[place].poison) ~= 'string' then record[place].poison = '' end
  end
  local w = record.waits
  local whole_wait = type(w) == 'table' and type(w.request) == 'string' and type(w.version) == 'string'
  if not (whole_wait and tonumber(w.agreement) and tonumber(w.length)) then record.waits = nil end
  for _, field in ipairs({'pin', 'poison', 'committed'}) do
    if type(record[field]) ~= 'table' then record[field] = nil end
  end
  return record
end

-- The record of a model; an unreadable one counts as missing, and heals from what workers hold (R7).
local function model(name)
  if records[name] == nil then
    records[name] = sane(parse(redis.call('HGET', models_key, name))) or false
  end
  return records[name] or nil
end

local function fresh_model(name)
  local record = {rev = '0', next = '1'}
  records[name] = record
  return record
end

local function touch(name) touched[name] = true end

-- A change of active, candidate, phase, pin or poison: a new revision.
local function changed(name)
  records[name].rev = whole(revise(name))
  touch(name)
end

local function save()
  local row = {}
  for name in pairs(touched) do
    row[#row + 1] = name
    row[#row + 1] = cjson.encode(records[name])
  end
  write_many('HSET', models_key, row, 2)
  flush()
end

-- Members and what they hold --------------------------------------------------------------------------------------

local function beat_of(id) return redis.call('HGET', members_key, id) or nil end

local lists = {} -- what this operation has changed: id → text, or false for removed

local function put_list(id, text)
  lists[id] = text
  if text then write('HSET', holds_key, id, text) else write('HDEL', holds_key, id) end
end

-- counter, {name → true} of a member's list
local function list_of(id)
  local text, counter, names = lists[id], nil, {}
  if text == nil then text = redis.call('HGET', holds_key, id) end
  for word in (text or ''):gmatch('%S+') do
    if counter then names[word] = true else counter = tonumber(word) end
  end
  return counter or 0, names
end

local function holders_of(name)
  local found, all = {}, redis.call('HGETALL', holds_key)
  local inside = ' ' .. name .. ' '
  local seen = {}
  for i = 1, #all, 2 do seen[all[i]] = all[i + 1] end
  for id, text in pairs(lists) do seen[id] = text end
  for id, text in pairs(seen) do
    if id ~= '@' and text and (text .. ' '):find(inside, 1, true) then found[#found + 1] = id end
  end
  table.sort(found)
  return found
end

-- Entries of a candidate ------------------------------------------------------------------------------------------

local entries = {} -- what this operation has changed: field → text, or false for removed

local function field_of(name, gen, id) return name .. NUL .. gen .. NUL .. id end

local function entry(field)
  local text = entries[field]
  if text == nil then text = redis.call('HGET', waiting_key, field) end
  if not text then return nil, nil end
  return text:match('^(%a+) ?(.*)$')
end

local function put_entry(field, state, detail)
  entries[field] = state .. ' ' .. (detail or '')
  write('HSET', waiting_key, field, entries[field])
end

local function drop_entry(field)
  entries[field] = false
  write('HDEL', waiting_key, field)
end

local function count(c, state, by) c[state] = c[state] + by end

local function move_entry(c, field, from, to, detail)
  count(c, from, -1)
  count(c, to, 1)
  put_entry(field, to, detail)
end

local function unfenced(c) return c.awaited + c.late + c.ready + c.failed end

-- Every entry of a candidate: {{id, state, detail}, …}
local function entries_of(name, gen)
  local prefix, found, seen = name .. NUL .. gen .. NUL, {}, {}
  local all = redis.call('HGETALL', waiting_key)
  for i = 1, #all, 2 do seen[all[i]] = all[i + 1] end
  for field, text in pairs(entries) do seen[field] = text end
  for field, text in pairs(seen) do
    if text and field:sub(1, #prefix) == prefix then
      local state, detail = text:match('^(%a+) ?(.*)$')
      found[#found + 1] = {field:sub(#prefix + 1), state, detail}
    end
  end
  table.sort(found, function(a, b) return (tonumber(a[1]) or 0) < (tonumber(b[1]) or 0) end)
  return found
end

-- Deadlines (R8) --------------------------------------------------------------------------------------------------

local function remember_deadline(at, length)
  if fleet.deadline == 0 or at < fleet.deadline then set('deadline', at) end
  if length > fleet.longest then set('longest', length) end
end

local function arm(c, length)
  local at = now_ms() + length
  c.deadline, c.length = whole(at), whole(length)
  remember_deadline(at, length)
end

-- Whether a deadline has passed; one further away than its own length (the server's clock went back) begins again.
local function expired(c)
  local now = now_ms()
  if tonumber(c.deadline) - now > tonumber(c.length) then arm(c, tonumber(c.length)) end
  return now >= tonumber(c.deadline)
end

local function due()
  if fleet.deadline == 0 then return false end
  local now = now_ms()
  return now >= fleet.deadline or fleet.deadline - now > fleet.longest
end

-- What a request was answered (R10) -------------------------------------------------------------------------------

local function request_field(name, request) return name .. NUL .. 'r' .. NUL .. request end

local function earlier_answer(name, request)
  return parse(redis.call('HGET', generations_key, request_field(name, request)))
end

local function put_answer(name, request, answer)
  write('HSET', generations_key, request_field(name, request), cjson.encode(answer))
end

-- The first answer to a request: remembered, and the oldest of more than 64 forgotten.
local function first_answer(name, request, answer)
  local record = records[name]
  local kept = {}
  for word in (record.requests or ''):gmatch('%S+') do kept[#kept + 1] = word end
  kept[#kept + 1] = request
  while #kept > KEPT_REQUESTS do
    write('HDEL', generations_key, request_field(name, table.remove(kept, 1)))
  end
  record.requests = table.concat(kept, ' ')
  touch(name)
  put_answer(name, request, answer)
end
