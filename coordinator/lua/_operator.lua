-- What the operators' changes have in common (R10, R11): the request is looked up first, the active generation that the decision was
-- made on is compared. Prepended to abort, pin, promote, rollback and unpin. Verdict of all: reused, see answered().
--
-- ARGV      9 model   10 request id   11 generation that the decision was made on (abort: the candidate's)   12 by   13 why
--           14 generation that somebody named (rollback: where to), 0: whatever is there

local name, request, expected, by, why = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local named = (number_of(ARGV[14]) or 0) > 0 and whole(number_of(ARGV[14])) or nil
local record, verb, asked = nil, nil, nil

local function answer_with(verdict, facts)
  facts.verdict, facts.verb = verdict, verb
  for what, wanted in pairs(asked) do facts[what] = facts[what] or wanted end
  first_answer(name, request, facts)
  save()
  return reply(verdict, facts)
end

-- nil, or the reply with which the change `this` ends: known already, closed, no such model, decided on another state. `wants`: what
-- its request id stands for besides the operation; kept with the answer.
local function refused(this, place, wants)
  verb, asked = this, wants
  local known = answered(name, request, verb, asked)
  if known then return known end
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
