-- A model's record, its entries in `waiting`, and every transition of a candidate: propose → preparing → fencing → committed,
-- or rejected, aborted, superseded. Prepended to each operation after _fleet.lua; works on memory, flush() writes.
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

local KEPT_REQUESTS, KEPT_COMMITTED, KEPT_POISON, KEPT_GENERATIONS = 64, 64, 64, 256
local KEPT_ANSWERS = 1000  -- workers' answers that an outcome lists
local FENCING_LEASES = 3   -- R8
local ROLLBACK_MS = 120000 -- time to prepare of a rollback that nobody asked for
local NAMED = 8            -- members that a reply names to be watched (R5)

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

-- What ended, and how ---------------------------------------------------------------------------------------------

local function outcome_field(name, gen) return field_of(name, gen, 'o') end
local function manifest_field(name, gen) return field_of(name, gen, 'm') end

local function bounded(map, most)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  if #keys <= most then return nil end
  table.sort(keys, function(a, b)
    local x, y = tonumber(map[a].at) or tonumber(a) or 0, tonumber(map[b].at) or tonumber(b) or 0
    return x < y
  end)
  return keys[1]
end

-- What a worker said, as JSON of its own making: only a text counts as one.
local function facts_of(detail)
  local facts = parse(detail) or {}
  for _, field in ipairs({'worker', 'step', 'why'}) do
    if type(facts[field]) ~= 'string' then facts[field] = nil end
  end
  return facts
end

-- The last answer of a member, with the name under which it shows itself to people: from there, or from its record.
local function last_answer(id, detail)
  local said = facts_of(detail)
  if not said.worker then
    local about = redis.pcall('HGET', workers_key, id)
    said.worker = type(about) == 'string' and facts_of(about).worker or nil
  end
  return said
end

-- The answers of all members, for the outcome; they leave the list.
local function answers_of(name, c)
  local list, found = {}, entries_of(name, c.gen)
  for i, row in ipairs(found) do
    if i <= KEPT_ANSWERS then
      local said = last_answer(row[1], row[3])
      said.state = row[2]
      list[row[1]] = said
    end
  end
  local gone = {}
  for _, row in ipairs(found) do
    local field = field_of(name, c.gen, row[1])
    entries[field] = false
    gone[#gone + 1] = field
  end
  write_many('HDEL', waiting_key, gone, 1)
  return filled(list)
end

local function note_outcome(name, c, outcome, facts)
  local row = {
    outcome = outcome, version = c.version, request = c.request, by = c.by, rollback = c.rollback,
    started = c.started, fencing = c.fenced_at, ended = whole(now_ms()), workers = answers_of(name, c),
    why = facts.why, step = facts.step, worker = facts.worker, unproven = facts.unproven,
  }
  write('HSET', generations_key, outcome_field(name, c.gen), cjson.encode(row))
  put_answer(name, c.request, {
    verdict = 'ok', state = outcome, generation = c.gen, version = c.version, target = c.rollback,
    why = facts.why, step = facts.step, worker = facts.worker,
  })
  log(outcome, name, {
    generation = c.gen, version = c.version, by = c.by, why = facts.why, step = facts.step, worker = facts.worker,
    rollback = c.rollback, request = c.request, unproven = facts.unproven,
  })
end

local function supersede(name, by)
  local record = records[name]
  local w = record.waits
  if not w then return end
  record.waits = nil
  write('HDEL', generations_key, manifest_field(name, 'next'))
  put_answer(name, w.request, {verdict = 'ok', state = 'superseded', version = w.version, why = by})
  log('superseded', name, {version = w.version, by = w.by, why = by, request = w.request})
  changed(name)
end

-- Old generations go, except the ways back and what is active.
local function forget_old(name, number)
  local record = records[name]
  local old = whole(number - KEPT_GENERATIONS)
  local kept = (record.committed or {})[old] or (record.active and record.active.gen == old)
  if number > KEPT_GENERATIONS and not kept then
    write('HDEL', generations_key, manifest_field(name, old), outcome_field(name, old))
  end
end

local function remember_committed(name, c)
  local record = records[name]
  record.committed = record.committed or {}
  record.committed[c.gen] = {version = c.version, poison = c.poison}
  local oldest = bounded(record.committed, KEPT_COMMITTED)
  if oldest then
    record.committed[oldest] = nil
    if tonumber(record.next) - tonumber(oldest) > KEPT_GENERATIONS then
      write('HDEL', generations_key, manifest_field(name, oldest), outcome_field(name, oldest))
    end
  end
end

-- The generations that a rollback leaves: all of the version that was active, or the next rollback would go back to it.
local function mark_left(record, version)
  for _, row in pairs(record.committed or {}) do
    if row.version == version then row.left = 1 end
  end
end

local function remember_poison(name, poison, why, by)
  local record = records[name]
  record.poison = record.poison or {}
  record.poison[poison] = {why = why, by = by, at = whole(now_ms())}
  local oldest = bounded(record.poison, KEPT_POISON)
  if oldest then record.poison[oldest] = nil end
  changed(name)
end

-- Transitions -----------------------------------------------------------------------------------------------------

local progress -- below; a commit may begin what waits, which may commit

-- A proposal gets its number and becomes the candidate. `manifest_at` is the field of generations with its manifest.
local function begin(name, p, manifest)
  local record = records[name]
  local number = tonumber(record.next)
  local c = p
  c.gen, c.phase, c.started = whole(number), 'preparing', whole(now_ms())
  c.awaited, c.late, c.ready, c.failed, c.fenced, c.died = 0, 0, 0, 0, 0, 0
  record.next = whole(number + 1)
  record.cand = c
  local rows = {}
  for _, id in ipairs(holders_of(name)) do
    local field = field_of(name, c.gen, id)
    entries[field] = 'awaited '
    rows[#rows + 1] = field
    rows[#rows + 1] = entries[field]
  end
  write_many('HSET', waiting_key, rows, 2)
  c.awaited = #rows / 2
  c.had = c.awaited
  arm(c, tonumber(c.length))
  write('HSET', generations_key, manifest_field(name, c.gen), manifest)
  write('HSET', generations_key, outcome_field(name, c.gen),
    cjson.encode({outcome = 'candidate', version = c.version, request = c.request, by = c.by, started = c.started, rollback = c.rollback}))
  put_answer(name, c.request, {verdict = 'ok', state = 'candidate', generation = c.gen, version = c.version, target = c.rollback})
  forget_old(name, number)
  log('candidate', name, {generation = c.gen, version = c.version, by = c.by, holders = c.had, request = c.request, rollback = c.rollback})
  changed(name)
  progress(name)
end

-- Whatever ends a candidate makes `next` the candidate in the same script (R11).
local function take_next(name)
  local record = records[name]
  local p = record.waits
  if not p or record.cand then return end
  local manifest = redis.call('HGET', generations_key, manifest_field(name, 'next'))
  record.waits = nil
  write('HDEL', generations_key, manifest_field(name, 'next'))
  local bad = not p.force and record.poison and record.poison[p.poison]
  if bad then -- the same content was found bad while this one waited (R13)
    local facts = {version = p.version, by = p.by, request = p.request, step = 'poisoned', why = bad.why}
    put_answer(name, p.request, {verdict = 'ok', state = 'rejected', version = p.version, step = 'poisoned', why = bad.why})
    log('rejected', name, facts)
    return changed(name)
  end
  if manifest then return begin(name, p, manifest) end
  put_answer(name, p.request, {verdict = 'ok', state = 'aborted', version = p.version, why = 'Redis lost its manifest'})
end

local function finish(name, outcome, facts)
  local record = records[name]
  local c = record.cand
  record.cand = nil
  -- A rollback that came to nothing leaves its pin, at what stays active: who asked for it did not want the trainer's next save.
  if record.pin and record.pin.gen == c.gen and outcome ~= 'committed' then record.pin.gen = record.active and record.active.gen end
  note_outcome(name, c, outcome, facts)
  changed(name)
  take_next(name)
end

local function commit(name)
  local record = records[name]
  local c = record.cand
  local unproven = c.had == 0 and 1 or nil
  if c.rollback and record.active then mark_left(record, record.active.version) end
  record.active = {gen = c.gen, version = c.version, epoch = whole(fleet.epoch), at = whole(now_ms()), poison = c.poison, unproven = unproven}
  remember_committed(name, c)
  finish(name, 'committed', {unproven = unproven})
end

local function reject(name, facts) finish(name, 'rejected', facts) end

local function begin_fencing(name)
  local c = records[name].cand
  c.phase, c.fenced_at = 'fencing', whole(now_ms())
  arm(c, FENCING_LEASES * fleet.lease)
  log('fencing', name, {generation = c.gen, ready = c.ready, failed = c.failed, awaited = c.awaited})
  changed(name)
end

local function who_is_missing(name, c)
  local missing = {}
  for _, row in ipairs(entries_of(name, c.gen)) do
    local waited = c.phase == 'fencing' and row[2] ~= 'fenced' or row[2] == 'awaited' or row[2] == 'failed'
    if waited and #missing < 4 then
      local said = last_answer(row[1], row[3])
      missing[#missing + 1] = (said.worker or row[1]) .. ' (' .. row[2] .. (said.why and ': ' .. said.why or '') .. ')'
    end
  end
  return table.concat(missing, ', ')
end

local function out_of_time(name)
  local c = records[name].cand
  local step = c.phase == 'fencing' and 'fencing' or 'preparing'
  local missing = who_is_missing(name, c)
  local had = missing ~= '' and '; waited for ' .. missing or ''
  local why = string.format('the deadline passed with %d ready, %d failed, %d not heard of%s', c.ready, c.failed, c.awaited, had)
  if step == 'fencing' then why = string.format('fencing took longer than %d leases%s', FENCING_LEASES, had) end
  reject(name, {step = step, why = why})
end

-- The newest committed generation below the active one, of another version, that no rollback has left and that is not poisoned.
local function way_back(name)
  local record = records[name]
  local best = nil
  for gen, row in pairs(record.committed or {}) do
    local number = tonumber(gen)
    local bad = record.poison and record.poison[row.poison or '']
    if number < tonumber(record.active.gen) and row.version ~= record.active.version and not row.left and not bad then
      if not best or number > tonumber(best) then best = gen end
    end
  end
  return best
end

-- Committed generation `target` becomes the candidate under a new number. `p`: request, by, why, and agreement and length or none.
local function go_back(name, target, p)
  local record = records[name]
  local row = record.committed[target]
  p.version, p.poison, p.rollback = row.version, row.poison, target
  p.agreement, p.length = p.agreement or '1', p.length or whole(ROLLBACK_MS)
  supersede(name, 'by a rollback')
  if record.cand then finish(name, 'aborted', {why = 'stopped by a rollback'}) end
  begin(name, p, redis.call('HGET', generations_key, manifest_field(name, target)))
end

-- Moves a candidate on as far as it goes. Nobody drives this: the last answer, or the last silent member's eviction, does.
function progress(name)
  local record = records[name]
  local c = record and record.cand
  if not c or not fleet.open then return end
  if c.had == 0 and c.phase == 'preparing' then return commit(name) end
  local late = expired(c)
  if c.phase == 'preparing' then
    local judged = c.awaited + c.ready + c.failed
    local agreed = c.ready > 0 and c.ready >= tonumber(c.agreement) * judged - 1e-9
    if agreed and (c.awaited == 0 or late) then return begin_fencing(name) end
  elseif unfenced(c) == 0 then
    return commit(name)
  end
  if late then return out_of_time(name) end
end

-- A member's entry goes: it dropped the model, left, or was evicted (`died`).
local function remove_entry(name, id, died)
  local record = model(name)
  local c = record and record.cand
  if not c then return end
  local field = field_of(name, c.gen, id)
  local state = entry(field)
  if not state then return end
  count(c, state, -1)
  drop_entry(field)
  touch(name)
  if died and c.phase == 'preparing' and (state == 'awaited' or state == 'late') then
    c.died = c.died + 1
    if c.died >= 2 then
      return reject(name, {step = 'load', why = 'two members died before they had answered'})
    end
  end
  progress(name)
end

local function end_task(tid)
  local task = fleet.tasks[tid]
  task.ended = whole(now_ms())
  set('tasks', fleet.tasks)
  log('task', task.model, {task = tid, kind = task.kind, done = task.done, failed = task.failed, silent = task.awaited})
end

-- What a task found is not kept any longer.
local function forget_task(tid)
  local answers = {}
  for _, row in ipairs(entries_of('#', tid)) do answers[#answers + 1] = field_of('#', tid, row[1]) end
  write_many('HDEL', waiting_key, answers, 1)
  fleet.tasks[tid] = nil
  set('tasks', fleet.tasks)
end

local function task_answered(tid, id, state, detail)
  local task = fleet.tasks[tid]
  local field = field_of('#', tid, id)
  if not task or entry(field) ~= 'awaited' then return end
  task.awaited = task.awaited - 1
  if state then
    task[state] = task[state] + 1
    put_entry(field, state, detail)
  else
    drop_entry(field)
  end
  set('tasks', fleet.tasks)
  if task.awaited <= 0 and not task.ended then end_task(tid) end
end

-- A member is no more: left, or evicted.
local function gone(id, what, died, facts)
  local _, names = list_of(id)
  write('HDEL', members_key, id)
  put_list(id, false)
  note('HDEL', workers_key, id)
  for tid in pairs(fleet.tasks) do task_answered(tid, id, nil) end
  for name in pairs(names) do remove_entry(name, id, died) end
  log(what, nil, facts)
end

-- What a caller hears -----------------------------------------------------------------------------------------------

-- The state of a model as member `id` has to see it; `id` may be nil.
local function state(name, id)
  local record = model(name)
  if not record then return {rev = '0', phase = 'idle'} end
  local c = record.cand
  local out = {
    rev = record.rev, phase = c and c.phase or 'idle', active = record.active, pin = record.pin,
    poison = record.poison and filled(record.poison), waits = record.waits and record.waits.request,
  }
  if c then
    out.cand = {
      gen = c.gen, version = c.version, request = c.request, by = c.by, deadline = c.deadline, started = c.started,
      awaited = c.awaited, late = c.late, ready = c.ready, failed = c.failed, fenced = c.fenced, rollback = c.rollback,
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
  for tid in pairs(fleet.tasks) do
    if entry(field_of('#', tid, id)) == 'awaited' then return true end
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
    local beat = n < NAMED and not found[id] and beat_of(id)
    if beat then found[id] = beat; n = n + 1 end
  end
  for id in asked:gmatch('%S+') do
    if still_waited(id) then add(id) end
  end
  if n < NAMED then
    -- A hash of fewer fields than asked for comes whole and always in the same order: begin elsewhere each time.
    local sample = redis.call('HRANDFIELD', waiting_key, 8 * NAMED, 'WITHVALUES')
    local size = #sample / 2
    for k = 1, size do
      local i = 2 * ((k + fleet.beat) % size) + 1
      local said = sample[i] ~= '@' and sample[i + 1]:match('^%a+')
      if said and is_waited(sample[i], said) then add(sample[i]:match('%z([^%z]+)$')) end
    end
  end
  return filled(found)
end
