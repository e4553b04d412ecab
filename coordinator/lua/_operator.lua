-- What the operators' changes have in common (R10, R11): the request is looked up first, the active generation that the decision was
-- made on is compared. Prepended to abort, pin, unpin and rollback.
--
-- ARGV      9 model   10 request id   11 generation that the decision was made on (abort: the candidate's)   12 by   13 why

local name, request, expected, by, why = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local record = nil

local function answer_with(verdict, facts)
  facts.verdict = verdict
  first_answer(name, request, facts)
  save()
  return reply(verdict, facts)
end

-- nil, or the reply with which the change ends: known already, closed, no such model, decided on another state.
local function refused(place)
  local known = earlier_answer(name, request)
  if known then return reply(known.verdict, known) end
  if not fleet.open then return reply('closed') end
  record = model(name)
  if not record then return reply('unknown-model') end
  local found = record[place] and record[place].gen or '0'
  if found ~= expected then return answer_with('conflict', {found = found}) end
end

-- What is in work stops, what waits is superseded (rollback, pin).
local function stop_all(reason)
  supersede(name, reason)
  if record.cand then finish(name, 'aborted', {why = reason}) end
end
