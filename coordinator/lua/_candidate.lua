-- Every transition of a candidate: propose → preparing (→ canary) → fencing → committed, or rejected, aborted, superseded; what is kept
-- of each; and tasks. Prepended to each operation after _model.lua; works on memory, flush() writes.

local KEPT_COMMITTED, KEPT_POISON, KEPT_GENERATIONS = 64, 64, 256
local KEPT_ANSWERS = 1000  -- workers' answers that an outcome lists
local FENCING_LEASES = 3   -- R8
local WATCH_MS = 600000    -- how long a generation is watched by the policy of its canary: what shows later is no matter of the change
local ROLLBACK_MS = 120000 -- time to prepare of a rollback that nobody asked for

-- What ended, and how ---------------------------------------------------------------------------------------------

local function outcome_field(name, gen) return field_of(name, gen, 'o') end
local function sums_field(name, gen, step) return '=' .. NUL .. name .. NUL .. gen .. NUL .. step end
local function manifest_field(name, gen) return field_of(name, gen, 'm') end

local function bounded(map, most)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  if #keys <= most then return nil end
  table.sort(keys, function(a, b)
    local x, y = number_of(map[a].at) or number_of(a) or 0, number_of(map[b].at) or number_of(b) or 0
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
  local why = facts.why or text_of(c.why) -- of a rollback that is committed: why somebody wanted it
  local row = {
    outcome = outcome, version = c.version, request = c.request, by = c.by, rollback = c.rollback,
    started = c.started, tried = text_of(c.tried_at), fencing = c.fenced_at, ended = whole(now_ms()), workers = answers_of(name, c),
    why = why, step = facts.step, worker = facts.worker, unproven = facts.unproven,
  }
  write('HSET', generations_key, outcome_field(name, c.gen), cjson.encode(row))
  put_answer(name, c.request, {
    verdict = 'ok', state = outcome, generation = c.gen, version = c.version, target = c.rollback,
    why = why, step = facts.step, worker = facts.worker,
  })
  log(outcome, name, {
    generation = c.gen, version = c.version, by = c.by, why = why, step = facts.step, worker = facts.worker,
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

-- What was counted of a canary, or of a generation that is watched, is not needed any more.
local function forget_figures(name, gen)
  local prefix, gone = sums_field(name, gen, ''), {}
  for _, field in ipairs(redis.call('HKEYS', waiting_key)) do
    if field:sub(1, #prefix) == prefix then gone[#gone + 1] = field end
  end
  write_many('HDEL', waiting_key, gone, 1)
end

local function stop_watch(name)
  forget_figures(name, records[name].watch.gen)
  records[name].watch = nil
end

local function finish(name, outcome, facts)
  local record = records[name]
  local c = record.cand
  record.cand = nil
  if c.canary then forget_figures(name, c.gen) end
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
  local base = c.canary and c.canary.policy and c.step and redis.call('HGET', waiting_key, sums_field(name, c.gen, c.step))
  record.active = {gen = c.gen, version = c.version, epoch = whole(fleet.epoch), at = whole(now_ms()), poison = c.poison, unproven = unproven}
  remember_committed(name, c)
  if record.watch then stop_watch(name) end
  if base then
    record.watch = {gen = c.gen, policy = c.canary.policy, base = base}
    arm(record.watch, WATCH_MS)
  end
  finish(name, 'committed', {unproven = unproven})
end

local function reject(name, facts) finish(name, 'rejected', facts) end

-- Whether enough of who holds now are ready.
local function agreed(c)
  return c.ready > 0 and c.ready >= tonumber(c.agreement) * (c.awaited + c.ready + c.failed) - 1e-9
end

-- One step of a canary: this share of the requests, from now on.
local function take_step(name, step, share)
  local c = records[name].cand
  if c.step then forget_figures(name, c.gen) end
  c.died = 0 -- in a canary of hours two that die are no sign of it
  c.phase, c.step, c.share, c.step_at = 'canary', whole(step), share, whole(now_ms())
  arm(c, tonumber(c.canary.length))
  log('canary', name, {generation = c.gen, version = c.version, share = share / ALL, step = c.step, ready = c.ready, by = c.by})
  changed(name)
end

local function begin_canary(name)
  local c, w = records[name].cand, records[name].watch
  if w then forget_figures(name, w.gen) end -- workers count one thing at a time: when the watch goes on, all of them begin at 0
  c.tried_at = whole(now_ms())
  take_step(name, 1, c.canary.steps[1])
  put_answer(name, c.request, {verdict = 'ok', state = 'canary', generation = c.gen, version = c.version})
end

local function begin_fencing(name)
  local c = records[name].cand
  c.phase, c.fenced_at = 'fencing', whole(now_ms())
  if c.canary then put_answer(name, c.request, {verdict = 'ok', state = 'candidate', generation = c.gen, version = c.version}) end
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
  if not record.active then return nil end
  for gen, row in pairs(record.committed or {}) do
    local number = tonumber(gen)
    local bad = record.poison and record.poison[row.poison or '']
    if number < tonumber(record.active.gen) and row.version ~= record.active.version and not row.left and not bad then
      if not best or number > tonumber(best) then best = gen end
    end
  end
  return best
end

-- Committed generation `target` becomes the candidate under a new number. `p`: request, by, why, and agreement and length or none;
-- `brought`: its manifest with an order, nil: as it is stored.
local function go_back(name, target, p, brought)
  local record = records[name]
  local row = record.committed[target]
  p.version, p.poison, p.rollback = row.version, row.poison, target
  p.agreement, p.length = p.agreement or '1', p.length or whole(ROLLBACK_MS)
  supersede(name, 'by a rollback')
  if record.cand then finish(name, 'aborted', {why = 'stopped by a rollback'}) end
  begin(name, p, brought or redis.call('HGET', generations_key, manifest_field(name, target)))
end

-- Moves a candidate on as far as it goes. Nobody drives this: the last answer, or the last silent member's eviction, does.
function progress(name)
  local record = records[name]
  local c = record and record.cand
  if not c or not fleet.open then return end
  if c.had == 0 and c.phase == 'preparing' then return commit(name) end
  local late = expired(c)
  if c.phase == 'preparing' then
    if agreed(c) and (c.awaited == 0 or late) then
      if c.canary and record.active then return begin_canary(name) end -- with nothing active there is nobody to compare with
      return begin_fencing(name)
    end
  elseif c.phase == 'canary' then
    if late then
      local why = string.format('nobody promoted it from %g %% within %g s', c.share / ALL * 100, tonumber(c.canary.length) / 1000)
      return finish(name, 'aborted', {step = 'canary', why = why})
    end
    return
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
  if died and c.phase ~= 'fencing' and (state == 'awaited' or state == 'late') then
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
