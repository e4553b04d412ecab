-- answer: what a worker says of a generation: ready, bad, refused, failed, or fenced. The last one moves the candidate on.
--
-- ARGV      9 id   10 model   11 generation   12 ready | bad | refused | failed | fenced   13 JSON: worker, step, why, seconds
-- Verdicts  ok: states of the model     unknown: no member
-- Keeps     an answer for another generation, or said before, changes nothing; bad rejects at once and poisons (R13);
--           refused (nobody vouches for it) rejects at once and says nothing of the content, which anybody may have proposed

local early = guard()
if early then return early end
local id, name, gen, said, detail = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13]

if not beat_of(id) then return reply('unknown') end
local record = model(name)
local about = facts_of(detail)

local function bad_active(active)
  remember_poison(name, active.poison, about.why, about.worker)
  log('alarm', name, {generation = active.gen, version = active.version, why = about.why, step = about.step, worker = about.worker})
  local back = active.unproven and way_back(name)
  active.unproven = nil
  local request = 'bad-' .. gen
  if back and redis.call('HGET', generations_key, manifest_field(name, back)) then
    first_answer(name, request, {verdict = 'ok', state = 'candidate', target = back})
    go_back(name, back, {request = request, by = 'genlock', why = 'the unproven generation is bad'})
  end
end

local function of_active(active)
  local _, held = list_of(id)
  if not held[name] then return end
  if said == 'ready' and active.unproven then
    active.unproven = nil
    touch(name)
  elseif said == 'bad' and not (record.poison and record.poison[active.poison or '']) then
    bad_active(active)
  end
end

local function of_candidate(c)
  local field = field_of(name, gen, id)
  local before = entry(field)
  if not before or before == said then return end
  if said == 'bad' or said == 'refused' then
    if said == 'bad' then remember_poison(name, c.poison, about.why, about.worker) end
    put_entry(field, said, detail)
    reject(name, about)
  elseif said == 'fenced' then
    if c.phase == 'fencing' then move_entry(c, field, before, 'fenced', detail) end
  elseif c.phase ~= 'fencing' and (said == 'ready' or before == 'awaited') then
    move_entry(c, field, before, said, detail)
  end
  touch(name)
  progress(name)
end

take_beat()
if record and record.cand and record.cand.gen == gen then
  of_candidate(record.cand)
elseif record and record.active and record.active.gen == gen then
  of_active(record.active)
end
local found = states({[name] = true}, id)
save()
return reply('ok', {states = found})
