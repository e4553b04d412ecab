-- A model's record, its entries in `waiting`, its deadlines, and what its requests were answered. Prepended to each operation after
-- _fleet.lua; works on memory, flush() writes.
--
-- Record (JSON in models; whole numbers as text, see whole()):
--   rev, next          revision of its last change; next number
--   active             {gen, version, epoch, at, unproven}: the number, its content, the epoch and ms of its commit
--   cand               {gen, version, poison, phase, request, by, agreement, length, deadline, started, tried_at, fenced_at, had, died,
--                       awaited, late, ready, failed, fenced, rollback, canary, step, share, step_at}: counts are of entries in that state
--     canary           {steps, length, policy}: shares of requests in ten-thousandths, one for each step; ms that a step may take; the
--                       policy that promotes or aborts, a text that only workers read; step, share, step_at: where it is, since when
--   watch              {gen, deadline, length, policy, base}: the active generation is watched by the policy of its canary; base: what the
--                       generation before it counted, JSON
--   waits              the next proposal: what becomes cand; `force`: though its content may be poisoned
--   pin, poison        {by, at, why}; "version:golden" → {why, by, at}
--   committed          generation → {version, poison, left}: the ways back; left: a rollback went away from it
--   requests           the last 64 request ids, oldest first, by a space
--
-- Fields of waiting:      name NUL generation NUL id → state, a space, JSON of the answer    # NUL task NUL id → likewise
--                         = NUL name NUL generation NUL step → the figures of all members    … NUL step NUL id → those of one, JSON
-- Fields of generations:  name NUL generation NUL m (manifest) | o (outcome)    name NUL next NUL m    name NUL r NUL request

local KEPT_REQUESTS = 64 -- answers to requests that are known by their ids (R10)

local records, touched = {}, {}

local function valid_name(name)
  return #name >= 1 and #name <= 128 and not name:find('[^A-Za-z0-9._-]')
end

local COUNTS = {'awaited', 'late', 'ready', 'failed', 'fenced', 'had', 'died'}

local function sane_active(a)
  local gen, epoch = type(a) == 'table' and number_of(a.gen) or 0, type(a) == 'table' and number_of(a.epoch)
  if gen < 1 or not (epoch and text_of(a.version)) then return nil end
  a.gen, a.epoch, a.at = whole(gen), whole(epoch), whole(number_of(a.at) or 0)
  a.unproven, a.poison = a.unproven and 1 or nil, text_of(a.poison) or ''
  return a
end

local ALL = 10000    -- what a share is a part of
local MOST_STEPS = 16 -- of a canary

local function sane_canary(found)
  if type(found) ~= 'table' or type(found.steps) ~= 'table' or not number_of(found.length) then return nil end
  local steps, before = {}, 0
  for i = 1, math.min(#found.steps, MOST_STEPS + 1) do
    local share = number_of(found.steps[i])
    if not share or share <= before or share >= ALL then return nil end
    steps[i], before = share, share
  end
  if #steps == 0 or #steps > MOST_STEPS then return nil end
  return {steps = steps, length = whole(number_of(found.length)), policy = text_of(found.policy)}
end

local function sane_proposal(p)
  if type(p) ~= 'table' or not (text_of(p.request) and text_of(p.version)) then return nil end
  local agreement = tonumber(p.agreement)
  if not (agreement and agreement > 0 and agreement <= 1 and number_of(p.length)) then return nil end
  local back = number_of(p.rollback)
  p.by, p.poison, p.rollback = text_of(p.by) or '?', text_of(p.poison) or '', back and whole(back)
  if p.canary ~= nil then
    p.canary = sane_canary(p.canary)
    if not p.canary then return nil end -- better no candidate than one for everybody
  end
  return p
end

local PHASES = {preparing = true, canary = true, fencing = true}

local function sane_candidate(c)
  if not (sane_proposal(c) and PHASES[text_of(c.phase) or ''] and counted(c, COUNTS)) then return nil end
  local gen, deadline = number_of(c.gen), number_of(c.deadline)
  if not (gen and gen >= 1 and deadline) then return nil end
  c.gen, c.deadline, c.started = whole(gen), whole(deadline), whole(number_of(c.started) or 0)
  local step, step_at = number_of(c.step), number_of(c.step_at)
  c.share, c.step, c.step_at = number_of(c.share), step and whole(step), step_at and whole(step_at)
  local is_whole = c.canary and c.step and c.step_at and c.share and c.share > 0 and c.share < ALL
  if c.phase == 'canary' and not is_whole then return nil end
  return c
end

local function sane_watch(w)
  local gen = type(w) == 'table' and number_of(w.gen)
  if not (gen and number_of(w.deadline) and number_of(w.length) and text_of(w.policy)) then return nil end
  return {
    gen = whole(gen), deadline = whole(number_of(w.deadline)), length = whole(number_of(w.length)),
    policy = w.policy, base = text_of(w.base),
  }
end

-- A pin stays one, whoever made it: proposals would be let in that nobody wanted.
local function sane_pin(pin)
  if type(pin) ~= 'table' then return nil end
  return {by = text_of(pin.by) or '?', why = text_of(pin.why), at = whole(number_of(pin.at) or 0), gen = text_of(pin.gen)}
end

local function sane_rows(rows, is_sane)
  if type(rows) ~= 'table' then return nil end
  for key, row in pairs(rows) do
    if not (type(key) == 'string' and type(row) == 'table' and is_sane(key, row)) then rows[key] = nil end
  end
  return rows
end

local function is_poisoned(_, row)
  row.why, row.by = text_of(row.why) or '', text_of(row.by)
  return true
end

local function is_committed(gen, row)
  local number = number_of(gen)
  row.poison = text_of(row.poison)
  return number and gen == whole(number) and text_of(row.version)
end

-- A record that every transition can work on: what is not of its form is left out, and heals or is proposed again.
local function sane(record)
  local following = record and number_of(record.next)
  if not following then return nil end
  record.rev = whole(number_of(record.rev) or 0)
  record.active, record.cand, record.waits = sane_active(record.active), sane_candidate(record.cand), sane_proposal(record.waits)
  record.pin, record.requests, record.watch = sane_pin(record.pin), text_of(record.requests), sane_watch(record.watch)
  if record.watch and not (record.active and record.active.gen == record.watch.gen) then record.watch = nil end
  record.poison, record.committed = sane_rows(record.poison, is_poisoned), sane_rows(record.committed, is_committed)
  for _, place in ipairs({'active', 'cand'}) do
    if record[place] then following = math.max(following, tonumber(record[place].gen) + 1) end
  end
  record.next = whole(math.max(following, 1))
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
  -- The counter was set back by somebody: a revision that was applied already would be passed over (R3).
  set('revision', math.max(fleet.revision, tonumber(records[name].rev)))
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

local function beat_of(id) return id ~= '@' and redis.call('HGET', members_key, id) or nil end

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
    if counter then names[word] = true else counter = number_of(word) or 0 end
  end
  return counter or 0, names
end

-- Members only: a list whose member was lost has no beat that anybody could watch, and would be waited for in vain every time.
local function holders_of(name)
  local found, all = {}, redis.call('HGETALL', holds_key)
  local inside = ' ' .. name .. ' '
  local seen, members = {}, {}
  for _, id in ipairs(redis.call('HKEYS', members_key)) do members[id] = id ~= '@' end
  for i = 1, #all, 2 do seen[all[i]] = all[i + 1] end
  for id, text in pairs(lists) do seen[id] = text end
  for id, text in pairs(seen) do
    if members[id] and text and (text .. ' '):find(inside, 1, true) then found[#found + 1] = id end
  end
  table.sort(found)
  return found
end

-- Entries of a candidate ------------------------------------------------------------------------------------------

local entries = {} -- what this operation has changed: field → text, or false for removed
local STATES = {awaited = true, late = true, ready = true, failed = true, fenced = true, bad = true, refused = true, done = true}

local function read_entry(text)
  local state, detail = text:match('^(%a+) ?(.*)$')
  if STATES[state or ''] then return state, detail end
  return nil, nil
end

local function field_of(name, gen, id) return name .. NUL .. gen .. NUL .. id end

local function entry(field)
  local text = entries[field]
  if text == nil then text = redis.call('HGET', waiting_key, field) end
  if not text then return nil, nil end
  return read_entry(text)
end

local function put_entry(field, state, detail)
  entries[field] = state .. ' ' .. (detail or '')
  write('HSET', waiting_key, field, entries[field])
end

local function drop_entry(field)
  entries[field] = false
  write('HDEL', waiting_key, field)
end

local function count(c, state, by)
  if by < 0 and type(c[state]) ~= 'number' then return end -- somebody has put an entry there that no candidate counts
  c[state] = math.max(0, c[state] + by)
end

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
      local state, detail = read_entry(text)
      found[#found + 1] = {field:sub(#prefix + 1), state or 'lost', detail}
    end
  end
  table.sort(found, function(a, b) return (number_of(a[1]) or 0) < (number_of(b[1]) or 0) end)
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
  local answer = parse(redis.call('HGET', generations_key, request_field(name, request)))
  if not (answer and text_of(answer.verdict)) then return nil end
  local found, target, share = number_of(answer.generation), number_of(answer.target), number_of(answer.share)
  return {
    verdict = answer.verdict, state = text_of(answer.state), version = text_of(answer.version), why = text_of(answer.why),
    step = text_of(answer.step), worker = text_of(answer.worker), found = text_of(answer.found), holder = text_of(answer.holder),
    pin = sane_pin(answer.pin), generation = found and whole(found), target = target and whole(target), verb = text_of(answer.verb),
    share = share and whole(share),
  }
end

-- nil, or the reply to a request that is known: what it was answered, or "reused": it is that of another change, `found`, and would hear
-- that something was done which nobody has done. `asked`: what this one names: version, target, generation, share. Answers that an older
-- program wrote do not say all of it.
local function answered(name, request, verb, asked)
  local known = earlier_answer(name, request)
  if not known then return nil end
  local is_other = known.verb and known.verb ~= verb
  for what, wanted in pairs(asked) do is_other = is_other or (known.verb and known[what] and known[what] ~= wanted) end
  if not is_other then return reply(known.verdict, known) end
  return reply('reused', {
    found = known.verb, version = known.version, target = known.target, generation = known.generation, share = known.share,
  })
end

-- `answer.verb`: the operation that the request is of; without it a proposal's, or a rollback's, which has a target.
local function put_answer(name, request, answer)
  answer.verb = answer.verb or verb_of(answer.target)
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
