-- report: what a member has counted of a canary, or of a generation that is watched, since the step began; the reply has what all have.
--
-- ARGV      9 id   10 model   11 generation   12 step of the canary, 0: the generation is active and watched
--           13 JSON: group (active, candidate) → {requests, errors, seconds, scored, score, squares: sums; slow: bucket → requests}
-- Verdicts  ok: states of the model; figures of all members, age (ms since the step began), where that step is still on     unknown: no member
-- Keeps     O(1) whatever the number of members; the same or an older report again counts nothing (R10); grants nothing

local early = guard()
if early then return early end
local id, name, gen, step, detail = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local GROUPS, SUMS = {'active', 'candidate'}, {'requests', 'errors', 'seconds', 'scored', 'score', 'squares'}
local MOST_BUCKETS, MOST_SUM = 200, 1e100 -- squares of large scores are beyond whole numbers; what thousands have of them is still finite

if not beat_of(id) then return reply('unknown') end
local record = model(name)
local c, w = record and record.cand, record and record.watch

-- A group as sums of numbers; what is none counts as 0.
local function group_of(rows, group)
  local row = type(rows) == 'table' and type(rows[group]) == 'table' and rows[group] or {}
  local found, n = {slow = {}}, 0
  for _, field in ipairs(SUMS) do
    local value = row[field]
    found[field] = type(value) == 'number' and math.abs(value) <= MOST_SUM and value or 0
  end
  for bucket, count_ in pairs(type(row.slow) == 'table' and row.slow or {}) do
    n = n + 1
    if type(bucket) == 'string' and number_of(bucket) and number_of(count_) and n <= MOST_BUCKETS then found.slow[bucket] = number_of(count_) end
  end
  return found
end

-- Without empty tables: they would become lists.
local function filled_in(rows)
  for _, group in ipairs(GROUPS) do rows[group].slow = filled(rows[group].slow or {}) end
  return rows
end

-- Nothing of a count ever falls: what falls is an older report that came late.
local function is_fresh(new, old)
  return new.requests >= old.requests and new.errors >= old.errors and new.seconds >= old.seconds and new.scored >= old.scored
end

local function add(sum, new, old)
  for _, field in ipairs(SUMS) do sum[field] = sum[field] + new[field] - old[field] end
  for bucket, n in pairs(new.slow) do sum.slow[bucket] = (sum.slow[bucket] or 0) + n - (old.slow[bucket] or 0) end
end

local function rows_of(text)
  local found, rows = {}, parse(text)
  for _, group in ipairs(GROUPS) do found[group] = group_of(rows, group) end
  return found
end

-- The figures of all members with this report among them.
local function counted()
  local sums = sums_field(name, gen, step)
  local mine = sums .. NUL .. id
  local new, old = rows_of(detail), rows_of(redis.call('HGET', waiting_key, mine))
  local all = rows_of(redis.call('HGET', waiting_key, sums))
  if is_fresh(new.active, old.active) and is_fresh(new.candidate, old.candidate) then
    for _, group in ipairs(GROUPS) do add(all[group], new[group], old[group]) end
    write('HSET', waiting_key, mine, detail, sums, cjson.encode(filled_in(all)))
  end
  return all
end

local is_canary = c and c.phase == 'canary' and c.gen == gen and c.step == step
local is_watched = w and w.gen == gen and step == '0' and not (c and c.phase == 'canary')
local figures, since = nil, nil
if is_canary or is_watched then
  figures, since = counted(), is_canary and c.step_at or record.active.at
  if is_watched then figures.active = rows_of(w.base).active end
end
local found = states({[name] = true}, id)
save()
return reply('ok', {states = found, figures = figures and filled_in(figures), age = since and whole(math.max(0, now_ms() - tonumber(since)))})
