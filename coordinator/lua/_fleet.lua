-- What every operation begins with: the keys, the caller, the epoch, a buffer of writes and the reply.
--
-- Prepended to each operation (with _model.lua, _candidate.lua, _state.lua); nothing here is run by itself.
--
-- KEYS   1 fleet (hash)   2 members (hash)   3 holds (hash)   4 models (hash)   5 waiting (hash)   6 generations (hash)
--        7 log (stream)   8 workers (hash)   9 lock (string), only where an operation says so
-- ARGV   1 fleet id   2 epoch number that the caller knows, 0: none   3 its nonce   4 a fresh nonce   5 lease, ms
--        6 "1" if the store says that this fleet never had a member   7 hint channel
--        8 run id of the server, as the caller's connection heard it   9… the operation's own
--
-- Every reply is one JSON object. Always in it: verdict, epoch, nonce, open (0|1), lease (ms), revision. Verdicts from here:
--   epoch     the caller's epoch is not the fleet's: nothing of the operation was done (R6)
--   foreign   the fleet in this Redis has another id (`found`)          schema   it has a newer schema (`found`)
--
-- Kept true (R15): nothing is written before flush(); every key that flush() writes by redis.call was read, and so
-- type-checked, before. The log, the hint and what is for people come last, by pcall.

local fleet_key, members_key, holds_key = KEYS[1], KEYS[2], KEYS[3]
local models_key, waiting_key, generations_key = KEYS[4], KEYS[5], KEYS[6]
local log_key, workers_key = KEYS[7], KEYS[8]
local STAMPED = {members_key, holds_key, models_key, waiting_key, generations_key}

local caller = {
  id = ARGV[1], epoch = tonumber(ARGV[2]), nonce = ARGV[3], fresh = ARGV[4],
  lease = tonumber(ARGV[5]), virgin = ARGV[6] == '1', hint = ARGV[7], run = ARGV[8],
}

local SCHEMA = 1
local PIECE = 4000       -- values of one multi-value write: unpack() has a limit of some 8,000
local LOG_LENGTH = 10000 -- entries of the audit log that are kept
local NUL = '\0'

-- Whole numbers up to 2^53 as text: Lua's own conversion, and cjson's, round them to 14 digits.
local function whole(n) return string.format('%.0f', n) end

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function filled(t) if next(t) ~= nil then return t end end -- an empty table would become [] or {}: leave it out

-- What is read back --------------------------------------------------------------------------------------------------
-- Anybody may have written it. What is not of its form counts as lost (R6, R7); no script may end in an error of Lua for it, because
-- that would be every script, for as long as it stands there.

local MOST = 2^53 -- above it Lua leaves out numbers
local DEPTH = 16  -- tables in tables; cjson writes at most 1,000

-- The whole number from 0 to MOST that a value is or says, or nil.
local function number_of(value)
  local n = tonumber(value)
  if n and n >= 0 and n <= MOST and n % 1 == 0 then return n end
end

local function text_of(value) if type(value) == 'string' then return value end end

-- Makes these fields of a row whole numbers; false where one is none.
local function counted(row, fields)
  for _, field in ipairs(fields) do
    row[field] = number_of(row[field])
    if not row[field] then return false end
  end
  return true
end

-- Takes out what cjson reads and cannot write again, or Lua takes for true: null, infinity, depth. A list keeps its length.
local function clean(rows, depth)
  for key, value in pairs(rows) do
    local kind = type(value)
    if kind == 'table' and depth > 1 then
      clean(value, depth - 1)
    elseif not (kind == 'string' or kind == 'boolean' or (kind == 'number' and value - value == 0)) then
      rows[key] = type(key) == 'number' and '' or nil
    end
  end
  return rows
end

local function parse(text)
  if not text then return nil end
  local ok, value = pcall(cjson.decode, text)
  if ok and type(value) == 'table' then return clean(value, DEPTH) end
end

-- The buffer of writes --------------------------------------------------------------------------------------------

local writes, notes = {}, {}
local function write(...) writes[#writes + 1] = {...} end
local function note(...) notes[#notes + 1] = {...} end

-- One command over many values, in pieces: `pairs_` is a flat list, `width` values belong together.
local function write_many(command, key, list, width)
  local step = PIECE - PIECE % width
  for from = 1, #list, step do
    local piece = {command, key}
    for i = from, math.min(from + step - 1, #list) do piece[#piece + 1] = list[i] end
    writes[#writes + 1] = piece
  end
end

-- The fleet's record ----------------------------------------------------------------------------------------------

local fleet = nil -- as read; nil: missing or unusable
local dirty = {}  -- fields to be written back

local FIELDS = {'schema', 'id', 'epoch', 'nonce', 'run', 'open', 'lease', 'revision', 'beat', 'ids', 'deadline', 'longest', 'tasks'}
local NUMBERS = {'epoch', 'lease', 'revision', 'beat', 'ids', 'deadline', 'longest'}
local LEAST_LEASE, MOST_LEASE = 100, 60000 -- ms; settings.py has them too

local function set(field, value)
  fleet[field] = value
  dirty[field] = type(value) == 'number' and whole(value) or value
end

-- The tasks; one that is not of its form is forgotten: who waits for it hears of nobody.
local function tasks_of(text)
  local found = {}
  for tid, task in pairs(parse(text) or {}) do
    local is_task = number_of(tid) and type(task) == 'table' and text_of(task.kind) and text_of(task.model)
    is_task = is_task and number_of(task.deadline) and number_of(task.length) and number_of(task.ended or 0)
    if is_task and counted(task, {'asked', 'awaited', 'done', 'failed'}) then found[tid] = task end
  end
  return found
end

local function read_fleet()
  local row = redis.pcall('HMGET', fleet_key, unpack(FIELDS))
  if row.err then return nil end
  local f = {}
  for i, field in ipairs(FIELDS) do f[field] = row[i] or nil end
  f.schema = number_of(f.schema)
  if f.schema and f.schema > SCHEMA then return f end
  if not counted(f, NUMBERS) or f.lease < LEAST_LEASE or f.lease > MOST_LEASE then return nil end
  if not (f.schema and f.id and f.nonce and (f.open == '0' or f.open == '1')) then return nil end
  f.open = f.open == '1'
  f.tasks = tasks_of(f.tasks)
  return f
end

-- The epoch that a key carries, or nil; an error, a wrong type, a missing field: nil.
local function stamp(key)
  local value = redis.pcall('HGET', key, '@')
  if type(value) == 'string' then return value end
end

local function stamp_of(f) return whole(f.epoch) .. ':' .. f.nonce end

local function log(what, model, facts)
  note('XADD', log_key, 'MAXLEN', '~', LOG_LENGTH, '*', 'what', what, 'model', model or '', 'facts', cjson.encode(facts or {}))
end

-- A change that others must look at: one more revision, and its hint.
local function revise(model)
  set('revision', fleet.revision + 1)
  note('PUBLISH', caller.hint, whole(fleet.epoch) .. ' ' .. whole(fleet.revision) .. ' ' .. (model or ''))
  return fleet.revision
end

local function flush()
  for _, command in ipairs(writes) do redis.call(unpack(command)) end
  local row = {}
  if dirty.tasks then dirty.tasks = cjson.encode(dirty.tasks) end
  if dirty.open ~= nil then dirty.open = dirty.open and '1' or '0' end
  for field, value in pairs(dirty) do row[#row + 1] = field; row[#row + 1] = value end
  if #row > 0 then redis.call('HSET', fleet_key, unpack(row)) end
  for _, command in ipairs(notes) do
    local done = redis.pcall(unpack(command))
    -- What stands there instead is nobody's, and would keep what is told to people away for good.
    if type(done) == 'table' and done.err and tostring(done.err):find('WRONGTYPE', 1, true) then
      redis.pcall('DEL', command[2])
      redis.pcall(unpack(command))
    end
  end
end

local function reply(verdict, more)
  local out = more or {}
  out.verdict = verdict
  if fleet then
    out.epoch, out.nonce, out.open = whole(fleet.epoch), fleet.nonce, fleet.open and 1 or 0
    out.lease, out.revision = whole(fleet.lease), whole(fleet.revision)
    local tasks = {}
    for id, task in pairs(fleet.tasks) do
      if not task.ended then tasks[id] = {kind = task.kind, model = task.model} end
    end
    out.tasks = filled(tasks)
  end
  return cjson.encode(out)
end

-- Epochs (R6) -----------------------------------------------------------------------------------------------------

local function is_hash(key) return redis.call('TYPE', key).ok == 'hash' end

-- The operation that has made a candidate: `back` is the generation that a rollback goes to.
local function verb_of(back) return back and 'rollback' or 'propose' end

-- What was in work when its epoch ended is aborted, and says so to whoever asks for it.
local function abort_old(name, c)
  local facts = {outcome = 'aborted', version = c.version, why = 'a new epoch began', by = c.by, request = c.request}
  if type(c.gen) == 'string' then
    facts.generation = c.gen
    write('HSET', generations_key, name .. NUL .. c.gen .. NUL .. 'o', cjson.encode(facts))
  end
  if type(c.request) == 'string' then
    local answer = {
      verdict = 'ok', state = 'aborted', generation = c.gen, version = c.version, target = c.rollback, why = facts.why, verb = verb_of(c.rollback),
    }
    write('HSET', generations_key, name .. NUL .. 'r' .. NUL .. c.request, cjson.encode(answer))
  end
  log('aborted', name, facts)
end

-- The models hash in a new epoch: active, pins and poison stay.
local function carry_models_over()
  local rows, all = {'@', stamp_of(fleet)}, is_hash(models_key) and redis.call('HGETALL', models_key) or {}
  write('DEL', models_key)
  for i = 1, #all, 2 do
    local record = all[i] ~= '@' and parse(all[i + 1])
    if record and tonumber(record.next) then
      for _, place in ipairs({'cand', 'waits'}) do
        if type(record[place]) == 'table' then abort_old(all[i], record[place]) end
        record[place] = nil
      end
      record.watch = nil -- what it counted is gone
      record.rev = '1'
      rows[#rows + 1] = all[i]
      rows[#rows + 1] = cjson.encode(record)
    end
  end
  write_many('HSET', models_key, rows, 2)
end

-- Data was or may have been lost: a new epoch, closed, without members.
local function start_epoch()
  local old = fleet
  local number = math.max(caller.epoch, old and old.epoch or math.floor(now_ms() / 1000))
  for _, key in ipairs(STAMPED) do
    number = math.max(number, number_of((stamp(key) or ''):match('^(%d+):')) or 0)
  end
  number = number + 1
  fleet = {}
  set('schema', SCHEMA); set('id', caller.id); set('epoch', number); set('nonce', caller.fresh)
  set('run', caller.run); set('open', not old and caller.virgin and caller.epoch == 0)
  set('lease', old and old.lease or caller.lease); set('revision', 1); set('beat', 0); set('ids', 0)
  set('deadline', 0); set('longest', 0); set('tasks', {})
  if not old then write('DEL', fleet_key) end
  for _, key in ipairs({members_key, holds_key, waiting_key}) do
    write('DEL', key)
    write('HSET', key, '@', stamp_of(fleet))
  end
  if not is_hash(generations_key) then write('DEL', generations_key) end
  write('HSET', generations_key, '@', stamp_of(fleet))
  carry_models_over()
  note('DEL', workers_key)
  log('epoch', nil, {epoch = whole(number), open = fleet.open and 1 or 0, lost = old and 'part' or 'all'})
  note('PUBLISH', caller.hint, whole(number) .. ' 1 ')
end

-- Before anything else: nil, or the reply with which the operation ends at once. Only attach compares the server's run id:
-- a connection that is older than a restart cannot have survived it.
local function guard(attaching)
  fleet = read_fleet()
  if fleet and fleet.schema > SCHEMA then
    local found = fleet.schema
    fleet = nil
    return reply('schema', {found = whole(found)})
  end
  if fleet and fleet.id ~= caller.id then
    local found = fleet.id
    fleet = nil
    return reply('foreign', {found = found})
  end
  if fleet then
    if caller.epoch < fleet.epoch and not attaching then return reply('epoch') end
    local lost = caller.epoch > fleet.epoch or (caller.epoch == fleet.epoch and caller.nonce ~= fleet.nonce)
    lost = lost or (attaching and caller.run ~= fleet.run)
    for _, key in ipairs(STAMPED) do lost = lost or stamp(key) ~= stamp_of(fleet) end
    if not lost then
      if caller.epoch == fleet.epoch then return nil end
      return reply('epoch')
    end
  end
  start_epoch()
  flush()
  return reply('epoch')
end

-- Every call that can grant anything takes a number of the beat sequence, so that a demoted server refuses it (R16).
local function take_beat()
  set('beat', fleet.beat + 1)
  return fleet.beat
end
